"""The shipped workflows as files: every link fits, nothing overlaps, the paper's values; generated files are fresh."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from story_identity.lab.workflows.__main__ import generated

ROOT = Path(__file__).absolute().parents[1]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
MODELS = {
    (file["name"], file["folder"]): file for file in json.loads((ROOT / "models.json").read_text("utf-8"))["files"]
}
TITLE = 30  # a node's title is drawn above its position
PAPER = {
    "FreeU": {"b1": 1.1, "b2": 1.2, "s1": 0.6, "s2": 0.4},
    "StoryIdentityFindIdentity": {
        **{"count": 64, "steps": 50, "cfg": 5.0, "sampler_name": "euler"},
        **{"rank": 10, "keep_ratio": 0.6, "iterations": 3},
    },
    "StoryIdentityNoisyLatentCache": {"steps": 50, "cfg": 7.0, "sampler_name": "euler", "keep_from_step": 10},
    "StoryIdentityGroundedSAMLayout": {"box_threshold": 0.3, "text_threshold": 0.25, "dilate_px": 10},
    "StoryIdentityRedenoise": {"start": 10, "max_kernel": 50, "cfg": 7.0, "mask_edge": "hard"},
    "KSampler": {"steps": 30, "cfg": 7.0, "sampler_name": "ddim", "denoise": 1.0},
    "StoryIdentityAMSA": {"strength": 1.0, "layers": "all", "start_percent": 0.0, "end_percent": 1.0},
    "StoryIdentityShuffledIDInjector": {"mode": "shuffled", "weight": 1.0, "start_percent": 0.0, "end_percent": 1.0},
}
TOY = {
    "StoryIdentityCharacterPortraits": {"sampler_name": "euler"},
    "StoryIdentityFindIdentity": {"count": 64, "rank": 10, "keep_ratio": 0.6, "iterations": 3},
    "StoryIdentityNoisyLatentCache": {"steps": 25, "sampler_name": "euler", "keep_from_step": 5},
    "StoryIdentityGroundedSAMLayout": {"box_threshold": 0.0, "text_threshold": 0.0, "dilate_px": 1},
    "StoryIdentityRedenoise": {"start": 5, "max_kernel": 50, "mask_edge": "hard"},
    "KSampler": {"steps": 25, "seed": 1},
    "StoryIdentityAMSA": PAPER["StoryIdentityAMSA"],
    "StoryIdentityShuffledIDInjector": PAPER["StoryIdentityShuffledIDInjector"],
}
"""The paper's shares of fewer steps and of smaller pictures; the detector's best candidate, whatever its score."""


def of_model(steps: int, cfg: float, portraits: int = 64, frame_steps: int | None = None) -> dict[str, dict[str, Any]]:
    """The paper's shares of the steps, which are those that the model's publisher names, as the guidance scale is."""
    sampled = {"steps": steps, "cfg": cfg, "sampler_name": "euler", "scheduler": "simple"}
    kept = {"steps": frame_steps or steps, "keep_from_step": 0.2, "keep_attention_maps": True}
    return {
        "StoryIdentityFindIdentity": {**PAPER["StoryIdentityFindIdentity"], **sampled, "count": portraits},
        "StoryIdentityNoisyLatentCache": {**sampled, **kept},
        "StoryIdentityRedenoise": {"start": 0.2, "max_kernel": 50, "cfg": cfg, "mask_edge": "hard"},
        "StoryIdentityAMSA": PAPER["StoryIdentityAMSA"],
        "KSampler": sampled,
    }


TRANSFORMERS = {
    "identitystory_flux2_klein": of_model(4, 1.0),
    "identitystory_qwen_edit": of_model(20, 2.5, portraits=16),
    "identitystory_z_image_to_kontext": of_model(8, 1.0, frame_steps=20),
    "storynizor_qwen_image": of_model(20, 2.5),
    "storynizor_z_image": of_model(8, 1.0),
}

FEW = {"steps": 8, "cfg": 1.0, "sampler_name": "euler", "scheduler": "sgm_uniform"}
EIGHT_STEPS = {
    "StoryIdentityFindIdentity": {**PAPER["StoryIdentityFindIdentity"], **FEW},
    "StoryIdentityNoisyLatentCache": {**FEW, "keep_from_step": 0.2},
    "StoryIdentityRedenoise": {"start": 0.2, "cfg": 1.0, "max_kernel": 50, "mask_edge": "hard"},
    "LoraLoaderModelOnly": {"strength_model": 1.0},
}
"""As the LoRA's publisher says: 8 steps without guidance, with noise levels that end at the last step's."""
workflows = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def all_nodes(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """Its nodes, with those of its subgraphs in place of the nodes that stand for these."""
    subgraphs = {each["id"]: each["nodes"] for each in subgraphs_of(workflow)}
    return [inner for node in workflow["nodes"] for inner in subgraphs.get(node["type"], [node])]


def subgraphs_of(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return workflow.get("definitions", {}).get("subgraphs", [])


def values(node: dict[str, Any]) -> dict[str, Any]:
    """Widget values by name; a seed is followed by what happens to it after a run."""
    left = list(node["widgets_values"])
    found = {}
    for each in node["inputs"]:
        if "widget" in each:
            found[each["name"]] = left.pop(0)
            if each["name"] == "seed":
                assert left.pop(0) == "fixed"
    assert not left or node["type"] == "MarkdownNote"
    return found


GENERATED = generated()


def test_every_workflow_and_no_other_is_generated():
    assert sorted(path for path in GENERATED if path.suffix == ".json") == sorted([*WORKFLOWS, *BLUEPRINTS])


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.name)
def test_a_file_is_what_the_generator_writes(path):
    assert path.read_text(encoding="utf-8") == GENERATED[path], "run python -m story_identity.lab.workflows"


@workflows
def test_every_one_has_a_picture(path):
    assert path.with_suffix(".jpg").read_bytes().startswith(b"\xff\xd8\xff")


@workflows
def test_links_agree_at_both_ends(path):
    workflow = load(path)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert len(nodes) == len(workflow["nodes"])
    ids = [node["id"] for part in (workflow, *subgraphs_of(workflow)) for node in part["nodes"]]
    assert sorted(ids) == list(range(1, workflow["last_node_id"] + 1))
    assert [link[0] for link in workflow["links"]] == list(range(1, workflow["last_link_id"] + 1))
    for link_id, start, output, end, slot, kind in workflow["links"]:
        assert nodes[start]["order"] < nodes[end]["order"]
        assert link_id in nodes[start]["outputs"][output]["links"]
        assert nodes[start]["outputs"][output]["type"] == kind
        assert nodes[end]["inputs"][slot]["link"] == link_id
        assert "*" in (kind, nodes[end]["inputs"][slot]["type"]) or kind in nodes[end]["inputs"][slot]["type"].split(
            ","
        )
    tied = [each["link"] for node in nodes.values() for each in node["inputs"] if each["link"] is not None]
    left = [link for node in nodes.values() for each in node["outputs"] for link in each["links"] or []]
    assert sorted(tied) == sorted(left) == [link[0] for link in workflow["links"]]


@pytest.mark.parametrize("path", [*WORKFLOWS, *BLUEPRINTS], ids=lambda path: path.stem)
def test_links_in_a_subgraph_agree_with_its_nodes_its_ends_and_the_node_that_stands_for_it(path):
    workflow = load(path)
    for inner in subgraphs_of(workflow):
        (outer,) = (node for node in workflow["nodes"] if node["type"] == inner["id"])
        assert outer["title"] == inner["name"]
        assert inner["description"]
        for side in ("inputs", "outputs"):
            ends = [(each["name"], each["type"]) for each in inner[side]]
            assert [(each["name"], each["type"]) for each in outer[side]] == ends
        nodes = {node["id"]: node for node in inner["nodes"]}
        nodes |= {
            -10: {"outputs": [{"type": each["type"], "links": each["linkIds"]} for each in inner["inputs"]]},
            -20: {"inputs": [{"type": each["type"], "link": each["linkIds"][0]} for each in inner["outputs"]]},
        }
        for link in inner["links"]:
            start = nodes[link["origin_id"]]["outputs"][link["origin_slot"]]
            end = nodes[link["target_id"]]["inputs"][link["target_slot"]]
            assert link["id"] in start["links"]
            assert link["id"] == end["link"]
            assert link["type"] == start["type"]
            assert "*" in (start["type"], end["type"]) or set(start["type"].split(",")) & set(end["type"].split(","))
        assert sorted(link["id"] for link in inner["links"]) == list(range(1, inner["state"]["lastLinkId"] + 1))
        for key, widget in outer["properties"]["proxyWidgets"]:
            assert widget in values(nodes[int(key)])


SEARCHED = ("consistent character", "same person", "character sheet", "story", "comic")


def test_three_blueprints_are_found_by_what_they_are_for():
    """The editor's search sees the first 30 characters of the name that a subgraph is listed by, and nothing else."""
    for path in BLUEPRINTS:
        stored = load(path)
        ((inner,), (outer,)) = stored["definitions"]["subgraphs"], stored["nodes"]
        assert inner["name"] == outer["title"] == path.stem.split(" (")[0]
        assert stored["extra"]["BlueprintDescription"] == inner["description"]
        assert set(SEARCHED) == set(stored["extra"]["BlueprintSearchAliases"])
    assert [path.stem.split(" (")[0] for path in BLUEPRINTS] == [
        "Consistent story",
        "Draw frames together",
        "Find identities",
    ]
    for words in SEARCHED:
        places = ([path.stem.lower().find(word) for word in words.split()] for path in BLUEPRINTS)
        assert any(0 <= min(each) and max(each) <= 30 for each in places), words


