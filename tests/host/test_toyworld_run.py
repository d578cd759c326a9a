"""The toy world's workflows in a real ComfyUI, just as they are shipped, from the prompt to saved PNGs."""

import json
from typing import Any

import pytest
from PIL import Image

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
    pictures = saved(bare, shipped())
    frames, sheet, templates = (pictures[name] for name in ("StoryIdentity/frame", "StoryIdentity/sheet", "templates"))
    assert (len(frames), len(sheet), len(templates)) == (4, 1, 4)
    for frame, template in zip(frames, templates, strict=True):
        with Image.open(frame) as image:
            assert (image.format, image.size) == ("PNG", (64, 64))
        assert pixels(frame) != pixels(template)
    first = [pixels(path) for path in (*frames, *sheet)]
    assert len(set(first)) == 5
    bare.forget()
    again = saved(bare, shipped())
    assert [pixels(path) for name in ("StoryIdentity/frame", "StoryIdentity/sheet") for path in again[name]] == first


def test_frames_that_see_each_other_differ_from_those_that_do_not(bare):
    graph = shipped("toyworld_storynizor")
    outputs = bare.run(graph)
    shown = {graph[key]["inputs"]["filename_prefix"]: key for key in nodes_of(graph, "SaveImage")}
    shared, without = ([pixels(each.path) for each in bare.files(outputs[shown[name]])] for name in sorted(shown))
    assert sorted(shown) == ["StoryIdentity/with", "StoryIdentity/without"]
    assert len(without) == len(shared) == 4
    assert len({*without, *shared}) == 8
    sheets = [bare.files(outputs[key]) for key in nodes_of(graph, "StoryIdentityStorySheet")]
    assert [len(sheet) for sheet in sheets] == [1, 1]
    assert pixels(sheets[0][0].path) != pixels(sheets[1][0].path)
    (masks,) = nodes_of(graph, "StoryIdentityPreviewAttentionMasks")
    assert len(bare.files(outputs[masks])) == 4


def test_its_loader_does_not_fit_a_workflow_of_another_family(host):
    graph = workflow("identitystory_sdxl")
    graph["toy"] = {"class_type": "StoryIdentityToyWorldLoader", "inputs": {}}
    (loader,) = nodes_of(graph, "StoryIdentityPhotoMakerLoader")
    graph[loader]["inputs"]["model"] = ["toy", 0]
    with pytest.raises(RunError, match="made for prompts that are 2048 wide.* ToyWorld model reads 128"):
        host.run(graph)
