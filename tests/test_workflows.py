"""The shipped workflows as files: every link fits, nothing overlaps, the paper's values; generated files are fresh."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from story_identity.lab.workflows.__main__ import generated

ROOT = Path(__file__).absolute().parents[1]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
MODELS = {
    (file["name"], file["folder"]): file for file in json.loads((ROOT / "models.json").read_text("utf-8"))["files"]
}
TITLE = 30  # a node's title is drawn above its position
PAPER = {
    "FreeU": {"b1": 1.1, "b2": 1.2, "s1": 0.6, "s2": 0.4},
    "StoryIdentityCharacterPortraits": {"count": 64, "steps": 50, "cfg": 5.0, "sampler_name": "euler"},
    "StoryIdentityIdentityDiscovery": {"rank": 10, "keep_ratio": 0.6, "iterations": 3},
    "StoryIdentityNoisyLatentCache": {"steps": 50, "cfg": 7.0, "sampler_name": "euler", "keep_from_step": 10},
    "StoryIdentityGroundedSAMLayout": {"box_threshold": 0.3, "text_threshold": 0.25, "dilate_px": 10},
    "StoryIdentityRedenoise": {"start": 10, "max_kernel": 50, "cfg": 7.0, "mask_edge": "hard"},
    "KSampler": {"steps": 30, "cfg": 7.0, "sampler_name": "ddim", "denoise": 1.0},
    "StoryIdentityAMSA": {"strength": 1.0, "layers": "all", "start_percent": 0.0, "end_percent": 1.0},
    "StoryIdentityShuffledIDInjector": {"mode": "shuffled", "weight": 1.0, "start_percent": 0.0, "end_percent": 1.0},
}
TOY = {
    "StoryIdentityCharacterPortraits": {"sampler_name": "euler"},
    "StoryIdentityIdentityDiscovery": {"rank": 3, "keep_ratio": 0.6, "iterations": 3},
    "StoryIdentityFindIdentity": {"count": 64, "rank": 3, "keep_ratio": 0.6, "iterations": 3},
    "StoryIdentityNoisyLatentCache": {"steps": 25, "sampler_name": "euler", "keep_from_step": 5},
    "StoryIdentityGroundedSAMLayout": {"box_threshold": 0.0, "text_threshold": 0.0, "dilate_px": 1},
    "StoryIdentityRedenoise": {"start": 5, "max_kernel": 50, "mask_edge": "hard"},
    "KSampler": {"steps": 25, "seed": 1},
    "StoryIdentityAMSA": PAPER["StoryIdentityAMSA"],
    "StoryIdentityShuffledIDInjector": PAPER["StoryIdentityShuffledIDInjector"],
}
"""The paper's shares of fewer steps and of smaller pictures; a rank that fits the toy encoder (docs/evidence.md); the
detector's best candidate, whatever its score."""