@workflows
def test_a_window_of_1600_by_1000_shows_it_whole_with_at_most_12_nodes(path):
    """The editor's bars take 50 pixels on the left and below, and 100 above; below a zoom of 0.6 it draws no texts."""
    workflow = load(path)
    assert len(workflow["nodes"]) <= 12
    scale, (left, top) = workflow["extra"]["ds"]["scale"], workflow["extra"]["ds"]["offset"]
    assert scale >= 0.6
    boxes = [(x, y - TITLE, w, h + TITLE) for (x, y), (w, h) in ((n["pos"], n["size"]) for n in workflow["nodes"])]
    boxes += [group["bounding"] for group in workflow["groups"]]
    for x, y, width, height in boxes:
        assert 50 <= scale * (x + left) < scale * (x + left + width) <= 1600
        assert 100 <= scale * (y + top) < scale * (y + top + height) <= 1000 - 10


@workflows
def test_opened_as_a_template_it_still_shows_its_texts(path):
    """The editor then fits it into three quarters of the window; texts of 14 pixels are left out below 8."""
    workflow = load(path)
    corners = [(x, y - TITLE, x + w, y + h) for (x, y), (w, h) in ((n["pos"], n["size"]) for n in workflow["nodes"])]
    corners += [(x, y, x + w, y + h) for x, y, w, h in (group["bounding"] for group in workflow["groups"])]
    left, top, right, bottom = (list(each) for each in zip(*corners, strict=True))
    scale = 0.75 * min(1600 / (max(right) - min(left)), 1000 / (max(bottom) - min(top)))
    assert 14 * scale > 8


