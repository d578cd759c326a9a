"""A picture of a story's likeness: per character the cosines of every two faces, and a bar per frame."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..quoting import printable
from ..shapes import Float
from .story_scores import FACE_SIM, CharacterScores, StoryScores

CELL, GAP, BAR_WIDTH = 40, 28, 260
_PAPER, _INK, _SOFT, _EMPTY = (255, 255, 255), (35, 35, 35), (110, 110, 110), (238, 238, 238)
_BAR, _WORST = (70, 120, 180), (200, 60, 40)
_SCALE = np.array([(165, 0, 38), (244, 109, 67), (254, 224, 144), (171, 217, 233), (49, 110, 170)], np.float64)
"""Colours of cosines 0, 0.25, 0.5, 0.75 and 1: red to blue, which people who do not see red and green tell apart."""


def draw_scores(scores: StoryScores, threshold: float | None = None) -> Float[Tensor, "h w 3"]:
    """All characters whose faces were measured, one below the other.

    On the left are the cosines of every two faces, in the frames whose cast has the character; grey where there is no
    face. On the right is a bar per frame, its mean cosine to the others; the worst one is red and marked. A dashed line
    is the threshold.

    Args:
        scores: A story's.
        threshold: The cosine above which the recogniser's faces count as one person's.
    """
    shown = [person for person in scores.characters if person.matrix is not None and person.frames]
    panels = [_panel(person, threshold) for person in shown] or [_note("No faces were measured.")]
    sheet = Image.new(
        "RGB",
        (max(each.width for each in panels) + 2 * GAP, sum(each.height + GAP for each in panels) + GAP),
        _PAPER,
    )
    top = GAP
    for panel in panels:
        sheet.paste(panel, (GAP, top))
        top += panel.height + GAP
    return torch.from_numpy(np.asarray(sheet, dtype=np.float32) / 255)


def colour_of_cosine(value: float) -> tuple[int, int, int]:
    """Red at 0 and below, blue at 1."""
    place = min(max(value, 0.0), 1.0) * (len(_SCALE) - 1)
    low = min(int(place), len(_SCALE) - 2)
    red, green, blue = (_SCALE[low] + (place - low) * (_SCALE[low + 1] - _SCALE[low])).round().astype(int).tolist()
    return red, green, blue


def _panel(person: CharacterScores, threshold: float | None) -> Image.Image:
    size = len(person.frames)
    left, top = 44, 62
    bars = left + size * CELL + 70
    panel = Image.new("RGB", (bars + BAR_WIDTH + 70, top + size * CELL + 24), _PAPER)
    draw = ImageDraw.Draw(panel)
    mean = person.scores.get(FACE_SIM)
    found = person.found.get(FACE_SIM, 0)
    said = "no two faces" if mean is None else f"Face-Sim {100 * mean:.1f}"
    draw.text((0, 0), printable(person.name, 40), fill=_INK, font=_font(20))
    draw.text((0, 27), f"{said}, {found} of {size} faces found", fill=_SOFT, font=_font(14))
    _matrix(draw, person, (left, top))
    _bars(draw, person, (bars, top), threshold)
    return panel


def _matrix(draw: ImageDraw.ImageDraw, person: CharacterScores, corner: tuple[int, int]) -> None:
    assert person.matrix is not None  # only such characters are drawn
    left, top = corner
    for row, frame in enumerate(person.frames):
        _centred(draw, (left - 20, top + row * CELL + CELL // 2), str(frame + 1), _SOFT)
        _centred(draw, (left + row * CELL + CELL // 2, top - 10), str(frame + 1), _SOFT)
        for column, other in enumerate(person.frames):
            value = float(person.matrix[frame, other])
            box = (left + column * CELL, top + row * CELL, left + (column + 1) * CELL - 2, top + (row + 1) * CELL - 2)
            draw.rectangle(box, fill=_EMPTY if np.isnan(value) else colour_of_cosine(value))
            if row != column and not np.isnan(value):
                dark = sum(colour_of_cosine(value)) < 380
                middle = (box[0] + CELL // 2 - 1, box[1] + CELL // 2 - 1)
                _centred(draw, middle, f"{100 * value:.0f}", _PAPER if dark else _INK)


def _bars(draw: ImageDraw.ImageDraw, person: CharacterScores, corner: tuple[int, int], threshold: float | None) -> None:
    left, top = corner
    values: Sequence[float | None] = person.of_frames.get(FACE_SIM, ())
    height = len(person.frames) * CELL
    for row, frame in enumerate(person.frames):
        value, middle = values[frame], top + row * CELL + CELL // 2 - 1
        _centred(draw, (left - 20, middle), str(frame + 1), _SOFT)
        if value is None:
            has_face = person.matrix is not None and not person.matrix[frame, frame].isnan()
            said = "no other face" if has_face else "no face"
            draw.text((left + 4, middle), said, fill=_SOFT, font=_font(13), anchor="lm")
            continue
        is_worst = frame == person.worst
        end = left + round(max(value, 0.0) * BAR_WIDTH)
        draw.rectangle((left, middle - 10, end, middle + 10), fill=_WORST if is_worst else _BAR)
        text = f"{100 * value:.0f}" + (" worst" if is_worst else "")
        draw.text((end + 6, middle), text, fill=_WORST if is_worst else _INK, font=_font(13), anchor="lm")
    draw.line((left, top - 4, left, top + height), fill=_SOFT)
    for share in (0.0, 0.5, 1.0):
        _centred(draw, (left + round(share * BAR_WIDTH), top + height + 12), f"{100 * share:.0f}", _SOFT)
    if threshold is not None:
        x = left + round(threshold * BAR_WIDTH)
        for y in range(top - 4, top + height, 8):
            draw.line((x, y, x, y + 4), fill=_INK)


def _note(text: str) -> Image.Image:
    picture = Image.new("RGB", (360, 40), _PAPER)
    ImageDraw.Draw(picture).text((0, 8), text, fill=_SOFT, font=_font(16))
    return picture


def _centred(draw: ImageDraw.ImageDraw, middle: tuple[int, int], text: str, colour: tuple[int, int, int]) -> None:
    draw.text(middle, text, fill=colour, font=_font(13), anchor="mm")


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)
