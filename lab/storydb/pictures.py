"""Picture files as a database keeps them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ...headless.reference_pictures import open_picture

_ORIENTATION = 0x0112


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