@pytest.mark.parametrize("name", ["toyworld_quickstart", "identitystory_sdxl"])
def test_app_mode_shows_what_a_user_writes_the_frames_and_the_sheet(name):
    workflow = load(ROOT / "workflows" / f"{name}.json")
    nodes, extra = {node["id"]: node for node in workflow["nodes"]}, workflow["extra"]
    inputs = [
        (nodes[key]["type"].removeprefix("StoryIdentity"), widget) for key, widget in extra["linearData"]["inputs"]
    ]
    assert inputs[:2] == [("Characters", "characters"), ("Story", "prompts")]
    assert all(widget in values(nodes[key]) for key, widget in extra["linearData"]["inputs"])
    assert [nodes[key]["type"] for key in extra["linearData"]["outputs"]] == [
        "StoryIdentitySaveFrame",
        "StoryIdentityStorySheet",
    ]
    assert favourites(workflow) == [tuple(each) for each in extra["linearData"]["inputs"]]


@workflows
def test_the_text_that_a_user_writes_is_among_the_favourites(path):
    workflow = load(path)
    text = {"characters", "prompts", "style", "negative"}
    written = {each["id"]: each for each in workflow["nodes"] if each["type"].endswith(("IdentityStory", "Characters"))}
    names = [name for key, name in favourites(workflow) if key in written and name in values(written[key])]
    kinds = {node["type"] for node in written.values()}
    assert sorted(names) == sorted(text if "StoryIdentityStory" in kinds else {"characters"})


