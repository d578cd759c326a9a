"""Takes in a real server: what a take more costs, which file each has, and what changes when another is kept."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image, PdfParser

from .comfyui import ComfyUI
from .frame_loops import STEPS, LoopHost, Prompt, looped, node
from .server import RunError
from .test_workflows_run import pixels

WORDS = ("Mira waving in the garden", "Pip jumping in the snow")


@pytest.fixture(scope="module")
def host(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopHost]:
    with LoopHost(comfyui, tmp_path_factory.mktemp("takes")) as server:
        yield server


def choosing(*words: str, kept: str = "", by: str = "number", **each: Any) -> Prompt:
    """Each frame drawn several times; those that are kept are saved, put on a sheet and into a book."""
    chosen = {"images": ["collected", 1], "frames": ["collected", 0], "caption_floor": 0.0}
    pictures = {"images": ["chosen", 0], "frames": ["chosen", 1]}
    page = {"per_page": 2, "captions": "under the pictures", "texts": "", "page_width": 400, "page_height": 400}
    return looped(*words, **each) | {
        "chosen": node("StoryIdentityChooseTakes", **chosen, by=by, takes=kept, recogniser=["toy", 8]),
        "final": node(
            "StoryIdentitySaveFrame", images=["chosen", 0], frame=["chosen", 1], filename_prefix="tale/final", number=0
        ),
        "sheet": node(
            "StoryIdentityStorySheet",
            **pictures,
            columns=2,
            cell_width=128,
            captions=True,
            filename_prefix="tale/sheet",
        ),
        "book": node(
            "StoryIdentityStoryPage",
            **(pictures | page),
            font="automatic",
            font_size=16,
            save="PNG and PDF",
            filename_prefix="tale/book",
        ),
        "shown": node("PreviewImage", images=["collected", 1]),
        "kept": node("PreviewImage", images=["chosen", 0]),
        "text": looped(*words)["text"],
    }


def pictures_of(host: LoopHost, outputs: dict[str, dict[str, Any]], name: str) -> list[bytes]:
    return [pixels(file.path) for file in host.files(outputs[name])]


def times(host: LoopHost) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (host.output_dir / "tale").glob("*.p*")}


def test_a_take_more_draws_only_itself_and_the_first_is_the_picture_of_before(host: LoopHost):
    before = pictures_of(host, host.run(looped(*WORDS)), "shown")
    assert host.evaluations() == 2 * STEPS
    assert sorted(times(host)) == ["frame_0001.png", "frame_0002.png"]
    two = pictures_of(host, host.run(looped(*WORDS, takes=2)), "shown")
    assert host.evaluations() == 2 * STEPS
    assert [two[0], two[2]] == before
    assert len(set(two)) == 4
    three = pictures_of(host, host.run(looped(*WORDS, takes=3)), "shown")
    assert host.evaluations() == 2 * STEPS
    assert [*three[0:2], *three[3:5]] == two
    names = [f"frame_000{frame}_take{take}.png" for frame in (1, 2) for take in (1, 2, 3)]
    assert set(names) <= set(times(host))
    assert [pixels(host.output_dir / "tale" / name) for name in names] == three
    moved = pictures_of(host, host.run(looped(*reversed(WORDS), takes=3)), "shown")
    assert (moved, host.evaluations()) == ([*three[3:], *three[:3]], 0)
    assert "take 3 of 3" not in host.log()  # progress is shown on the node, not in the log
    with pytest.raises(RunError, match="takes"):
        host.run(looped(*WORDS, takes=0))


def test_another_choice_replaces_one_picture_in_the_folder_and_on_the_sheet(host: LoopHost):
    outputs = host.run(choosing(*WORDS, takes=3))
    everything = pictures_of(host, outputs, "shown")
    assert pictures_of(host, outputs, "kept") == [everything[0], everything[3]]
    before = times(host)
    assert {"final_0001.png", "final_0002.png", "sheet.png", "book_0001.png", "book.pdf"} <= set(before)
    host.ran()
    outputs = host.run(choosing(*WORDS, takes=3, kept="2: 3"))
    assert host.evaluations() == 0
    assert pictures_of(host, outputs, "kept") == [everything[0], everything[5]]
    assert pixels(host.output_dir / "tale" / "final_0002.png") == everything[5]
    after = times(host)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"final_0002.png", "sheet.png", "book_0001.png", "book.pdf"}
    with Image.open(host.output_dir / "tale" / "sheet.png") as sheet:
        assert sheet.size == (2 * 128 + 3 * 16, sheet.height)
        cells = [np.asarray(sheet.convert("RGB").crop((16 + 144 * n, 16, 144 + 144 * n, 144)), int) for n in (0, 1)]
    for number, cell in enumerate(cells, start=1):
        with Image.open(host.output_dir / "tale" / f"final_{number:04}.png") as picture:
            assert np.abs(cell - np.asarray(picture.convert("RGB"), int)).max() <= 1  # files are rounded down


def test_redoing_one_frame_leaves_all_other_files(host: LoopHost):
    host.run(looped(*WORDS))
    before = times(host)
    host.ran()
    host.run(looped(WORDS[0], f"seed 77 | {WORDS[1]}"))
    assert host.evaluations() == STEPS
    after = times(host)
    assert {name for name in after if after[name] != before[name]} == {"frame_0002.png"}


def test_choosing_by_likeness_says_which_and_why(host: LoopHost):
    words = ("Mira waving in the garden", "Mira jumping in the snow")
    outputs = host.run(choosing(*words, by="likeness", takes=3))
    (report,) = outputs["chosen"]["text"]
    assert "Frame 1: take " in report
    assert "likeness: " in report


def test_the_book_and_the_sheet_carry_the_workflow_and_replace_no_other_file(host: LoopHost):
    prompt = choosing(*WORDS, takes=2)
    host.run_with_workflow(prompt, {"nodes": [], "version": 0.4})
    folder = host.output_dir / "tale"
    for name in ("book_0001.png", "sheet.png"):
        (folder / name).unlink()
    host.run_with_workflow(prompt, {"nodes": [], "version": 0.4})
    for name in ("book_0001.png", "sheet.png"):
        with Image.open(folder / name) as image:
            assert image.info["workflow"] == '{"nodes": [], "version": 0.4}', name
    with PdfParser.PdfParser(str(folder / "book.pdf")) as pdf:
        assert len(pdf.pages) == 1
    (folder / "book.pdf").write_bytes(b"%PDF-1.4 of somebody else")
    with pytest.raises(RunError, match="book.pdf is there and was not saved by Story Page"):
        host.run(prompt)
    (folder / "book.pdf").unlink()


def test_what_nothing_could_be_chosen_by_is_refused_when_it_is_sent(host: LoopHost):
    prompt = choosing(*WORDS, takes=2, by="likeness")
    del prompt["chosen"]["inputs"]["recogniser"]
    for wrong, message in (
        (prompt, "connect recogniser"),
        (choosing(*WORDS, kept="1, 2"), "is no frame with its take"),
    ):
        answer = json.loads(host.read("/prompt", {"prompt": wrong}))
        assert message in answer["node_errors"]["chosen"]["errors"][0]["details"]
        host.wait(lambda answer=answer: answer["prompt_id"] in host.get(f"/history/{answer['prompt_id']}"))


def test_takes_without_a_choice_are_refused_by_the_page(host: LoopHost):
    prompt = choosing(*WORDS, takes=2)
    prompt["book"]["inputs"] |= {"images": ["collected", 1]}
    with pytest.raises(RunError, match=r"there are 4 pictures and 2 frames\..*Choose Takes"):
        host.run(prompt)
