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
MOST = 1200
"""Side of the largest matrix, in pixels: more than 30 frames get smaller cells without numbers, more than 600 share
pixels."""
_LEGIBLE, _WIDE = 16, 40
"""Pixels from one line of text to the next, and from one number to the next beside it."""
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
    red, green, blue = colours_of_cosines(np.array([value]))[0].tolist()
    return red, green, blue


def colours_of_cosines(values: np.ndarray) -> np.ndarray:
    """`colour_of_cosine` of each value, (... 3) in 8 bits; light grey for NaN."""
    place = np.nan_to_num(values.astype(np.float64)).clip(0, 1) * (len(_SCALE) - 1)
    low = np.minimum(place.astype(int), len(_SCALE) - 2)
    colours = _SCALE[low] + (place - low)[..., None] * (_SCALE[low + 1] - _SCALE[low])
    return np.where(np.isnan(values)[..., None], np.array(_EMPTY, np.float64), colours).round().astype(np.uint8)


def _panel(person: CharacterScores, threshold: float | None) -> Image.Image:
    size = len(person.frames)
    side = min(size * CELL, MOST)
    left, top = 44, 62
    bars = left + side + 70
    panel = Image.new("RGB", (bars + BAR_WIDTH + 70, top + side + 24), _PAPER)
    draw = ImageDraw.Draw(panel)
    mean = person.scores.get(FACE_SIM)
    found = person.found.get(FACE_SIM, 0)
    said = "no two faces" if mean is None else f"Face-Sim {100 * mean:.1f}"
    draw.text((0, 0), printable(person.name, 40), fill=_INK, font=_font(20))
    draw.text((0, 27), f"{said}, {found} of {size} faces found", fill=_SOFT, font=_font(14))
    assert person.matrix is not None  # only such characters are drawn
    rows = torch.tensor(person.frames)
    cosines = person.matrix[rows[:, None], rows].numpy()
    panel.paste(_matrix(cosines, side), (left, top))
    for row in _numbered(size, side, _LEGIBLE):
        _centred(draw, (left - 20, top + _middle(row, size, side)), str(person.frames[row] + 1), _SOFT)
    for row in _numbered(size, side, _WIDE):
        _centred(draw, (left + _middle(row, size, side), top - 10), str(person.frames[row] + 1), _SOFT)
    _bars(draw, person, (bars, top), side, threshold)
    return panel


def _middle(row: int, size: int, side: int) -> int:
    """Where the middle of a row is that shares a side with others, in pixels."""
    return (2 * row + 1) * side // (2 * size)


def _numbered(size: int, side: int, room: int) -> range:
    """The rows that have so much room for their number, in pixels."""
    return range(0, size, max(1, -(-room * size // side)))


def _matrix(cosines: np.ndarray, side: int) -> Image.Image:
    """Every two faces' cosine as a colour, and as a number where cells are large enough."""
    if len(cosines) * CELL > side:
        filled = colours_of_cosines(cosines)
        shrunk = Image.Resampling.NEAREST if len(cosines) <= side else Image.Resampling.BOX
        return Image.fromarray(filled).resize((side, side), shrunk)
    picture = Image.new("RGB", (side, side), _PAPER)
    draw = ImageDraw.Draw(picture)
    for (row, column), value in np.ndenumerate(cosines):
        box = (column * CELL, row * CELL, (column + 1) * CELL - 2, (row + 1) * CELL - 2)
        draw.rectangle(box, fill=_EMPTY if np.isnan(value) else colour_of_cosine(value))
        if row != column and not np.isnan(value):
            dark = sum(colour_of_cosine(value)) < 380
            middle = (box[0] + CELL // 2 - 1, box[1] + CELL // 2 - 1)
            _centred(draw, middle, f"{100 * value:.0f}", _PAPER if dark else _INK)
    return picture


def _bars(
    draw: ImageDraw.ImageDraw, person: CharacterScores, corner: tuple[int, int], side: int, threshold: float | None
) -> None:
    (left, top), size = corner, len(person.frames)
    half = min(10, max(0, side // size // 2 - 2))
    numbered = _numbered(size, side, _LEGIBLE)
    worst = next((row for row, frame in enumerate(person.frames) if frame == person.worst), None)
    for row in range(size):
        near_worst = worst is not None and row != worst and abs(row - worst) * side < _LEGIBLE * size
        _bar(draw, person, row, (left, top + _middle(row, size, side) - 1), half, row in numbered and not near_worst)
    draw.line((left, top - 4, left, top + side), fill=_SOFT)
    for share in (0.0, 0.5, 1.0):
        _centred(draw, (left + round(share * BAR_WIDTH), top + side + 12), f"{100 * share:.0f}", _SOFT)
    if threshold is not None:
        x = left + round(threshold * BAR_WIDTH)
        for y in range(top - 4, top + side, 8):
            draw.line((x, y, x, y + 4), fill=_INK)


def _bar(
    draw: ImageDraw.ImageDraw, person: CharacterScores, row: int, place: tuple[int, int], half: int, numbered: bool
) -> None:
    """A frame's mean cosine to the others, from its place to the right; the worst one is always numbered."""
    (left, middle), frame = place, person.frames[row]
    values: Sequence[float | None] = person.of_frames.get(FACE_SIM, ())
    value, is_worst = values[frame], frame == person.worst
    numbered |= is_worst
    if numbered:
        _centred(draw, (left - 20, middle), str(frame + 1), _SOFT)
    if value is None:
        has_face = person.matrix is not None and not person.matrix[frame, frame].isnan()
        said = "no other face" if has_face else "no face"
        if numbered:
            draw.text((left + 4, middle), said, fill=_SOFT, font=_font(13), anchor="lm")
        return
    end = left + round(max(value, 0.0) * BAR_WIDTH)
    draw.rectangle((left, middle - half, end, middle + half), fill=_WORST if is_worst else _BAR)
    if numbered:
        text = f"{100 * value:.0f}" + (" worst" if is_worst else "")
        draw.text((end + 6, middle), text, fill=_WORST if is_worst else _INK, font=_font(13), anchor="lm")


def _note(text: str) -> Image.Image:
    picture = Image.new("RGB", (360, 40), _PAPER)
    ImageDraw.Draw(picture).text((0, 8), text, fill=_SOFT, font=_font(16))
    return picture


def _centred(draw: ImageDraw.ImageDraw, middle: tuple[int, int], text: str, colour: tuple[int, int, int]) -> None:
    draw.text(middle, text, fill=colour, font=_font(13), anchor="mm")


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)
