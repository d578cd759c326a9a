"""Story Page, and Story Sheet with all that it may show, in the host."""

import json
import tempfile
from pathlib import Path

import folder_paths
import torch
from setting import refused
from story_identity.core.identity import Identity
from story_identity.core.layout import Layout
from story_identity.core.sheet import contact_sheet
from story_identity.core.story import Story
from story_identity.nodes.host.folders import ANY_FONT, register_folders
from story_identity.nodes.page import NOTHING, StoryPageNode
from story_identity.nodes.sheet import LONGEST_SHOWN, StorySheetNode, to_show

from tests.closeness import assert_close

register_folders()

STORY = Story.from_lines("Mira | woman | a woman with red hair", "Mira waits\na beach\nMira sleeps")
PICTURES = [torch.full((1, 48, 64, 3), value / 4) for value in (1, 2, 3)]


def page(**more):
    given = {"images": PICTURES, "frames": list(STORY.frames), "per_page": 2, "captions": "under the pictures"}
    given |= {"texts": "", "page_width": 500, "page_height": 600, "font": ANY_FONT, "font_size": 18, "save": NOTHING}
    given |= {"filename_prefix": "tale/book", **more}
    lists = {name: value if isinstance(value, list) or value is None else [value] for name, value in given.items()}
    return StoryPageNode.execute(**lists).result


def check_pages_have_the_size_and_the_texts():
    pages, report = page()
    assert pages.shape == (2, 600, 500, 3)
    assert report == "2 pages, font: Aileron (Pillow's own), 18 pixels"
    bare, _ = page(captions="none", frames=None)
    assert not torch.equal(pages, bare)
    typed, _ = page(frames=None, texts="Mira waits\na beach\nMira sleeps\n")
    assert torch.equal(pages, typed)
    one, _ = page(images=[torch.cat(PICTURES)])
    assert torch.equal(pages, one)
    balloons, _ = page(captions="in balloons", per_page=3)
    assert balloons.shape == (1, 600, 500, 3)


def check_balloons_keep_off_characters():
    masks = torch.zeros(1, 48, 64, dtype=torch.bool)
    masks[:, :24] = True
    layouts = [Layout(("Mira",), masks, frame.label) for frame in STORY.frames]
    free, _ = page(captions="in balloons", per_page=1, images=PICTURES)
    kept, _ = page(captions="in balloons", per_page=1, images=PICTURES, layouts=layouts)
    rows = [int((each[0, 150:450, 60:440].min(dim=-1).values > 0.99).sum(dim=1).argmax()) for each in (free, kept)]
    assert rows[0] < 100 < rows[1], rows
    refused(lambda: page(captions="in balloons", layouts=layouts[:1]), "3 pictures and 1 layouts")
    wrong = [Layout(("Mira",), masks[:, :8], "frame 1")] * 3
    refused(
        lambda: page(captions="in balloons", layouts=wrong), "frame 1: the layout is 64x8, but the picture is 64x48"
    )


def check_what_no_page_can_be_made_of_is_refused():
    refused(lambda: page(frames=None), "there are no texts")
    refused(lambda: page(texts="one\ntwo"), "texts has 2 lines for 3 pictures")
    refused(lambda: page(frames=list(STORY.frames[:2])), "3 pictures and 2 frames", "Choose Takes")
    refused(lambda: page(texts="\U00013000\n\n"), "No font of this machine has the letters")
    assert "half of a character" in StoryPageNode.validate_inputs(["\ud83d"], [ANY_FONT])
    assert "is not in" in StoryPageNode.validate_inputs([""], ["gone.ttf"])
    assert StoryPageNode.validate_inputs([None], [None]) is True
    assert StoryPageNode.validate_inputs([""], [ANY_FONT]) is True
    for captions, connected, is_fine in (
        ("in balloons", {}, False),
        ("none", {}, True),
        ("in balloons", {"frames": "STORY_FRAME"}, True),
    ):
        answer = StoryPageNode.validate_inputs([""], [ANY_FONT], [captions], [connected])
        assert (answer is True) is is_fine, (captions, connected, answer)


