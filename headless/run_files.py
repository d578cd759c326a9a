"""The files of a run: pictures that say how they were made, masks, and marks that tell files apart."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..core.atomic_files import replacing
from ..core.layout import Layout
from ..core.shapes import Float
from ..core.sheet import colour_of
from ..core.story import Frame

_KEY = "story_identity"
_SAMPLE_BYTES = 2**20


def frame_file(index: int) -> str:
    """The file name of the frame at `index`, from 0; its template, masks and layout are called the same."""
    return f"frame_{index + 1:04d}.png"


def write_picture(path: Path, picture: Float[Tensor, "h w 3"], about: Mapping[str, Any]) -> None:
    """Write an 8-bit PNG whose metadata holds `about` as JSON."""
    pixels = (picture.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    _write_png(path, Image.fromarray(pixels), about)


def read_about(path: Path) -> dict[str, Any]:
    """What `write_picture` put into a PNG's metadata.

    Raises:
        ValueError: If the file is no PNG of ours.
    """
    try:
        with Image.open(path) as picture:
            return json.loads(picture.info[_KEY])
    except (UnidentifiedImageError, KeyError, OSError) as error:
        raise ValueError(f"{path} is damaged, or not one of this run's pictures; delete it and run again.") from error


def write_masks(path: Path, layout: Layout) -> None:
    """Write all masks of a frame as one PNG, as `mask_picture` makes it."""
    _write_png(path, mask_picture(layout), {"names": list(layout.names)})


def mask_picture(layout: Layout) -> Image.Image:
    """All masks of a frame as one picture: 0 is the background, n the frame's nth character, in a palette."""
    numbered = np.zeros(layout.size, dtype=np.uint8)
    for number, mask in enumerate(layout.masks.numpy(), start=1):
        numbered[mask] = number
    picture = Image.fromarray(numbered)  # one channel, which a palette turns into colours
    picture.putpalette([0, 0, 0, *(part for index in range(len(layout.names)) for part in colour_of(index))])
    return picture


def read_masks(path: Path, frame: Frame, height: int, width: int) -> Layout:
    """The layout of a frame, from a file that `write_masks` wrote and that may have been painted in since.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is of another size, is no palette or grey picture, or has more numbers than characters.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{frame.label}: there is no mask file {path}.")
    with Image.open(path) as picture:
        if picture.mode not in ("P", "L") or picture.size != (width, height):
            raise ValueError(
                f"{frame.label}: {path} is a {picture.mode} picture of {picture.width}x{picture.height}; expected a "
                f"palette picture of {width}x{height} in which 0 is the background and n the nth character."
            )
        numbered = torch.from_numpy(np.array(picture))
    names = tuple(character.name for character in frame.cast)
    if int(numbered.max()) > len(names):
        raise ValueError(
            f"{frame.label}: {path} has the number {int(numbered.max())}, but the frame shows {len(names)} characters."
        )
    masks = [numbered == number for number in range(1, len(names) + 1)]
    return Layout(
        names, torch.stack(masks) if masks else torch.zeros((0, height, width), dtype=torch.bool), frame.label
    )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_manifest(path: Path, form: str, what: str) -> dict[str, Any] | None:
    """A manifest that `write_json` wrote, or None where there is none.

    Raises:
        ValueError: If it is not one of this format.
    """
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != form:
        raise ValueError(f"{path} is not the manifest of {what}; choose another folder.")
    return manifest


def mark_of(path: Path, only: Sequence[str] = ()) -> str:
    """A short mark that changes with the content: of the size, first and last megabyte of a file, or a folder's files.

    Names within a folder count, where it lies does not. `only` names the files and folders in it that are read.
    """
    digest = hashlib.sha256()
    places = [path / name for name in only] or [path]
    files = [file for place in places for file in ([place] if place.is_file() else sorted(place.rglob("*")))]
    for file in filter(Path.is_file, files):
        size = file.stat().st_size
        digest.update(f"{'' if file == path else file.relative_to(path).as_posix()} {size}\n".encode())
        with file.open("rb") as content:
            digest.update(content.read(_SAMPLE_BYTES))
            content.seek(max(0, size - _SAMPLE_BYTES))
            digest.update(content.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def _write_png(path: Path, picture: Image.Image, about: Mapping[str, Any]) -> None:
    information = PngInfo()
    information.add_itxt(_KEY, json.dumps(about, ensure_ascii=False))
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=information)
