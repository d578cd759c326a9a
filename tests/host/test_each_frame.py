"""Each Frame, Collect Frames, Save Frame: in a real server, what runs again after an edit, and what does not."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from story_identity.core.toyworld.sizes import TOY_WORLD

from .comfyui import ComfyUI
from .frame_loops import CHARACTERS, STEPS, WORDS, LoopHost, Prompt, looped, node
from .server import RunError
from .test_former_versions import FORMER
from .test_workflows_run import nodes_of, pixels

NEW, EDITED = "Mira and Pip standing in the city", "Mira sitting on the beach with a dog"


@pytest.fixture(scope="module")
def host(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopHost]:
    with LoopHost(comfyui, tmp_path_factory.mktemp("frames")) as server:
        yield server


def drawn(host: LoopHost, prompt: Prompt) -> list[bytes]:
    """The pictures of the frames as they come out of Collect Frames."""
    outputs = host.run(prompt)
    return [pixels(file.path) for file in host.files(outputs["shown"])]


def saved(host: LoopHost, *numbers: int) -> list[bytes]:
    return [pixels(host.output_dir / "tale" / f"frame_{number:04}.png") for number in numbers]


def counted(host: LoopHost, *words: str, **settings: Any) -> tuple[list[bytes], int]:
    """The pictures of a story, and how often the model was evaluated for them."""
    return drawn(host, looped(*words, **settings)), host.evaluations()


def check_counts(host: LoopHost) -> None:
    """An edit costs what it changes, whatever ComfyUI itself keeps."""
    first, second, third = WORDS
    story, evaluations = counted(host, *WORDS)
    assert (len(set(story)), evaluations) == (3, 3 * STEPS)
    edited, evaluations = counted(host, first, EDITED, third)
    assert ([edited[0], edited[2]], evaluations) == ([story[0], story[2]], STEPS)
    assert edited[1] != story[1]
    inserted, evaluations = counted(host, first, NEW, second, third)
    assert ([inserted[0], *inserted[2:]], evaluations) == (story, STEPS)
    assert saved(host, 1, 2, 3, 4) == inserted
    assert counted(host, third, first, second) == ([story[2], *story[:2]], 0)
    assert saved(host, 1, 2, 3) == [story[2], *story[:2]]
    assert counted(host, first, third) == ([story[0], story[2]], 0)
    assert counted(host, *WORDS, characters=f"{CHARACTERS}\nBen | man | a man with blond hair") == (story, 0)
    assert counted(host, *WORDS) == (story, 0)
    assert saved(host, 1, 2, 3) == story


def test_an_edit_costs_what_it_changes(host: LoopHost):
    check_counts(host)


def test_so_it_does_with_a_cache_of_ten_entries(comfyui: ComfyUI, tmp_path: Path):
    with LoopHost(comfyui, tmp_path, "--cache-lru=10") as host:
        check_counts(host)


def test_so_it_does_with_the_classic_cache_and_after_a_kill(comfyui: ComfyUI, tmp_path: Path):
    host, kept = LoopHost(comfyui, tmp_path, "--cache-classic"), tmp_path / "user" / "story_identity" / "frames"
    words = [f"{who} waving in the {place}" for who in ("Pip", "Mira") for place in ("snow", "city", "forest")]
    with host:
        check_counts(host)
        before = len(list(kept.glob("??/*.safetensors")))
        host.ran()
        host.begin(looped(*words))
        host.wait(lambda: host.log().count("RAN a ") >= 5 + 4)  # five frames came before, and the fourth begins
        host.kill()
    done = len(list(kept.glob("??/*.safetensors"))) - before
    assert 3 <= done < len(words)
    with host:
        drawn(host, looped(*WORDS))
        assert host.ran() == []  # not even what stands before the loop
        pictures, evaluations = counted(host, *words)
        assert evaluations == (len(words) - done) * STEPS
        assert saved(host, *range(1, 7)) == pictures


def test_without_any_cache_everything_runs_and_nothing_breaks(comfyui: ComfyUI, tmp_path: Path):
    off = {"STORY_IDENTITY_MEMORY_GIB": "0", "STORY_IDENTITY_DISK_GIB": "0"}
    with LoopHost(comfyui, tmp_path, "--cache-none", variables=off) as host:
        story, evaluations = counted(host, *WORDS[:2])
        assert evaluations == 2 * STEPS
        assert counted(host, *WORDS[:2]) == (story, 2 * STEPS)
        assert not (tmp_path / "user" / "story_identity").exists()


def test_frames_are_finished_one_after_the_other(host: LoopHost):
    drawn(host, looped("Pip waving in the snow", "Mira in the snow", "Pip on the beach", seed=50))
    expected = [f"RAN a {who}" for who in ("robot with a white lamp w", "woman with red hair in", "robot with a white")]
    lines = [line for line in host.ran() if line != "RAN before the loop"]
    assert len(lines) == 3 * (1 + STEPS)
    for number, begin in enumerate(expected):
        assert lines[number * (1 + STEPS)].startswith(begin)
        assert lines[number * (1 + STEPS) + 1 :][:STEPS] == ["EVALUATION"] * STEPS


def test_the_copies_draw_what_story_frames_draws(host: LoopHost):
    copies = drawn(host, looped(*WORDS, seeds="by number"))
    listed = looped(*WORDS)
    listed["each"] = node("StoryIdentityStoryFrames", story=["story", 0], frames="all", seed=1)
    listed["shown"]["inputs"]["images"] = ["decoded", 0]
    del listed["collected"], listed["saved"]
    assert drawn(host, listed) == copies


def test_what_changes_in_the_loop_runs_in_all_frames(host: LoopHost):
    story = drawn(host, looped(*WORDS))
    host.ran()
    longer, evaluations = counted(host, *WORDS, steps=STEPS + 1)
    assert evaluations == 3 * (STEPS + 1)
    assert not set(longer) & set(story)
    inverted = looped(*WORDS)
    inverted["saved"]["inputs"]["images"] = ["inverted", 0]
    inverted["inverted"] = node("ImageInvert", image=["decoded", 0])
    pictures = drawn(host, inverted)
    assert (host.evaluations(), len(set(pictures) | set(story))) == (0, 6)
    assert counted(host, *WORDS) == (story, 0)


def test_previews_in_the_loop_appear_on_their_own_node_once_per_frame(host: LoopHost):
    prompt = looped(*WORDS)
    drawn(host, prompt)
    host.ran()
    prompt["preview"] = node("PreviewImage", images=["decoded", 0])
    entry = history_of(host, prompt)
    shown = [meta["display_node"] for meta in entry["meta"].values()]
    assert shown.count("preview") == 3
    assert shown.count("saved") == 3
    assert host.evaluations() == 0
    prompt["preview"]["inputs"]["images"] = ["inverted", 0]
    prompt["inverted"] = node("ImageInvert", image=["decoded", 0])
    assert [meta["display_node"] for meta in history_of(host, prompt)["meta"].values()].count("preview") == 3


def history_of(host: LoopHost, prompt: Prompt) -> dict[str, Any]:
    prompt_id = host.begin(prompt)
    host.wait(lambda: prompt_id in host.get(f"/history/{prompt_id}"))
    return host.get(f"/history/{prompt_id}")[prompt_id]


def test_values_of_any_type_come_out_as_lists_in_the_storys_order(host: LoopHost):
    prompt = looped(*WORDS)
    values = (["saved", 0], ["each", 1], ["drawn", 0], ["each", 4], ["empty", 0])
    prompt["collected"]["inputs"] = {f"value_{number}": value for number, value in enumerate(values, start=1)}
    sheet = {"columns": 3, "cell_width": 64, "captions": True}
    prompt["sheet"] = node("StoryIdentityStorySheet", images=["collected", 1], frames=["collected", 0], **sheet)
    prompt["prompts"] = node("PreviewAny", source=["collected", 2])
    prompt["numbers"] = node("PreviewAny", source=["collected", 4])
    prompt["again"] = node("VAEDecode", samples=["collected", 3], vae=["toy", 3])
    prompt["decoded_again"] = node("PreviewImage", images=["again", 0])
    outputs = host.run(prompt)
    shown, again = ([pixels(f.path) for f in host.files(outputs[name])] for name in ("shown", "decoded_again"))
    assert shown == again
    assert outputs["numbers"]["text"] == ["1", "2", "3"]
    assert outputs["prompts"]["text"][2] == "a robot with a white lamp jumping in the snow"
    assert len(host.files(outputs["sheet"])) == 1


def test_chosen_frames_keep_their_number_and_seed(host: LoopHost):
    story, _ = counted(host, *WORDS)
    for path in (host.output_dir / "tale").glob("*.png"):
        path.unlink()
    assert counted(host, *WORDS, frames="2-3") == (story[1:], 0)
    assert sorted(path.name for path in (host.output_dir / "tale").iterdir()) == ["frame_0002.png", "frame_0003.png"]


def test_a_frame_is_saved_with_the_workflow_and_replaces_no_other_picture(host: LoopHost):
    prompt = looped(*WORDS[:1])
    for path in (host.output_dir / "tale").glob("*.png"):
        path.unlink()
    host.run_with_workflow(prompt, {"nodes": [], "version": 0.4})
    path = host.output_dir / "tale" / "frame_0001.png"
    with Image.open(path) as image:
        assert image.info["workflow"] == '{"nodes": [], "version": 0.4}'
        assert '"StoryIdentityCollectFrames"' in image.info["prompt"]
    Image.new("RGB", (8, 8)).save(path)
    with pytest.raises(RunError, match=r"frame_0001.png is there and was not saved by Save Frame"):
        host.run(looped(*WORDS[:1]))
    path.unlink()


def test_an_interrupted_story_goes_on_where_it_was(host: LoopHost):
    words = ("Mira in the city", "Pip in the city", "Mira and Pip in the garden", "Pip in the garden")
    host.ran()
    host.begin(looped(*words, steps=8))
    host.wait(lambda: "garden" in " ".join(host.log().splitlines()[-4:]))
    host.read("/interrupt", {})
    host.wait(lambda: "Processing interrupted" in host.log())
    before = host.ran()
    after = counted(host, *words, steps=8)[1]
    done = sum("city" in line for line in before)
    assert done == 2
    assert before.count("EVALUATION") < 4 * 8
    assert after == (4 - before.count("EVALUATION") // 8) * 8
    assert len(saved(host, 1, 2, 3, 4)) == 4


def test_finished_frames_can_be_forgotten(host: LoopHost):
    story, _ = counted(host, *WORDS)
    address = "/story_identity/finished_frames"
    assert min(host.get(address).values()) > 0
    host.delete(address)
    assert host.get(address) == {"memory": 0, "disk": 0}
    host.forget()
    assert counted(host, *WORDS) == (story, 3 * STEPS)


def without(prompt: Prompt, *names: str) -> Prompt:
    return {name: each for name, each in prompt.items() if name not in names}


def with_two_loops() -> Prompt:
    other = looped()["each"]
    return looped(*WORDS) | {"each2": other, "negative": node("CLIPTextEncode", clip=["toy", 2], text=["each2", 2])}


def around() -> Prompt:
    inputs = {"images": ["collected", 1], "frames": ["each", 0], "columns": 2, "cell_width": 64, "captions": True}
    return looped(*WORDS) | {"sheet": node("StoryIdentityStorySheet", **inputs)}


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (without(looped(*WORDS), "collected", "shown"), r"Each Frame \(#each\): no Collect Frames comes after it"),
        (looped(*WORDS) | {"saved": node("EmptyImage", width=8, height=8, batch_size=1, color=0)}, "no Each Frame"),
        (with_two_loops(), r"Each Frame \(#each\) and Each Frame \(#each2\) both lead to it"),
        (
            around(),
            r"Story Sheet \(#sheet\) takes values from inside the loop of Each Frame \(#each\) and from Collect",
        ),
        (
            looped(*WORDS) | {"collected": node("StoryIdentityCollectFrames", value_1=["decoded", 0])},
            r"Save Frame \(#saved\): connect its output to Collect Frames",
        ),
        (looped(*WORDS, frames="9"), 'frames: "9" is outside the story'),
    ],
)
def test_what_is_no_loop_is_refused_by_name_before_anything_is_drawn(host: LoopHost, prompt: Prompt, message: str):
    host.ran()
    with pytest.raises(RunError, match=message):
        host.run(prompt)
    assert host.ran() == []


def two_passes(*words: str) -> Prompt:
    """The quickstart's two passes in a loop; the portraits are of people whom another Story node describes."""
    graph = json.loads(FORMER.read_text(encoding="utf-8"))
    (story,), (frames,), (sheet,) = (
        nodes_of(graph, f"StoryIdentity{name}") for name in ("Story", "StoryFrames", "StorySheet")
    )
    (toy,) = nodes_of(graph, "StoryIdentityToyWorldLoader")
    graph["people"] = node("StoryIdentityStory", **{**graph[story]["inputs"], "prompts": "Mira and Pip"})
    graph[story]["inputs"]["prompts"] = "\n".join(words)
    graph[frames] = node("StoryIdentityEachFrame", story=[story, 0], frames="all", seed=1, seeds="by words")
    finished = graph[sheet]["inputs"]["images"]
    for name in nodes_of(graph, "SaveImage"):
        if graph[name]["inputs"]["images"] == finished:
            del graph[name]
    graph["shown"] = node("PreviewImage", images=["collected", 1])
    graph[sheet]["inputs"] |= {"images": ["collected", 1], "frames": ["collected", 0]}
    graph["collected"] = node("StoryIdentityCollectFrames", value_1=finished)
    small = {
        "StoryIdentityCharacterPortraits": {"count": 8, "batch_size": 8, "steps": 2, "story": ["people", 0]},
        "StoryIdentityIdentityDiscovery": {"rank": 2, "iterations": 2},
        "StoryIdentityNoisyLatentCache": {"steps": 16, "keep_from_step": 13},
        "StoryIdentityRedenoise": {"start": 13},
        "EmptyLatentImage": {"width": TOY_WORLD.picture_side, "height": TOY_WORLD.picture_side},
    }
    for each in graph.values():
        each["inputs"] |= small.get(each["class_type"], {})
        for name, value in each["inputs"].items():
            if value in ([toy, 0], [toy, 1]):
                each["inputs"][name] = [f"counted {value[1]}", 0]
    return graph | {f"counted {slot}": node("CountEvaluations", model=[toy, slot]) for slot in (0, 1)}


def test_both_passes_in_the_loop_cost_what_an_edit_changes_and_no_portrait(host: LoopHost):
    host.ran()
    words = ("Mira waving and Pip in the garden", "Mira sitting on the beach", "Pip jumping in the snow")
    story = drawn(host, two_passes(*words))
    portraits, template, again = 2 * 2, 16, 3
    assert host.evaluations() == portraits + 3 * template + 4 * again
    edited = drawn(host, two_passes(words[0], "Mira sitting in the snow", words[2]))
    assert host.evaluations() == template + again
    assert [edited[0], edited[2]] == [story[0], story[2]]
    inserted = drawn(host, two_passes("Mira and Pip in the city", *words))
    assert host.evaluations() == template + 2 * again
    assert inserted[1:] == story
