"""Stories drawn in every mode, side by side, on one picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...core.atomic_files import atomic_write
from ...core.shapes import Float
from ...core.toyworld.sizes import TOY_WORLD
from .stories import FRAMES

SCALE = 2
_GAP, _LINE = 12, 16
_COLOURS = 192


@dataclass(frozen=True)
class Figure:
    """What is on a figure.

    Args:
        name: The end of its file's name; the page's name comes before it.
        rows: The drawing modes that a strip keeps, from the top.
        columns: Which of them are shown, and their titles.
        across: How many of a story's frames stand side by side.
        stories: Which are shown.
    """

    name: str
    rows: tuple[str, ...]
    columns: Mapping[str, str]
    across: int
    stories: tuple[int, ...]


def write_strip(path: Path, pictures: Mapping[str, Sequence[Float[Tensor, "h w 3"]]], rows: Sequence[str]) -> None:
    """Keep a story's pictures: one row per mode, one column per frame."""
    strips = [torch.cat(list(pictures[name]), dim=1) for name in rows]
    pixels = (torch.cat(strips).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def read_strip(path: Path, rows: Sequence[str]) -> dict[str, list[Float[Tensor, "h w 3"]]]:
    """The pictures that `write_strip` kept, in steps of 1/255.

    Raises:
        ValueError: If the file is no strip of these rows.
    """
    try:
        with Image.open(path) as picture:
            pixels = torch.from_numpy(np.array(picture.convert("RGB"))).float() / 255
    except OSError as error:
        raise ValueError(f"{path} cannot be read as a picture; delete it and its numbers, and run again.") from error
    if tuple(pixels.shape[:2]) != (len(rows) * TOY_WORLD.picture_side, FRAMES * TOY_WORLD.picture_side):
        raise ValueError(f"{path} does not hold {len(rows)} rows of {FRAMES} pictures.")
    strips = pixels.split(TOY_WORLD.picture_side, dim=0)
    return {name: list(strip.split(TOY_WORLD.picture_side, dim=1)) for name, strip in zip(rows, strips, strict=True)}


def write_figure(path: Path, shape: Figure, strips: Sequence[Path], captions: Sequence[str]) -> None:
    """A row per story, a column per mode, each with the story's frames, twice as large.

    Args:
        path: Where the figure goes; a PNG with a palette, to be small.
        shape: What is on it.
        strips: Files that `write_strip` wrote.
        captions: What is written above each row.
    """
    font = ImageFont.load_default(size=13)
    wide, high = (frames * TOY_WORLD.picture_side * SCALE for frames in (shape.across, FRAMES // shape.across))
    titles = 2 * _LINE
    width, height = _GAP + len(shape.columns) * (wide + _GAP), titles + len(strips) * (high + _LINE + _GAP)
    figure = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(figure)
    for column, title in enumerate(shape.columns.values()):
        pen.text((_GAP + column * (wide + _GAP), 6), title, fill="black", font=font)
    for row, (strip, caption) in enumerate(zip(strips, captions, strict=True)):
        top = titles + row * (high + _LINE + _GAP)
        pen.text((_GAP, top - 4), caption, fill=(90, 90, 90), font=font)
        for column, name in enumerate(shape.columns):
            block = _block(strip, shape.rows.index(name), shape.across)
            figure.paste(block, (_GAP + column * (wide + _GAP), top + _LINE))
    with atomic_write(path) as temporary:
        figure.quantize(_COLOURS, dither=Image.Dither.NONE).save(temporary, format="PNG", optimize=True)


def _block(strip: Path, row: int, across: int) -> Image.Image:
    """The frames of one mode, so many side by side, enlarged."""
    with Image.open(strip) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    top = row * TOY_WORLD.picture_side
    frames = [
        pixels[top : top + TOY_WORLD.picture_side, n * TOY_WORLD.picture_side : (n + 1) * TOY_WORLD.picture_side]
        for n in range(FRAMES)
    ]
    lines = [np.concatenate(frames[first : first + across], axis=1) for first in range(0, FRAMES, across)]
    return Image.fromarray(np.concatenate(lines).repeat(SCALE, axis=0).repeat(SCALE, axis=1))
