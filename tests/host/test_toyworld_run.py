"""The toy world's workflows in a real ComfyUI, just as they are shipped, from the prompt to saved PNGs."""

import json
import re
from typing import Any

import pytest
from PIL import Image
from story_identity.core.toyworld.sizes import TOY_WORLD

from .comfyui import ComfyUI
from .server import Host, RunError
from .test_workflows_run import nodes_of, pixels, saved, workflow
from .write_api_twins import TWINS


@pytest.fixture(scope="module")
def bare(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server that has this pack and not one model file."""
    with Host(comfyui, tmp_path_factory.mktemp("bare")) as server:
        yield server


def shipped(name: str = "toyworld_quickstart") -> dict[str, Any]:
    return json.loads((TWINS / f"{name}.json").read_text(encoding="utf-8"))


def test_it_runs_without_any_model_file_to_the_same_bytes_each_time(bare):
    """The second time the identities are read from their files, and every frame is drawn again."""
    pictures = saved(bare, shipped())
    assert {name: len(paths) for name, paths in pictures.items()} == {"frames": 4, "sheet": 1, "templates": 4}
    for frame, template in zip(pictures["frames"], pictures["templates"], strict=True):
        with Image.open(frame) as image:
            assert (image.format, *image.size) == ("PNG", TOY_WORLD.picture_side, TOY_WORLD.picture_side)
        assert pixels(frame) != pixels(template)
    first = [pixels(path) for paths in pictures.values() for path in paths]
    assert len(set(first)) == 9
    bare.forget()
    graph = shipped()
    (collect,) = nodes_of(graph, "StoryIdentityCollectFrames")
    graph[collect]["inputs"]["keep"] = "nothing"
    again = saved(bare, graph)
    assert [pixels(path) for paths in again.values() for path in paths] == first


def test_score_story_takes_the_quickstarts_frames(bare):
    """After the test above only the scores are new; the host has the rest."""
    graph = shipped()
    collect, story, loader = (
        nodes_of(graph, f"StoryIdentity{name}")[0] for name in ("CollectFrames", "Story", "ToyWorldLoader")
    )
    inputs = {"images": [collect, 1], "story": [story, 0], "recogniser": [loader, 8], "layouts": [collect, 3]}
    graph["score"] = {"class_type": "StoryIdentityScoreStory", "inputs": inputs}
    graph["text"] = {"class_type": "PreviewAny", "inputs": {"source": ["score", 0]}}
    outputs = bare.run(graph)
    (report,) = outputs["text"]["text"]
    assert report.startswith("Face-Sim ")
    assert len(re.findall(r"^\w+: found \d of \d faces$", report, re.MULTILINE)) == 3
    (plot,) = bare.files(outputs["score"])
    with Image.open(plot.path) as image:
        assert min(image.size) > 100


def in_three_ways(bare: Host, graph: dict[str, Any]) -> list[list[bytes]]:
    """The frames each by itself, together, and together with one face, as they come to the sheet."""
    (batched,) = nodes_of(graph, "BatchImagesNode")
    ways = [graph[batched]["inputs"][f"images.image{number}"] for number in range(3)]
    shown = {f"way {number}": way for number, way in enumerate(ways)}
    graph |= {name: {"class_type": "PreviewImage", "inputs": {"images": way}} for name, way in shown.items()}
    outputs = bare.run(graph)
    return [[pixels(each.path) for each in bare.files(outputs[name])] for name in shown]


def with_value(class_type: str, **values: Any) -> dict[str, Any]:
    graph = shipped("toyworld_storynizor")
    (key,) = nodes_of(graph, class_type)
    graph[key]["inputs"].update(values)
    return graph


def test_frames_are_drawn_by_themselves_together_and_with_one_face(bare):
    graph = shipped("toyworld_storynizor")
    outputs = bare.run(graph)
    (kept,), (masks,) = nodes_of(graph, "SaveImage"), nodes_of(graph, "StoryIdentityPreviewAttentionMasks")
    assert len(bare.files(outputs[masks])) == 4
    ways = in_three_ways(bare, graph)
    assert [len(frames) for frames in ways] == [4, 4, 4]
    assert len({frame for frames in ways for frame in frames}) == 12
    assert [pixels(each.path) for each in bare.files(outputs[kept])] == ways[2]
    columns = {graph[key]["inputs"]["columns"]: key for key in nodes_of(graph, "StoryIdentityStorySheet")}
    sizes = {1: (288, 288), 4: (4 * 272 + 16, 3 * 272 + 16)}  # the portrait, and three rows of frames
    for count, size in sizes.items():
        with Image.open(bare.files(outputs[columns[count]])[0].path) as image:
            assert image.size == size


def test_the_portrait_changes_the_last_row_and_no_other(bare):
    before = in_three_ways(bare, shipped("toyworld_storynizor"))
    after = in_three_ways(bare, with_value("StoryIdentityCharacterPortraits", seed=12))
    assert after[:2] == before[:2]
    assert all(one != other for one, other in zip(after[2], before[2], strict=True))


def test_a_face_at_weight_0_leaves_the_frames_as_they_are_together(bare):
    _, together, with_face = in_three_ways(bare, with_value("StoryIdentityShuffledIDInjector", weight=0.0))
    assert with_face == together


def test_its_loader_does_not_fit_a_workflow_of_another_family(host):
    graph = workflow("identitystory_sdxl")
    graph["toy"] = {"class_type": "StoryIdentityToyWorldLoader", "inputs": {}}
    (loader,) = nodes_of(graph, "StoryIdentityPhotoMakerLoader")
    graph[loader]["inputs"]["model"] = ["toy", 0]
    with pytest.raises(RunError, match=f"are 2048 wide.* ToyWorld model reads {TOY_WORLD.text_width}"):
        host.run(graph)
