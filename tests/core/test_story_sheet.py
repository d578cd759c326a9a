"""A story sheet with templates, masks, portraits and likeness; without them it is a contact sheet."""

import json

import pytest
import torch
from story_identity.core.layout import Layout
from story_identity.core.scores.report import as_mapping, faces_by_frame
from story_identity.core.scores.story_scores import CharacterFeatures, StoryFeatures, score_story
from story_identity.core.sheet import Note, contact_sheet
from story_identity.core.story_sheet import SheetFrame, story_sheet

PICTURES = [torch.full((32, 48, 3), value / 10) for value in (2, 5, 8)]


def is_reddish(sheet: torch.Tensor) -> bool:
    return float((sheet[..., 0] - sheet[..., 2]).max()) > 0.2


def shows(sheet: torch.Tensor, colour: tuple[int, int, int]) -> bool:
    levels = (sheet * 255).round().int()
    return bool((levels == torch.tensor(colour)).all(dim=-1).any())


def test_with_pictures_and_captions_alone_it_is_the_contact_sheet():
    captions = ["Mira waits", "", "a longer caption that needs several lines of its cell"]
    frames = [SheetFrame(picture, caption) for picture, caption in zip(PICTURES, captions, strict=True)]
    assert torch.equal(story_sheet(frames, 2, 64), contact_sheet(PICTURES, captions, 2, 64))
    assert torch.equal(story_sheet(frames, 2, 64, {"Mira": []}), contact_sheet(PICTURES, captions, 2, 64))


def test_the_template_stands_above_its_frame_and_the_masks_below():
    mask = torch.zeros(1, 32, 48, dtype=torch.bool)
    mask[:, 8:, 24:] = True
    frame = SheetFrame(PICTURES[0], template=PICTURES[2], layout=Layout(("Mira",), mask, "frame 1"))
    sheet = story_sheet([frame], 1, 96)
    assert sheet.shape == (3 * 64 + 2 * 16, 96 + 2 * 16, 3)
    column = sheet[16:-16, 16 + 80]
    assert torch.allclose(column[40], PICTURES[2][0, 0], atol=1 / 255)
    assert torch.allclose(column[64 + 40], PICTURES[0][0, 0], atol=1 / 255)
    assert float((column[128 + 30] - PICTURES[0][0, 0]).abs().max()) > 0.1  # tinted
    nobody = SheetFrame(PICTURES[0], layout=Layout((), torch.zeros(0, 32, 48, dtype=torch.bool), "frame 2"))
    twice = story_sheet([nobody], 1, 96)[16:-16, 16 + 80]
    assert torch.allclose(twice[40], twice[64 + 40])  # nothing is tinted
    wrong = SheetFrame(PICTURES[0], layout=Layout(("Mira",), mask[:, :8], "frame 1"))
    with pytest.raises(ValueError, match="frame 1: the picture is 48x32, but the layout is 48x8"):
        story_sheet([wrong], 1, 96)


def test_portraits_stand_above_everything_and_change_nothing_below():
    frames = [SheetFrame(picture) for picture in PICTURES]
    plain = story_sheet(frames, 3, 96)
    portraits = {"Mira": [torch.full((20, 20, 3), 0.4)] * 9, "Tom": [torch.full((20, 20, 3), 0.6)]}
    whole = story_sheet(frames, 3, 96, portraits)
    assert torch.equal(whole[-plain.shape[0] :, : plain.shape[1]], plain)
    above = whole[: -plain.shape[0]]
    assert shows(above, (102, 102, 102))
    assert shows(above, (153, 153, 153))
    narrow = story_sheet(frames[:1], 1, 16, portraits)
    assert torch.equal(narrow[-64 + 32 - 11 :, :48][-27:], story_sheet(frames[:1], 1, 16)[-27:])


def test_the_least_alike_face_is_red():
    faces = [("Mira", 0.9, False), ("Tom", None, False)]
    usual = story_sheet([SheetFrame(PICTURES[0], faces=faces)], 1, 200)
    worst = story_sheet([SheetFrame(PICTURES[0], faces=[("Mira", 0.1, True)])], 1, 200)
    assert is_reddish(worst)
    assert not is_reddish(usual)
    lines = [[Note("Mira: 90.0", (70, 120, 180)), Note("Tom: no face to compare", (70, 120, 180))]]
    assert torch.equal(usual, contact_sheet(PICTURES[:1], [""], 1, 200, lines))


def test_the_numbers_of_score_story_are_read_by_frame():
    generator = torch.Generator().manual_seed(0)
    mira = [torch.randn(4, generator=generator) for _ in range(3)]
    features = StoryFeatures(
        3, [CharacterFeatures("Mira", (0, 1, 2), mira), CharacterFeatures("Tom", (1,), [None, mira[0], None])]
    )
    scores = score_story(features)
    found = faces_by_frame(json.dumps(as_mapping(scores, {})))
    person = scores.characters[0]
    assert {frame: own[0] for frame, own in found.items()} == {
        frame: ("Mira", person.of_frames["face_sim"][frame], frame == person.worst) for frame in range(3)
    }
    assert found[1][1] == ("Tom", None, False)
    without = faces_by_frame(json.dumps(as_mapping(score_story(StoryFeatures(1, [CharacterFeatures("M", (0,))])), {})))
    assert without == {0: [("M", None, False)]}
    for text in ("", "[]", "{", '{"characters": 3}', '{"characters": [{"name": "M"}]}'):
        with pytest.raises(ValueError, match="has no scores of a story; connect numbers of Score Story"):
            faces_by_frame(text)
