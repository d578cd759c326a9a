"""Every shipped workflow, in its API form, in a real ComfyUI with stand-in weights, from the prompt to saved PNGs.

Only what costs time is made smaller (steps, sizes, portraits); the graph, the nodes and the file names are the shipped
ones. The stand-ins draw noise, so nothing is said of the pictures but that they are there and differ.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from .server import Host, RunError

pytestmark = pytest.mark.slow

API = Path(__file__).parent / "api"
SMALL: dict[str, dict[str, Any]] = {
    "EmptyLatentImage": {"width": 128, "height": 128},
    "StoryIdentityCharacterPortraits": {"count": 8, "batch_size": 3, "steps": 2, "width": 64, "height": 64},
    "StoryIdentityIdentityDiscovery": {"rank": 2, "iterations": 2},
    "StoryIdentityFindIdentity": {
        **{"count": 8, "batch_size": 8, "steps": 2, "width": 64, "height": 64},
        **{"rank": 2, "iterations": 2, "reuse": "never"},
    },
    "StoryIdentityNoisyLatentCache": {"steps": 4, "keep_from_step": 1},
    "StoryIdentityRedenoise": {"start": 1},
    "StoryIdentityGroundedSAMLayout": {"box_threshold": 0.0, "text_threshold": 0.0, "on_missing": "skip"},
    "KSampler": {"steps": 2},
    "StoryIdentityCollectFrames": {"keep": "nothing"},
    "StoryIdentityStorySheet": {"cell_width": 96},
}
ONE = {
    "character": "a middle-aged woman with dark curly hair",
    "token": "woman",
    "prompts": [f"A photo of a middle-aged woman with dark curly hair {i} steps from the sea" for i in range(10)],
    "style": "A photo of",
    "settings": [f"{i} steps from the sea" for i in range(10)],
    "settings_types": ["outdoor"] * 10,
}
TWO = {
    "character": ["a young woman with freckles", "an old man with a white beard"],
    "token": ["woman", "man"],
    "style": "A watercolor of",
    "settings": [f"at table {i} of a bakery" for i in range(10)],
    "settings_types": ["indoor"] * 10,
}
STORIES = {
    "identitystory_sdxl": ONE,
    "identitystory_sdxl_two_characters": TWO,
    "identitystory_controlnet_pose": ONE,
}


def workflow(name: str) -> dict[str, Any]:
    """The workflow's API form, made small."""
    graph = json.loads((API / f"{name}.json").read_text(encoding="utf-8"))
    for node in graph.values():
        node["inputs"].update(SMALL.get(node["class_type"], {}))
    return graph


def nodes_of(graph: dict[str, Any], class_type: str) -> list[str]:
    return [key for key, node in graph.items() if node["class_type"] == class_type]


def saved(host: Host, graph: dict[str, Any]) -> dict[str, list[Path]]:
    """Run a story to the sheet, and give the PNGs of its frames, sheet and templates.

    The frames are files in the output folder, the last ones written; templates are shown for the test alone.
    """
    (sheet,) = nodes_of(graph, "StoryIdentityStorySheet")
    (save,) = nodes_of(graph, "StoryIdentitySaveFrame")
    graph["templates"] = {"class_type": "PreviewImage", "inputs": {"images": graph[sheet]["inputs"]["templates"]}}
    folder, name = graph[save]["inputs"]["filename_prefix"].split("/")
    for old in (host.output_dir / folder).glob("*.png"):
        old.unlink()
    outputs = host.run(graph, timeout_s=600)
    frames = sorted((host.output_dir / folder).glob(f"{name}_????.png"))
    written = host.output_dir / f"{graph[sheet]['inputs']['filename_prefix']}.png"
    templates = [file.path for file in host.files(outputs["templates"])]
    return {"frames": frames, "sheet": [written], "templates": templates}


def saved_by_hand(host: Host, graph: dict[str, Any]) -> dict[str, list[Path]]:
    """Run a graph without a loop, and give the PNGs by the prefix of their Save Image node, and its templates."""
    (cache,) = nodes_of(graph, "StoryIdentityNoisyLatentCache")
    (decoded,) = (key for key in nodes_of(graph, "VAEDecode") if graph[key]["inputs"]["samples"] == [cache, 0])
    graph["templates"] = {"class_type": "PreviewImage", "inputs": {"images": [decoded, 0]}}
    outputs = host.run(graph, timeout_s=600)
    shown = {graph[key]["inputs"]["filename_prefix"]: key for key in nodes_of(graph, "SaveImage")}
    shown["templates"] = "templates"
    return {name: [file.path for file in host.files(outputs[key])] for name, key in shown.items()}


