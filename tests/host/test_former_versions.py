"""Workflows that version 0.1 saved run in today's pack; the toy world's once its pictures are
as large as that has become, to the same pictures as today's workflow."""

import json
from pathlib import Path
from typing import Any

import pytest
from story_identity.core.toyworld.sizes import TOY_WORLD

from .comfyui import ComfyUI
from .server import Host, RunError
from .test_workflows_run import SMALL, nodes_of, pixels, saved, saved_by_hand
from .write_api_twins import TWINS

pytestmark = pytest.mark.slow

FILES = Path(__file__).parents[1] / "files" / "version_0_1"
FORMER = FILES / "toyworld_quickstart_api.json"
FINDING = ("StoryIdentityCharacterPortraits", "StoryIdentityIdentityDiscovery")
TODAY = {
    "EmptyLatentImage": {"width": TOY_WORLD.picture_side, "height": TOY_WORLD.picture_side},
    "StoryIdentityCharacterPortraits": {"count": 8, "batch_size": 8, "steps": 4},
    "StoryIdentityIdentityDiscovery": {"rank": 2, "iterations": 2},
}
"""Pictures as large as the toy world's have become, and few portraits."""


def todays(former: dict[str, Any]) -> dict[str, Any]:
    """Today's quickstart with the story, the seeds and the identities of the former one.

    Find Identity has seeds of its own for everybody, and Each Frame gives a frame a seed by its words, so that both are
    set as they were.
    """
    graph = json.loads((TWINS / "toyworld_quickstart.json").read_text(encoding="utf-8"))
    names = ("Story", "Characters", "EachFrame", "FindIdentity", "StoryCast", "ToyWorldLoader")
    key = {name: nodes_of(graph, f"StoryIdentity{name}")[0] for name in names}
    same = {nodes_of(former, f"StoryIdentity{name}")[0]: key[name] for name in ("ToyWorldLoader", "Story")}
    graph[key["Story"]] = former[nodes_of(former, "StoryIdentityStory")[0]]
    graph[key["EachFrame"]]["inputs"] |= {"seeds": "by number", "seed": 1}
    for old, node in former.items():
        if node["class_type"] in FINDING:
            inputs = {
                name: [same.get(value[0], f"former {value[0]}"), value[1]] if isinstance(value, list) else value
                for name, value in node["inputs"].items()
            }
            graph[f"former {old}"] = {**node, "inputs": inputs}
    found = [f"former {each}" for each in nodes_of(former, FINDING[1])]
    listed = {f"inputs.input{number}": [each, 0] for number, each in enumerate(found)}
    graph["everybody"] = {"class_type": "CreateList", "inputs": listed}
    graph[key["StoryCast"]]["inputs"]["identities"] = ["everybody", 0]
    del graph[key["FindIdentity"]], graph[key["Characters"]]
    return graph


def test_a_workflow_of_version_0_1_draws_what_todays_draws(comfyui: ComfyUI, tmp_path: Path):
    former = json.loads(FORMER.read_text(encoding="utf-8"))
    with Host(comfyui, tmp_path) as server:
        with pytest.raises(RunError, match="Nobody is found .* 64 x 64 pixels: .* Set width and height to 128"):
            server.run(json.loads(FORMER.read_text(encoding="utf-8")))
        for node in former.values():
            node["inputs"] |= TODAY.get(node["class_type"], {})
        before = saved_by_hand(server, former)
        drawn = [[pixels(path) for path in before[name]] for name in ("StoryIdentity/frame", "templates")]
        now = saved(server, todays(former))
    assert len(drawn[0]) == 4
    assert [[pixels(path) for path in now[name]] for name in ("frames", "templates")] == drawn


def test_a_workflow_of_version_0_1_with_one_node_for_each_step_runs(host: Host):
    """Two characters by hand, with SDXL: portraits, discovery, conditioning and cast are nodes of their own."""
    graph = json.loads((FILES / "identitystory_sdxl_two_characters_api.json").read_text(encoding="utf-8"))
    for node in graph.values():
        node["inputs"] |= SMALL.get(node["class_type"], {})
    (frames,) = nodes_of(graph, "StoryIdentityStoryFrames")
    graph[frames]["inputs"]["frames"] = "1"
    pictures = saved_by_hand(host, graph)
    expected = dict.fromkeys(("StoryIdentity/frame", "StoryIdentity/sheet", "templates"), 1)
    assert {name: len(paths) for name, paths in pictures.items()} == expected
    assert pixels(pictures["StoryIdentity/frame"][0]) != pixels(pictures["templates"][0])