def check_a_font_of_models_fonts_can_be_chosen():
    from PIL import ImageFont

    folder = Path(folder_paths.get_folder_paths("fonts")[0])
    folder.mkdir(parents=True, exist_ok=True)
    own = ImageFont.load_default(size=10)
    file = folder / "own.ttf"
    file.write_bytes(own.font_bytes if hasattr(own, "font_bytes") else own.path.getvalue())
    folder_paths.filename_list_cache.clear()
    try:
        assert StoryPageNode.validate_inputs([""], ["own.ttf"]) is True
        assert "font: own.ttf" in page(font="own.ttf")[1]
        refused(lambda: page(font="own.ttf", texts="漢\n\n"), '"own.ttf" lacks the letters "漢"')
    finally:
        file.unlink()
        folder_paths.filename_list_cache.clear()


def sheet(**more):
    given = {"images": PICTURES, "columns": [3], "cell_width": [64], "captions": [True], "frames": list(STORY.frames)}
    return StorySheetNode.execute(**{**given, **more}).result[0]


def check_a_sheet_without_more_is_the_contact_sheet():
    pictures = [picture[0] for picture in PICTURES]
    plain = contact_sheet(pictures, [frame.caption for frame in STORY.frames], 3, 64).unsqueeze(0)
    assert torch.equal(sheet(), plain)
    assert torch.equal(sheet(filename_prefix=[""]), plain)
    assert StorySheetNode.fingerprint_inputs() == ""
    with tempfile.TemporaryDirectory() as folder:
        before = folder_paths.get_output_directory()
        folder_paths.set_output_directory(folder)
        try:
            assert StorySheetNode.fingerprint_inputs(filename_prefix=["tale/sheet"]) == ""
            (Path(folder) / "tale" / "sheet.png").write_bytes(b"1")
            assert StorySheetNode.fingerprint_inputs(filename_prefix=["tale/sheet"]).startswith("sheet.png:1:")
        finally:
            folder_paths.set_output_directory(before)


def check_a_large_sheet_is_shown_smaller_and_another_as_it_is():
    whole = torch.rand(1, 60, 200, 3)
    assert to_show(whole) is whole
    shown = to_show(whole, most_pixels=3000)
    assert shown.shape == (1, 30, 100, 3)
    assert to_show(torch.ones(1, 40_000, 16, 3)).shape == (1, LONGEST_SHOWN, 6, 3)
    assert_close(shown[0, 0, 0], whole[0, :2, :2].mean(dim=(0, 1)), 1e-6)


def check_a_sheet_shows_templates_masks_portraits_and_likeness():
    masks = torch.zeros(1, 48, 64, dtype=torch.bool)
    layouts = [Layout(("Mira",), masks, frame.label) for frame in STORY.frames]
    portraits = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    identity = Identity("Mira", "a woman", "any", torch.ones(4), portraits=portraits)
    person = {"name": "Mira", "frames": [1, 3], "of_frames": {"face_sim": [0.5, None, 0.5]}, "least_alike_frame": 3}
    numbers = json.dumps({"characters": [person]})
    heights = [
        sheet(**more).shape[1]
        for more in (
            {},
            {"templates": PICTURES},
            {"templates": PICTURES, "layouts": layouts},
            {"templates": PICTURES, "layouts": layouts, "numbers": [numbers]},
            {"templates": PICTURES, "layouts": layouts, "numbers": [numbers], "identities": [identity]},
        )
    ]
    assert heights == sorted(set(heights)), heights
    assert heights[2] - heights[1] == heights[1] - heights[0] == 48
    refused(lambda: sheet(templates=PICTURES[:2]), "3 pictures but 2 templates")
    refused(lambda: sheet(layouts=layouts[:2]), "3 pictures but 2 layouts")
    refused(lambda: sheet(numbers=["report"]), "has no scores of a story")
    refused(lambda: sheet(numbers=[numbers], frames=None), "connect frames too")
    of_version_0_1 = Identity("Mira", "", "any", torch.ones(4))  # carries no portraits
    assert torch.equal(sheet(identities=[of_version_0_1]), sheet())
