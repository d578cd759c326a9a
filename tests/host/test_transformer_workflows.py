"""The workflows for families of diffusion transformers, in a real ComfyUI that loads files in the real files' layouts.

The graph, the nodes, the loaders and the file names are the shipped ones; `shrink_transformers` writes the files, whose
networks are the host's own classes, narrow and with random weights. Only what costs time is made smaller.
"""

import re
from copy import deepcopy
from typing import Any

import pytest

from .server import Host
from .test_workflows_run import nodes_of, pixels, workflow

Graph = dict[str, dict[str, Any]]

FRAMES, WITHOUT = 3, 1
"""How many frames of the story are drawn, and which of them shows nobody, counted from 0."""
SMALLER: dict[str, dict[str, Any]] = {
    "EmptySD3LatentImage": {"width": 128, "height": 128},
    "EmptyFlux2LatentImage": {"width": 128, "height": 128},
    "StoryIdentityFindIdentity": {"count": 5},
    "StoryIdentityReferenceConditioning": {"megapixels": 0.01},
    "StoryIdentityStoryCast": {"megapixels": 0.01},
    "StoryIdentityEachFrame": {"frames": f"1-{FRAMES}"},
    "StoryIdentityRedenoise": {"start": 0.2},
}
IDENTITY = ("identitystory_flux2_klein", "identitystory_qwen_edit", "identitystory_z_image_to_kontext")
TOGETHER = ("storynizor_qwen_image", "storynizor_z_image")


def small(name: str) -> Graph:
    graph = workflow(name)
    for node in graph.values():
        node["inputs"].update(SMALLER.get(node["class_type"], {}))
    return graph


def run(host: Host, graph: Graph) -> dict[str, dict[str, Any]]:
    """Run it; the files must hold every weight of the networks that are loaded, and no other."""
    before = len(host.log())
    outputs = host.run(graph, timeout_s=600)
    assert re.findall(r".*(?:unet|clip|VAE).*(?:missing|unexpected).*|Missing VAE.*", host.log()[before:]) == []
    return outputs


def only(graph: Graph, class_type: str) -> str:
    (key,) = nodes_of(graph, class_type)
    return key


def drawn(host: Host, graph: Graph, place: str) -> tuple[list[bytes], list[bytes]]:
    """The templates' pixels and the finished frames', in the order of the story, saved inside the loop."""
    graph = deepcopy(graph)
    saved, collected = only(graph, "StoryIdentitySaveFrame"), only(graph, "StoryIdentityCollectFrames")
    cache = only(graph, "StoryIdentityNoisyLatentCache")
    (template,) = (key for key in nodes_of(graph, "VAEDecode") if graph[key]["inputs"]["samples"] == [cache, 0])
    graph[saved]["inputs"]["filename_prefix"] = f"{place}/finished"
    inputs = {"images": [template, 0], "filename_prefix": f"{place}/template", "number": 0}
    graph["templates"] = {"class_type": "StoryIdentitySaveFrame", "inputs": inputs}
    graph[collected]["inputs"]["value_2"] = ["templates", 0]
    run(host, graph)
    frames = range(1, FRAMES + 1)
    kinds = (
        [pixels(host.output_dir / place / f"{kind}_{frame:04}.png") for frame in frames]
        for kind in ("template", "finished")
    )
    return next(kinds), next(kinds)


@pytest.mark.parametrize("name", IDENTITY)
def test_every_frame_becomes_a_picture_and_the_identity_is_put_in_where_somebody_is(host: Host, name: str):
    templates, finished = drawn(host, small(name), name)
    assert len(set(finished)) == FRAMES
    assert [one == other for one, other in zip(templates, finished, strict=True)] == [
        frame == WITHOUT for frame in range(FRAMES)
    ]


def test_another_face_changes_the_frames_that_show_it_alone(host: Host):
    graph = small("identitystory_flux2_klein")
    before = drawn(host, graph, "one_face")
    graph[only(graph, "StoryIdentityFindIdentity")]["inputs"]["seed"] = 99
    after = drawn(host, graph, "other_face")
    assert after[0] == before[0]
    assert [one == other for one, other in zip(before[1], after[1], strict=True)] == [
        frame == WITHOUT for frame in range(FRAMES)
    ]


@pytest.mark.parametrize("name", TOGETHER)
def test_all_frames_are_drawn_and_later_ones_see_the_first(host: Host, name: str):
    pictures = {}
    for strength in (1.0, 0.0):
        graph = small(name)
        graph[only(graph, "StoryIdentityAMSA")]["inputs"]["strength"] = strength
        outputs = run(host, graph)
        pictures[strength] = [pixels(file.path) for file in host.files(outputs[only(graph, "SaveImage")])]
    assert len(pictures[1.0]) == len(set(pictures[1.0])) == 4
    assert pictures[1.0] != pictures[0.0]
    assert (
        pictures[1.0][0] == pictures[0.0][0]
    )  # prompts of different lengths: frame by frame, and the first sees nobody
