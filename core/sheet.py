"""Pictures that show results: a layout drawn over its frame, a story on one sheet."""

import colorsys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .layout import Layout
from .shapes import Float
from .text_lines import wrap

_MARGIN = 16
_INK = (40, 40, 40)


class Note(NamedTuple):
    """A text under a picture of a sheet, in a colour."""

    text: str
    colour: tuple[int, int, int] = _INK


def colour_of(index: int) -> tuple[int, int, int]:
    """A colour per character: golden-ratio steps around the hue circle, so neighbours differ."""
    red, green, blue = colorsys.hsv_to_rgb((0.58 + index * 0.618034) % 1.0, 0.75, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_layout(image: Float[Tensor, "h w 3"], layout: Layout) -> Float[Tensor, "h w 3"]:
    """The frame with each character's mask tinted and named at the feet; empty masks are listed at the bottom.

    Raises:
        ValueError: If the layout was made for a picture of another size.
    """
    if tuple(image.shape[:2]) != layout.size:
        height, width = layout.size
        raise ValueError(
            f"{layout.label}: the picture is {image.shape[1]}x{image.shape[0]}, but the layout is {width}x{height}."
        )
    pixels = to_uint8(image).astype(np.float32)
    for index, mask in enumerate(layout.masks.numpy()):
        pixels[mask] = 0.5 * pixels[mask] + 0.5 * np.array(colour_of(index), dtype=np.float32)
    picture = Image.fromarray(pixels.round().astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(10, picture.height // 32))
    missing = [name for name, mask in zip(layout.names, layout.masks, strict=True) if not mask.any()]
    for index, (name, mask) in enumerate(zip(layout.names, layout.masks, strict=True)):
        if mask.any():
            rows, columns = torch.nonzero(mask.any(dim=1)), torch.nonzero(mask.any(dim=0))
            draw_label(draw, (int(columns[0]), int(rows[-1])), name, font, colour_of(index))
    if missing:
        draw_label(draw, (0, picture.height), f"not found: {', '.join(missing)}", font, (255, 255, 255))
    return to_float(picture)


def draw_maps(
    image: Float[Tensor, "h w 3"], maps: Float[Tensor, "s h w"], names: Sequence[str]
) -> Float[Tensor, "h w 3"]:
    """The picture, darkened, with each character's map over it in their colour, and their name below its highest place.

    Args:
        image: In [0, 1].
        maps: In [0, 1]; a map of zeros is a character who is not there.
        names: One per map.
    """
    pixels = 0.35 * to_uint8(image).astype(np.float32)
    for index, heat in enumerate(maps.numpy()):
        pixels += heat[..., None] * (np.array(colour_of(index), dtype=np.float32) - pixels)
    picture = Image.fromarray(pixels.round().astype(np.uint8))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=max(10, picture.height // 32))
    for index, (name, heat) in enumerate(zip(names, maps, strict=True)):
        if heat.any():
            draw_label(draw, (int(heat.argmax()) % heat.shape[1], picture.height), name, font, colour_of(index))
    return to_float(picture)


def contact_sheet(
    images: Iterable[Float[Tensor, "_ _ 3"]],
    captions: Sequence[str],
    columns: int,
    cell_width: int,
    notes: Sequence[Sequence[Note]] | None = None,
) -> Float[Tensor, "H W 3"]:
    """All pictures on one sheet, row by row, each scaled to one width, with its caption under it.

    Args:
        images: Any sizes; at least one. Each is taken, scaled down to 8 bits and let go before the next.
        captions: One per picture; an empty one takes no room.
        columns: 1 or more.
        cell_width: Width of a picture on the sheet, in pixels, 16 or more.
        notes: Per picture, what stands under its caption, each on a line of its own.
    """
    if not captions:
        raise ValueError("The sheet has no pictures.")
    if columns < 1 or cell_width < 16:
        raise ValueError(f"A sheet needs at least 1 column and cells of 16 pixels, not {columns} and {cell_width}.")
    font = ImageFont.load_default(size=max(10, cell_width // 22))
    own = notes or [()] * len(captions)
    cells = [_cell(*each, cell_width, font) for each in zip(images, captions, own, strict=True)]
    columns = min(columns, len(cells))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    width = columns * (cell_width + _MARGIN) + _MARGIN
    sheet = torch.ones(sum(heights) + _MARGIN * (len(rows) + 1), width, 3)
    top = _MARGIN
    for row, height in zip(rows, heights, strict=True):
        strip = Image.new("RGB", (width, height), "white")
        for column, cell in enumerate(row):
            strip.paste(cell, (_MARGIN + column * (cell_width + _MARGIN), 0))
        sheet[top : top + height] = to_float(strip)
        top += height + _MARGIN
    return sheet


def _cell(
    image: Tensor, caption: str, notes: Sequence[Note], width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> Image.Image:
    picture = Image.fromarray(to_uint8(image))
    picture = picture.resize((width, max(1, round(picture.height * width / picture.width))), Image.Resampling.LANCZOS)
    lines = [(line, _INK) for line in wrap(caption, width, font.getlength)]
    lines += [(line, note.colour) for note in notes for line in wrap(note.text, width, font.getlength)]
    line_height = round(font.getbbox("Ag")[3] * 1.25)
    cell = Image.new("RGB", (width, picture.height + (line_height * len(lines) + 6 if lines else 0)), "white")
    cell.paste(picture, (0, 0))
    draw = ImageDraw.Draw(cell)
    for number, (line, colour) in enumerate(lines):
        draw.text((0, picture.height + 4 + number * line_height), line, fill=colour, font=font)
    return cell


def draw_label(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    text: str,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    colour: tuple[int, int, int],
) -> None:
    """Write text on a plate at a corner, moved inside the picture where it would stick out."""
    width, height = draw.im.size if draw.im else (0, 0)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    x = max(0, min(corner[0], width - round(right - left) - 8))
    y = max(0, min(corner[1], height - round(bottom) - 8))
    draw.rectangle((x, y, x + right - left + 8, y + bottom + 6), fill=(0, 0, 0))
    draw.text((x + 4, y + 2), text, fill=colour, font=font)


def to_uint8(image: Float[Tensor, "h w c"]) -> np.ndarray:
    """A picture in [0, 1] in 8-bit levels; what is beyond is cut off."""
    return (image.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def to_float(picture: Image.Image) -> Float[Tensor, "h w 3"]:
    """A picture of Pillow's in [0, 1]."""
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)
