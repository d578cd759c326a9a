"""The workflows in which frames see each other, in a real ComfyUI with stand-in weights, from the prompt to PNGs."""

from pathlib import Path
from typing import Any

import pytest

from .server import Host
from .test_workflows_run import nodes_of, pixels
from .test_workflows_run import workflow as one_by_one

SIDE = {"width": 64, "height": 64}  # four frames at once
FRAMES, SHEET, MASKS = "StoryIdentity/frame", "StoryIdentity/sheet", "masks"
EXAMPLE = "StoryIdentityExamplePicture"
OWN_PICTURE = {"class_type": "LoadImage", "inputs": {"image": "two_people.png"}}


def workflow(name: str) -> dict[str, Any]:
    graph = one_by_one(name)
    (empty,) = nodes_of(graph, "EmptyLatentImage")
    graph[empty]["inputs"].update(SIDE)
    return graph


def pictures(host: Host, graph: dict[str, Any]) -> dict[str, list[Path]]:
    """Run, and give what Save Image saved, by prefix, the sheet if there is one, and the attention masks shown."""
    outputs = host.run(graph, timeout_s=600)
    shown = {graph[key]["inputs"]["filename_prefix"]: key for key in nodes_of(graph, "SaveImage")}
    for key in nodes_of(graph, "StoryIdentityPreviewAttentionMasks"):
        shown[MASKS] = key
    for key in nodes_of(graph, "StoryIdentityStorySheet"):
        shown[SHEET] = key
    return {name: [file.path for file in host.files(outputs[key])] for name, key in shown.items()}


def frames(host: Host, graph: dict[str, Any]) -> list[bytes]:
    return [pixels(path) for path in pictures(host, graph)[FRAMES]]


def with_values(name: str, class_type: str, **values: Any) -> dict[str, Any]:
    """A workflow, made small, with other values in one of its nodes."""
    graph = workflow(name)
    (key,) = nodes_of(graph, class_type)
    graph[key]["inputs"].update(values)
    return graph


def without_amsa(name: str) -> dict[str, Any]:
    graph = workflow(name)
    (amsa,) = nodes_of(graph, "StoryIdentityAMSA")
    model = graph.pop(amsa)["inputs"]["model"]
    for each in graph.values():
        each["inputs"] |= {socket: model for socket, link in each["inputs"].items() if link == [amsa, 0]}
    return graph


@pytest.mark.parametrize("name", ["storynizor_sd15", "storynizor_sd15_reference", "storynizor_sdxl"])
def test_four_frames_and_their_sheet_are_saved(host, name):
    saved = pictures(host, workflow(name))
    assert {prefix: len(paths) for prefix, paths in saved.items()} == {FRAMES: 4, SHEET: 1, MASKS: 4}
    assert (host.output_dir / f"{SHEET}.png").is_file()
    for paths in saved.values():
        assert len({pixels(path) for path in paths}) == len(paths)
        assert all(path.suffix == ".png" for path in paths)


def test_amsa_changes_every_frame_and_at_strength_0_none(host):
    name = "storynizor_sd15"
    plain = frames(host, without_amsa(name))
    assert frames(host, with_values(name, "StoryIdentityAMSA", strength=0.0)) == plain
    shared = frames(host, workflow(name))
    assert all(one != other for one, other in zip(shared, plain, strict=True))


def test_references_at_weight_0_are_the_workflow_without_them(host):
    plain = frames(host, workflow("storynizor_sd15"))
    name, node = "storynizor_sd15_reference", "StoryIdentityShuffledIDInjector"
    assert frames(host, with_values(name, node, weight=0.0)) == plain
    assert all(one != other for one, other in zip(frames(host, workflow(name)), plain, strict=True))


def test_of_two_faces_each_acts_where_its_character_is(host):
    name = "storynizor_sd15_reference_two_characters"
    saved = pictures(host, workflow(name))
    assert {prefix: len(paths) for prefix, paths in saved.items()} == {FRAMES: 4, SHEET: 1}
    graph = without_amsa(name)
    before = frames(host, graph)
    assert len(set(before)) == 4
    of_otto = [key for key in nodes_of(graph, EXAMPLE) if graph[key]["inputs"]["picture"].startswith("man")]
    assert len(of_otto) == 3
    for key in of_otto:
        graph[key] = OWN_PICTURE
    changed = [one != other for one, other in zip(frames(host, graph), before, strict=True)]
    assert not changed[1]  # Nora alone
    assert any(changed)  # the stand-in segmenter finds nobody now and then


def test_another_picture_changes_the_frames_that_see_it(host):
    graph = without_amsa("storynizor_sd15_reference")
    before = frames(host, graph)
    graph[nodes_of(graph, EXAMPLE)[1]] = OWN_PICTURE
    changed = [one != other for one, other in zip(frames(host, graph), before, strict=True)]
    assert 1 <= sum(changed) <= 2  # three pictures for four frames
