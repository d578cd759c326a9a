"""Picture files of people: upright, RGB, 8 bits a channel; the reference pictures of a run."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..core.quoting import printable, quote
from ..core.shapes import Float

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_WHITES = (1.0, 255.0, 65535.0)
"""What may be white in a file whose numbers have more than 8 bits."""


def picture_files(path: Path) -> list[Path]:
    """A file itself; of a folder the pictures in it, by name."""
    if not path.is_dir():
        return [path]
    return sorted(each for each in path.iterdir() if each.suffix.lower() in _PICTURES and each.is_file())


def read_references(references: Sequence[tuple[str, str]]) -> dict[str, list[Float[Tensor, "_ _ 3"]]]:
    """The pictures of each character, in [0, 1], in the order in which they are given.

    Args:
        references: Names of characters, and a picture or a folder of pictures of each; a name may come again.

    Raises:
        ValueError: If a folder has no pictures, or a file cannot be read as one; it names the character and the file.
    """
    pictures: dict[str, list[Tensor]] = {}
    for name, text in references:
        files = picture_files(Path(text))
        if not files:
            raise ValueError(
                f"references: the folder {printable(text)} of {quote(name)} has no pictures ({', '.join(_PICTURES)})."
            )
        for file in files:
            try:
                pictures.setdefault(name, []).append(read_float(file))
            except ValueError as error:
                raise ValueError(
                    f"references: the picture {printable(str(file))} of {quote(name)} cannot be read: "
                    f"{printable(str(error))}."
                ) from error
    return pictures


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