def of_model(steps: int, cfg: float, portraits: int = 64, frame_steps: int | None = None) -> dict[str, dict[str, Any]]:
    """The paper's shares of the steps, which are those that the model's publisher names, as the guidance scale is."""
    sampled = {"steps": steps, "cfg": cfg, "sampler_name": "euler", "scheduler": "simple"}
    kept = {"steps": frame_steps or steps, "keep_from_step": 0.2, "keep_attention_maps": True}
    return {
        "StoryIdentityCharacterPortraits": {**sampled, "count": portraits},
        "StoryIdentityIdentityDiscovery": PAPER["StoryIdentityIdentityDiscovery"],
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

workflows = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def all_nodes(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """Its nodes and those of its subgraphs."""
    inside = [node for each in subgraphs(workflow) for node in each["nodes"]]
    return [*workflow["nodes"], *inside]


def subgraphs(workflow: dict[str, Any]) -> list[dict[str, Any]]:
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
    assert sorted(path for path in GENERATED if path.suffix == ".json") == WORKFLOWS


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
    ids = [node["id"] for node in all_nodes(workflow)]
    assert len(set(ids)) == len(ids)
    assert max(ids) == workflow["last_node_id"]
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


@workflows
def test_a_subgraphs_links_agree_at_both_ends_and_its_widgets_are_there(path):
    workflow = load(path)
    for kind in subgraphs(workflow):
        nodes = {node["id"]: node for node in kind["nodes"]}
        (whole,) = [node for node in workflow["nodes"] if node["type"] == kind["id"]]
        for ends, slots in (("inputs", whole["inputs"]), ("outputs", whole["outputs"])):
            assert [(each["name"], each["type"]) for each in kind[ends]] == [(s["name"], s["type"]) for s in slots]
        for link in kind["links"]:
            inward, outward = link["origin_id"] == -10, link["target_id"] == -20
            start = kind["inputs"] if inward else nodes[link["origin_id"]]["outputs"]
            end = kind["outputs"] if outward else nodes[link["target_id"]]["inputs"]
            known = start[link["origin_slot"]]["linkIds" if inward else "links"]
            assert link["id"] in known
            tied = end[link["target_slot"]]
            assert link["id"] in (tied["linkIds"] if outward else [tied["link"]])
            assert start[link["origin_slot"]]["type"] == link["type"]
            assert link["type"] in tied["type"].split(",")
        for number, name in whole["properties"]["proxyWidgets"]:
            assert name in values(nodes[int(number)])
            assert not any(each["link"] for each in nodes[int(number)]["inputs"] if each["name"] == name)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_at_most_a_dozen_nodes_are_seen(name):
    seen = [node for node in load(ROOT / "workflows" / f"{name}.json")["nodes"] if node["type"] != "MarkdownNote"]
    assert len(seen) <= 12


@workflows
def test_nothing_overlaps_and_groups_hold_their_nodes(path):
    workflow = load(path)
    nodes = [(x, y - TITLE, w, h + TITLE) for (x, y), (w, h) in ((n["pos"], n["size"]) for n in workflow["nodes"])]
    groups = [group["bounding"] for group in workflow["groups"]]
    inside = [
        [(x, y - TITLE, w, h + TITLE) for (x, y), (w, h) in ((n["pos"], n["size"]) for n in each["nodes"])]
        for each in subgraphs(workflow)
    ]
    for boxes in (nodes, groups, *inside):
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
    expected_values = TRANSFORMERS.get(path.stem, TOY if path.stem.startswith("toyworld") else PAPER)
    of_paper = [
        (node, expected_values[node["type"]]) for node in all_nodes(workflow) if node["type"] in expected_values
    ]
    assert len(of_paper) >= (1 if path.stem == "toyworld_each_frame" else 2)
    for node, expected in of_paper:
        assert expected.items() <= values(node).items(), node["type"]


@pytest.mark.parametrize(
    ("name", "side"), [("storynizor_sd15", 768), ("storynizor_sd15_reference", 768), ("storynizor_sdxl", 1024)]
)
def test_four_frames_are_one_batch(name, side):
    nodes = {node["type"]: node for node in load(ROOT / "workflows" / f"{name}.json")["nodes"]}
    assert len(values(nodes["StoryIdentityStory"])["prompts"].splitlines()) == 4
    empty = nodes["EmptyLatentImage"]
    assert (values(empty)["width"], values(empty)["height"]) == (side, side)
    (counted,) = (each["link"] for each in empty["inputs"] if each["name"] == "batch_size")
    assert nodes["StoryIdentityEncodeStory"]["outputs"][2] == {"name": "frames", "type": "INT", "links": [counted]}


@pytest.mark.parametrize(("name", "counts"), [("toyworld_quickstart", [64, 64]), ("toyworld_storynizor", [1])])
def test_the_toy_world_draws_as_many_portraits_as_an_identity_or_a_face_needs(name, counts):
    nodes = load(ROOT / "workflows" / f"{name}.json")["nodes"]
    drawn = [values(node)["count"] for node in nodes if node["type"] == "StoryIdentityCharacterPortraits"]
    assert drawn == counts
