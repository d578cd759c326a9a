"""Picture files as training reads them: upright, RGB, 8 bits a channel, one picture a file."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ...core.shapes import Float

_ORIENTATION = 0x0112
_WHITES = (1.0, 255.0, 65535.0)
"""What may be white in a file whose numbers have more than 8 bits."""


def open_picture(file: Path | io.BytesIO) -> Image.Image:
    """A picture as RGB, turned upright; what is transparent becomes white, and of several pictures the first is taken.

    Raises:
        ValueError: If it cannot be read, or claims to be so large that reading it would fill the memory.
    """
    try:
        with Image.open(file) as found:
            picture = ImageOps.exif_transpose(found)
            if picture.mode == "F" or picture.mode.startswith("I"):
                picture = _to_8_bits(picture)
            if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            return picture.convert("RGB")
    except Exception as error:  # Pillow's readers of damaged files raise nearly everything
        raise ValueError(f"{type(error).__name__}: {error}") from error


def read_float(path: Path) -> Float[Tensor, "h w 3"]:
    """A picture in [0, 1]."""
    return torch.from_numpy(np.asarray(open_picture(path), dtype=np.float32) / 255)


def _to_8_bits(picture: Image.Image) -> Image.Image:
    """A grey picture of 16 or 32 bits, scaled: white is 65535, and of floating point numbers 1, 255 or 65535.

    Pillow's own conversion cuts off everything above 255.
    """
    values = np.nan_to_num(np.asarray(picture, dtype=np.float32))
    largest = float(values.max(initial=0))
    white = _WHITES[-1] if picture.mode != "F" else next((each for each in _WHITES if largest <= each), largest)
    scaled = np.round(values.clip(0, white) * (255 / white)).astype(np.uint8)
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        scaled[values == transparent] = 255
    return Image.fromarray(scaled)


def stored_picture(path: Path) -> tuple[str, bytes]:
    """Suffix and bytes of a picture as a database keeps it: an upright RGB PNG or JPEG as it is, others as PNG."""
    with Image.open(path) as found:
        plain = found.mode == "RGB" and "transparency" not in found.info and getattr(found, "n_frames", 1) == 1
        if plain and found.format in ("PNG", "JPEG") and found.getexif().get(_ORIENTATION, 1) == 1:
            return {"PNG": "png", "JPEG": "jpg"}[found.format], path.read_bytes()
    return "png", png_bytes(open_picture(path))


def png_bytes(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()


def spread_of(picture: Image.Image) -> float:
    """The standard deviation of an 8-bit picture's numbers, which are in [0, 1]; over all channels."""
    counts = np.asarray(picture.histogram(), dtype=np.float64).reshape(-1, 256).sum(axis=0)
    levels = np.arange(256) / 255
    mean = (counts * levels).sum() / counts.sum()
    return float(np.sqrt((counts * (levels - mean) ** 2).sum() / counts.sum()))
