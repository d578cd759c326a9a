"""The subgraphs that the pack gives ComfyUI: the host lists them, and a story of two of them runs in the toy world."""

import json
from typing import Any

from story_identity.lab.workflows.blueprints import BLUEPRINTS
from story_identity.lab.workflows.graph import Group, folded_node, graph, node

from .api_form import to_api
from .comfyui import REPOSITORY
from .server import PACK, Host
from .test_workflows_run import SMALL, nodes_of, pixels

SAMPLED = {"steps": 4, "cfg": 4.0, "scheduler": "simple"}
TOY: dict[str, dict[str, Any]] = {
    **SMALL,
    "StoryIdentityFindIdentity": {**SMALL["StoryIdentityFindIdentity"], **SAMPLED},
    "StoryIdentityNoisyLatentCache": {**SAMPLED, "keep_from_step": 1},
    "StoryIdentityGroundedSAMLayout": {"box_threshold": 0.0, "text_threshold": 0.0},
    "KSampler": SAMPLED,
}


def story_of_blueprints() -> dict[str, Any]:
    """A workflow as a user makes it of the three, in API form."""
    named = {each.name: each for each in BLUEPRINTS.values()}
    find, story, together = (named[name] for name in ("Find identities", "Consistent story", "Draw frames together"))
    models = "model=toy.model clip=toy.clip vae=toy.vae"
    generator = "identity_model=toy.identity_model photomaker=toy.photomaker detector=toy.detector"
    prompts = "Mira waving in the garden\nMira sitting on the beach"
    nodes = [
        node("toy", "ToyWorldLoader"),
        folded_node("find", find, f"{models} encoder=toy.photomaker"),
        node("story", "Story", "character_list=find.characters", characters="", prompts=prompts, negative=""),
        folded_node("drawn", story, f"{models} {generator} identities=find.identities story=story.story"),
        folded_node("batch", together, f"{models} story=story.story"),
        node("one_by_one", "PreviewImage", "images=drawn.images", title="one by one"),
        node("as_one", "PreviewImage", "images=batch.images", title="together"),
        node("before", "PreviewImage", "images=drawn.templates", title="templates"),
    ]
    return graph("blueprints", [], [[Group("All", "#888", [[each] for each in nodes])]])


def test_the_host_lists_the_blueprints_with_their_files(host: Host):
    listed = {
        each["name"]: key
        for key, each in host.get("/global_subgraphs").items()
        if each["info"]["node_pack"] == f"custom_nodes.{PACK}"
    }
    assert sorted(f"{name}.json" for name in listed) == sorted(BLUEPRINTS)
    for name, key in listed.items():
        stored = (REPOSITORY / "subgraphs" / f"{name}.json").read_text(encoding="utf-8")
        assert json.loads(host.get(f"/global_subgraphs/{key}")["data"]) == json.loads(stored)


def test_a_story_of_all_three_runs(host: Host):
    prompt = to_api(story_of_blueprints(), host.object_info())
    for each in prompt.values():
        each["inputs"] |= TOY.get(each["class_type"], {})
    (people,) = nodes_of(prompt, "StoryIdentityCharacters")
    prompt[people]["inputs"]["characters"] = "Mira | woman | a woman with red hair"
    outputs = host.run(prompt)
    shown = {
        prompt[key]["_meta"]["title"]: [pixels(file.path) for file in host.files(outputs[key])]
        for key in nodes_of(prompt, "PreviewImage")
    }
    assert {title: len(pictures) for title, pictures in shown.items()} == dict.fromkeys(
        ("one by one", "together", "templates"), 2
    )
    assert len({picture for pictures in shown.values() for picture in pictures}) == 6
