"""A story on one sheet, with what it was made of and how alike its faces are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .layout import Layout
from .quoting import printable
from .shapes import Float
from .sheet import Note, contact_sheet, draw_label, draw_layout, to_float, to_uint8

Picture = Float[Tensor, "_ _ 3"]

MOST_PORTRAITS = 4
"""How many portraits of a character are shown."""
_PORTRAITS_PER_CELL = 3
_WORST, _USUAL = (200, 60, 40), (70, 120, 180)


@dataclass(frozen=True)
class SheetFrame:
    """What a sheet shows of one frame.

    Args:
        picture: The finished frame, in [0, 1].
        caption: Empty for none.
        template: What the base model drew, if it is to be seen.
        layout: Who is where, if the masks are to be seen.
        faces: Whose face is in the frame, the mean cosine to their other faces, and whether it is their least; see
            `scores.report.faces_by_frame`.
    """

    picture: Picture
    caption: str = ""
    template: Picture | None = None
    layout: Layout | None = None
    faces: Sequence[tuple[str, float | None, bool]] = ()


def story_sheet(
    frames: Sequence[SheetFrame],
    columns: int,
    cell_width: int,
    portraits: Mapping[str, Sequence[Picture]] | None = None,
) -> Float[Tensor, "H W 3"]:
    """All frames, row by row: template, frame and masks one below the other, then the caption and the likeness.

    With nothing but pictures and captions it is `contact_sheet`.

    Args:
        frames: At least one.
        columns: Frames per row, 1 or more.
        cell_width: Width of a picture on the sheet, in pixels, 16 or more.
        portraits: By character, pictures that stand above the frames; the first four of each are shown.

    Raises:
        ValueError: If a layout is of another size than its picture.
    """
    pictures = (_column(frame, cell_width) for frame in frames)
    notes = [[_note(*face) for face in frame.faces] for frame in frames]
    sheet = contact_sheet(pictures, [frame.caption for frame in frames], columns, cell_width, notes)
    shown = {name: list(own)[:MOST_PORTRAITS] for name, own in (portraits or {}).items() if len(own)}
    if not shown:
        return sheet
    images = [image for own in shown.values() for image in own]
    names = [text for name, own in shown.items() for text in (printable(name, 60), *[""] * (len(own) - 1))]
    width = max(16, cell_width // _PORTRAITS_PER_CELL)
    per_row = max(1, (sheet.shape[1] - 16) // (width + 16))
    return _stacked(contact_sheet(images, names, per_row, width), sheet)


def _column(frame: SheetFrame, width: int) -> Picture:
    """The pictures of a frame one below the other, each with its name if there are several."""
    parts = {"template": frame.template, "frame": frame.picture}
    if frame.layout is not None:
        parts["masks"] = _masked(frame.picture, frame.layout, width)
    shown = {name: picture for name, picture in parts.items() if picture is not None}
    if len(shown) == 1:
        return frame.picture
    scaled = [_named(picture, name, width) for name, picture in shown.items()]
    return torch.cat([to_float(picture) for picture in scaled])


def _masked(picture: Picture, layout: Layout, width: int) -> Picture:
    """The masks over their picture, in the size of the sheet, so that names are no larger than elsewhere."""
    if not len(layout.names):
        return picture
    if layout.size != tuple(picture.shape[:2]):
        return draw_layout(picture, layout)  # raises, and says what does not fit
    scaled = to_float(_scaled(picture, width))
    masks = torch.nn.functional.interpolate(layout.masks[None].float(), size=tuple(scaled.shape[:2]))[0] > 0.5
    return draw_layout(scaled, Layout(layout.names, masks, layout.label))


def _scaled(picture: Picture, width: int) -> Image.Image:
    image = Image.fromarray(to_uint8(picture))
    return image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)


def _named(picture: Picture, name: str, width: int) -> Image.Image:
    image = _scaled(picture, width)
    font = ImageFont.load_default(size=max(10, width // 28))
    draw_label(ImageDraw.Draw(image), (0, 0), name, font, (255, 255, 255))
    return image


def _note(name: str, likeness: float | None, is_worst: bool) -> Note:
    if likeness is None:
        return Note(f"{printable(name, 60)}: no face to compare", _USUAL)
    least = ", least like the others" if is_worst else ""
    return Note(f"{printable(name, 60)}: {100 * likeness:.1f}{least}", _WORST if is_worst else _USUAL)


def _stacked(upper: Picture, lower: Picture) -> Picture:
    """Two sheets one above the other, on white."""
    both = torch.ones(len(upper) + len(lower), max(upper.shape[1], lower.shape[1]), 3)
    both[: len(upper), : upper.shape[1]] = upper
    both[len(upper) :, : lower.shape[1]] = lower
    return both
