"""Stories drawn every way, side by side, on one picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..replacing import replacing
from ..toyworld.models import PICTURE_SIDE
from .variants import DIRECT, TEMPLATE, VARIANTS

COLUMNS = {
    TEMPLATE: "base model", "mean": "mean of portraits", "discovered": "discovered", "true": "true identity",
    DIRECT: "direct",
}  # fmt: skip
SCALE = 2
_GAP, _LINE = 12, 16
_COLOURS = 192


def write_strip(path: Path, pictures: Mapping[str, Sequence[Float[Tensor, "h w 3"]]]) -> None:
    """Keep a story's pictures: one row per variant, one column per frame."""
    rows = [torch.cat(list(pictures[name]), dim=1) for name in VARIANTS]
    pixels = (torch.cat(rows).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def write_figure(path: Path, strips: Sequence[Path], captions: Sequence[str]) -> None:
    """A row per story, a column per variant, each with the story's frames two by two, twice as large.

    Args:
        path: Where the figure goes; a PNG with a palette, to be small.
        strips: Files that `write_strip` wrote.
        captions: What is written above each row.
    """
    font = ImageFont.load_default(size=13)
    side, titles = 2 * PICTURE_SIDE * SCALE, 2 * _LINE
    width, height = _GAP + len(COLUMNS) * (side + _GAP), titles + len(strips) * (side + _LINE + _GAP)
    figure = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(figure)
    for column, title in enumerate(COLUMNS.values()):
        pen.text((_GAP + column * (side + _GAP), 6), title, fill="black", font=font)
    for row, (strip, caption) in enumerate(zip(strips, captions, strict=True)):
        top = titles + row * (side + _LINE + _GAP)
        pen.text((_GAP, top - 4), caption, fill=(90, 90, 90), font=font)
        for column, name in enumerate(COLUMNS):
            figure.paste(_block(strip, name), (_GAP + column * (side + _GAP), top + _LINE))
    with replacing(path) as temporary:
        figure.quantize(_COLOURS, dither=Image.Dither.NONE).save(temporary, format="PNG", optimize=True)


def _block(strip: Path, name: str) -> Image.Image:
    """A variant's first four frames, two by two, enlarged."""
    with Image.open(strip) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    row = VARIANTS.index(name) * PICTURE_SIDE
    frames = [pixels[row : row + PICTURE_SIDE, n * PICTURE_SIDE : (n + 1) * PICTURE_SIDE] for n in range(4)]
    block = np.concatenate([np.concatenate(frames[:2], axis=1), np.concatenate(frames[2:], axis=1)])
    return Image.fromarray(block.repeat(SCALE, axis=0).repeat(SCALE, axis=1))
