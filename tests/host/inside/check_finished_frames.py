"""What finished frames come to is kept within bounds, and a frame without number is found in its story."""

import os
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import comfy.samplers
import torch
from families import FAMILIES
from setting import refused
from story_identity.core.frame_text import frame_as_text, frame_from_text
from story_identity.core.story import Story
from story_identity.nodes.host.loops import Graph, prepared
from story_identity.nodes.host.result_cache import FrameResults, KeptInMemory, KeptOnDisk
from story_identity.nodes.host.result_keys import key_of
from story_identity.nodes.injector import _frame_of
from two_passes import template

SIZE = 4 * 100


def picture(number: int) -> list[torch.Tensor]:
    return [torch.full((100,), float(number))]


def check_memory_is_bounded_and_results_stay_longest():
    kept = KeptInMemory(lambda _: 3 * SIZE)
    kept.put("result", picture(0), SIZE, is_result=True)
    for number in range(1, 4):
        kept.put(f"value {number}", picture(number), SIZE, is_result=False)
    assert kept.size == 3 * SIZE
    assert kept.get("value 1") is None
    kept.get("value 2")
    kept.put("value 4", picture(4), SIZE, is_result=False)
    found = {name for name in ("result", "value 2", "value 3", "value 4") if kept.get(name) is not None}
    assert found == {"result", "value 2", "value 4"}
    kept.put("large", picture(5), 4 * SIZE, is_result=True)
    assert kept.get("large") is None
    assert kept.size == 3 * SIZE
    for number in range(3):
        kept.put(f"result {number}", picture(number), SIZE, is_result=True)
    assert kept.get("value 4") is None
    assert kept.get("result") is None
    kept.clear()
    assert (kept.size, kept.get("result 2")) == (0, None)


def check_the_disk_is_bounded_and_damage_is_only_a_miss():
    folder = Path(tempfile.mkdtemp())
    kept = KeptOnDisk(folder, 2000)
    for number in range(10):
        kept.put(f"{number:064}", picture(number), SIZE)
    assert 0 < kept.size <= 2000
    assert kept.get(f"{0:064}") is None
    assert torch.equal(kept.get(f"{9:064}")[0], picture(9)[0])
    (path,) = (path for path in folder.glob("??/*") if path.stem == f"{9:064}")
    path.write_bytes(b"damaged")
    assert kept.get(f"{9:064}") is None
    assert not path.exists()
    kept.clear()
    assert kept.size == 0
    off = KeptOnDisk(folder / "off", 0)
    off.put("a" * 64, picture(1), SIZE)
    assert not (folder / "off").exists()


def graph(**nodes: dict) -> Graph:
    return Graph(nodes.__getitem__, list(nodes))


def node(class_type: str, **inputs: object) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def check_what_killed_servers_left_is_deleted_and_what_others_write_is_not():
    folder = Path(tempfile.mkdtemp())
    (folder / "00").mkdir()
    left, written = folder / "00" / ".unfinished-a.tmp", folder / "00" / ".unfinished-b.tmp"
    for path in (left, written):
        path.write_bytes(b"half")
    os.utime(left, (0, 0))
    kept = KeptOnDisk(folder, 2000)
    kept.put(f"{1:064}", picture(1), SIZE)
    assert (left.exists(), written.exists()) == (False, True)
    kept.clear()
    assert not list(folder.glob("??/*"))


def check_keys_cover_what_a_result_depends_on():
    loaded = {**node("LoadImage", image="a.png"), "is_changed": ["digest"]}
    inverted = node("ImageInvert", image=["loaded", 0])
    key = key_of(graph(loaded=loaded, inverted=inverted), "inverted")
    assert key == key_of(graph(other=loaded, inverted=node("ImageInvert", image=["other", 0])), "inverted")
    for changed in ({**loaded, "is_changed": ["other"]}, {**loaded, "inputs": {"image": "b.png"}}):
        assert key_of(graph(loaded=changed, inverted=inverted), "inverted") not in (key, None)
    masked = node("ImageInvert", image=["loaded", 1])
    assert key_of(graph(loaded=loaded, inverted=masked), "inverted") != key
    for unknown in (node("LoadImage", image="a.png"), {**loaded, "is_changed": float("nan")}):
        assert key_of(graph(loaded=unknown, inverted=inverted), "inverted") is None
    assert key_of(graph(loaded={**loaded, "inputs": {"image": object()}}, inverted=inverted), "inverted") is None


def check_a_prompt_in_a_circle_or_of_another_kind_is_left_to_the_host():
    circle = {
        "each": node("StoryIdentityEachFrame", story=["collected", 0]),
        "one": node("ImageInvert", image=["two", 0]),
        "two": node("ImageInvert", image=["one", 0]),
        "collected": node("StoryIdentityCollectFrames", value_1=["one", 0]),
    }
    before = {name: {**each, "inputs": dict(each["inputs"])} for name, each in circle.items()}
    changed = prepared(circle)
    assert circle == before
    assert changed.keys() == circle.keys()
    other = {"one": node("ImageInvert", image=["two", 0])}
    assert prepared(other) == other


def check_a_loop_within_a_loop_of_another_pack_is_refused():
    """Nodes that expansion has made are known by their id, and are not among those of the workflow."""
    made = {
        "each": node("StoryIdentityEachFrame", story=["story", 0]),
        "inverted": node("ImageInvert", image=["each", 0]),
        "collected": node("StoryIdentityCollectFrames", value_1=["inverted", 0]),
        "story": node("StoryIdentityStory"),
    }
    assert Graph(made.__getitem__, list(made)).loop("collected").body == {"inverted"}
    refused(partial(Graph(made.__getitem__, ["story"]).loop, "collected"), "in a loop that another node makes")


def check_a_frame_without_number_is_found_in_its_story():
    told = Story.from_lines("Mira | woman | a woman with red hair", "Mira waits\na beach\nMira sleeps")
    for frame in told.frames:
        assert _frame_of(told, frame_from_text(frame_as_text(frame))) == frame
        assert _frame_of(told, frame) == frame
    other = Story.from_lines("Mira | woman | a woman with red hair", "Mira eats").frames[0]
    for stranger in (other, frame_from_text(frame_as_text(other))):
        refused(partial(_frame_of, told, stranger), "is not of this story")


def check_the_templates_cache_is_kept_unless_its_sampler_holds_something():
    results = FrameResults(KeptInMemory(lambda _: 1 << 30), KeptOnDisk(Path(tempfile.mkdtemp()), 0))
    family = FAMILIES["SD1.5"]
    _, cache = template(family.make(1), family)
    results.put("plain", [cache], on_disk=False)
    assert results.get("plain", on_disk=False)[0] is cache
    model = family.make(2)
    for number, solver in enumerate([
        comfy.samplers.KSAMPLER(cache.recipe.solver.sampler_function, {"model": model}),
        comfy.samplers.KSAMPLER(lambda *args: model),
        model,
    ]):  # fmt: skip
        holding = replace(cache, recipe=replace(cache.recipe, solver=solver))
        results.put(f"holding {number}", [holding], on_disk=False)
        assert results.get(f"holding {number}", on_disk=False) is None