def favourites(workflow: dict[str, Any]) -> list[tuple[int, str]]:
    told = workflow["extra"]["favoritedWidgets"]["favorites"]
    return [(int(each["nodeLocatorId"]), each["widgetName"]) for each in told]


@workflows
def test_nothing_overlaps_and_groups_hold_their_nodes(path):
    workflow = load(path)
    nodes, *inner = (
        [(x, y - TITLE, w, h + TITLE) for (x, y), (w, h) in ((n["pos"], n["size"]) for n in part["nodes"])]
        for part in (workflow, *subgraphs_of(workflow))
    )
    groups = [group["bounding"] for group in workflow["groups"]]
    for boxes in (nodes, groups, *inner):
        for (x, y, w, h), (x2, y2, w2, h2) in itertools.combinations(boxes, 2):
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y
    outside = [
        (nx, ny, nw, nh)
        for nx, ny, nw, nh in nodes
        if not any(x < nx and y < ny and nx + nw < x + w and ny + nh < y + h for x, y, w, h in groups)
    ]
    assert len(outside) == 1  # the note


@workflows
def test_named_models_are_in_the_manifest_and_chosen(path):
    workflow = load(path)
    named = set()
    for node in all_nodes(workflow):
        models = node["properties"].get("models", [])
        files = [value for value in node["widgets_values"] if str(value).endswith((".safetensors", ".pth", ".bin"))]
        assert [each["name"] for each in models] == files
        for each in models:
            assert MODELS[each["name"], each["directory"]]["url"] == each["url"]
            named.add((each["name"], each["directory"]))
    (note,) = [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    needed = {key for key, file in MODELS.items() if path.name in file["used_by"]}
    assert named <= needed
    assert all(MODELS[key]["url"] in note and MODELS[key]["id"] in note for key in needed)


@workflows
def test_the_values_are_the_papers(path):
    workflow = load(path)
    special = {**TRANSFORMERS, "identitystory_sdxl_8_steps": EIGHT_STEPS}
    expected_values = special.get(path.stem, TOY if path.stem.startswith("toyworld") else PAPER)
    nodes = all_nodes(workflow)
    of_paper = [(node, expected_values[node["type"]]) for node in nodes if node["type"] in expected_values]
    assert len(of_paper) >= (1 if path.stem == "toyworld_each_frame" else 2)
    for node, expected in of_paper:
        assert expected.items() <= values(node).items(), node["type"]


@pytest.mark.parametrize(
    ("name", "side"), [("storynizor_sd15", 512), ("storynizor_sd15_reference", 512), ("storynizor_sdxl", 1024)]
)
def test_four_frames_are_one_batch(name, side):
    nodes = {node["type"]: node for node in all_nodes(load(ROOT / "workflows" / f"{name}.json"))}
    assert len(values(nodes["StoryIdentityStory"])["prompts"].splitlines()) == 4
    empty = nodes["EmptyLatentImage"]
    assert (values(empty)["width"], values(empty)["height"]) == (side, side)
    (counted,) = (each["link"] for each in empty["inputs"] if each["name"] == "batch_size")
    assert nodes["StoryIdentityEncodeStory"]["outputs"][2] == {"name": "frames", "type": "INT", "links": [counted]}


def test_the_toy_world_draws_one_portrait_for_a_face():
    nodes = load(ROOT / "workflows" / "toyworld_storynizor.json")["nodes"]
    drawn = [values(node)["count"] for node in nodes if node["type"] == "StoryIdentityCharacterPortraits"]
    assert drawn == [1]