def told(graph: dict[str, Any], host: Host, story: dict[str, Any], file: str) -> dict[str, Any]:
    """The graph with a story file of ten frames in place of its own story and characters."""
    (host.input_dir / file).write_text(json.dumps(story), encoding="utf-8")
    (key,) = nodes_of(graph, "StoryIdentityStory")
    graph[key]["inputs"]["story_file"] = file
    graph[key]["inputs"].pop("character_list", None)
    for key in nodes_of(graph, "StoryIdentityCharacters"):
        del graph[key]
    (find,) = nodes_of(graph, "StoryIdentityFindIdentity")
    graph[find]["inputs"]["characters"] = [*nodes_of(graph, "StoryIdentityStory"), 0]
    return graph


def pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.convert("RGB").tobytes()


def check_frames(pictures: dict[str, list[Path]], people: list[bool]) -> None:
    """As many pictures as frames, all different; frames without people as the template has them, the others changed.

    The stand-in segmenter finds nothing now and then, which leaves a frame as it was: most must have changed.
    """
    for what, paths in pictures.items():
        assert len(paths) == (1 if what == "sheet" else len(people)), what
        assert len({pixels(path) for path in paths}) == len(paths), what
        for path in paths:
            with Image.open(path) as image:
                assert image.format == "PNG"
                assert image.size == (128, 128) or what == "sheet"
    changed = [pixels(a) != pixels(b) for a, b in zip(pictures["frames"], pictures["templates"], strict=True)]
    assert not any(change for change, person in zip(changed, people, strict=True) if not person)
    assert sum(changed) > sum(people) / 2


@pytest.mark.parametrize(("name", "story"), STORIES.items())
def test_a_published_story_of_ten_frames_runs_to_pngs(host, name, story):
    check_frames(saved(host, told(workflow(name), host, story, f"{name}.json")), [True] * 10)


OWN = [*((name, 99) for name in STORIES), ("identitystory_attention_layout", 3), ("identitystory_sdxl_8_steps", 3)]


@pytest.mark.parametrize(("name", "frames"), OWN)
def test_its_own_story_runs_to_pngs(host, name, frames):
    graph = workflow(name)
    (key,) = nodes_of(graph, "StoryIdentityStory")
    lines = [graph[each]["inputs"]["characters"] for each in (key, *nodes_of(graph, "StoryIdentityCharacters"))]
    names = [line.split("|")[0].strip() for line in "\n".join(lines).splitlines() if line]
    prompts = graph[key]["inputs"]["prompts"].strip().splitlines()[:frames]
    (key,) = nodes_of(graph, "StoryIdentityEachFrame")
    graph[key]["inputs"]["frames"] = f"1-{len(prompts)}"
    check_frames(saved(host, graph), [any(name in prompt for name in names) for prompt in prompts])


def test_discovery_alone_saves_an_identity(host):
    graph = workflow("identity_from_text")
    before = set((host.models_dir / "identities").glob("*.safetensors"))
    host.run(graph, timeout_s=600)
    assert len(set((host.models_dir / "identities").glob("*.safetensors")) - before) == 1


def test_the_same_workflow_again_gives_the_same_bytes(host):
    graph, other = workflow("identitystory_sdxl"), workflow("identitystory_sdxl_two_characters")
    (story,) = nodes_of(graph, "StoryIdentityEachFrame")
    graph[story]["inputs"]["frames"] = "1"
    (story,) = nodes_of(other, "StoryIdentityEachFrame")
    other[story]["inputs"]["frames"] = "1"

    def run_afresh(graph: dict[str, Any]) -> list[bytes]:
        host.forget()
        return [pixels(path) for paths in saved(host, graph).values() for path in paths]

    first = run_afresh(graph)
    assert run_afresh(other) != first
    assert run_afresh(graph) == first


def test_a_missing_model_is_refused_before_anything_runs(host):
    graph = workflow("identity_from_text")
    (loader,) = nodes_of(graph, "StoryIdentityPhotoMakerLoader")
    graph[loader]["inputs"]["photomaker_name"] = "photomaker-v2.bin"
    with pytest.raises(RunError, match=r"photomaker-v2\.bin is missing from .*huggingface\.co"):
        host.run(graph)


def test_a_bad_story_is_refused_before_anything_runs(host):
    graph = workflow("identitystory_sdxl")
    (people,) = nodes_of(graph, "StoryIdentityCharacters")
    graph[people]["inputs"]["characters"] = "Mira | girl | a young woman"
    with pytest.raises(RunError, match='class word "girl" is not a word of the description'):
        host.run(graph)
