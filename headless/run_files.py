"""The files of a run: pictures that say how they were made, masks, and marks that tell files apart."""

import hashlib
import io
import json
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..core.atomic_files import atomic_write
from ..core.layout import Layout
from ..core.quoting import printable, quote_all
from ..core.shapes import Float, UInt8
from ..core.sheet import colour_of
from ..core.story import Frame

_KEY = "story_identity"
_CONTENT = "content"
_SAMPLE_BYTES = 2**20
_MARK = 16
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, zlib.error)
_TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def frame_file(index: int) -> str:
    """The file name of the frame at `index`, from 0; its template, masks and layout are called the same."""
    return f"frame_{index + 1:04d}.png"


def write_picture(path: Path, picture: Float[Tensor, "h w 3"], about: Mapping[str, Any]) -> None:
    """Write an 8-bit PNG whose metadata holds `about` as JSON."""
    pixels = (picture.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    _write_png(path, Image.fromarray(pixels), about)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A picture, of which only the header is read so far.

    Raises:
        ValueError: Also for what is done with the picture inside: if the file is missing, is no picture, ends early,
            is damaged, or claims more pixels than memory can be expected to hold.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                yield picture
    except (*_UNREADABLE, *_TOO_LARGE) as error:
        raise ValueError(f"{printable(str(path))} cannot be read as a picture: {printable(str(error))}.") from error


def is_whole(path: Path) -> bool:
    """Whether a file is a picture that can be decoded to its end, and whose check sums, if it has any, are right."""
    if not path.is_file():
        return False
    try:
        with opened(path) as picture:
            picture.verify()
        with opened(path) as picture:
            picture.load()
    except ValueError:
        return False
    return True


def read_about(path: Path) -> dict[str, Any]:
    """What `write_picture` put into a PNG's metadata.

    Raises:
        ValueError: If the file is no PNG of ours.
    """
    try:
        with opened(path) as picture:
            about = json.loads(picture.info[_KEY])
        if isinstance(about, dict):
            return about
        raise ValueError(f"the metadata is a {type(about).__name__}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{printable(str(path))} is damaged, or not one of this run's pictures; move it away and run again."
        ) from error


def write_masks(path: Path, layout: Layout) -> None:
    """Write all masks of a frame as one PNG, as `mask_picture` makes it; by its metadata a later change is noticed."""
    picture = mask_picture(layout)
    _write_png(path, picture, {"names": list(layout.names), _CONTENT: _mark_of_numbers(np.array(picture))})


def is_painted(path: Path) -> bool:
    """Whether a mask file is another than a run wrote: painted in, saved by another program, or put there.

    A damaged file is not. Of files that earlier versions wrote, which hold no mark, those count as painted that this
    version would write otherwise.
    """
    if not is_whole(path):
        return False
    try:
        about = read_about(path)
    except ValueError:
        return True
    with opened(path) as picture:
        if _CONTENT in about:
            return picture.mode != "P" or about[_CONTENT] != _mark_of_numbers(np.array(picture))
        return png_bytes(picture, about) != path.read_bytes()


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
    where = f"{frame.label}: {printable(str(path))}"
    if not path.is_file():
        raise FileNotFoundError(f"{frame.label}: there is no mask file {printable(str(path))}.")
    try:
        with opened(path) as picture:
            fits = picture.mode in ("P", "L") and picture.size == (width, height)
            found = f"a {picture.mode} picture of {picture.width}x{picture.height}"
            numbered = torch.from_numpy(np.array(picture)) if fits else None
    except ValueError as error:
        raise ValueError(f"{frame.label}: {error}") from error
    if numbered is None:
        raise ValueError(
            f"{where} is {found}; expected a palette picture of {width}x{height} in which 0 is the background and n "
            "the nth character."
        )
    names = tuple(character.name for character in frame.cast)
    if int(numbered.max()) > len(names):
        raise ValueError(f"{where} has the number {int(numbered.max())}, but the frame shows {len(names)} characters.")
    masks = [numbered == number for number in range(1, len(names) + 1)]
    return Layout(
        names, torch.stack(masks) if masks else torch.zeros((0, height, width), dtype=torch.bool), frame.label
    )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(json_bytes(content))


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """What `write_json` writes."""
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()


def read_manifest(path: Path, form: str, what: str) -> dict[str, Any] | None:
    """A manifest that `write_json` wrote, or None where there is none.

    Raises:
        ValueError: If it is not one of this format.
    """
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{printable(str(path))} is not valid JSON: {printable(str(error))}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != form:
        raise ValueError(f"{printable(str(path))} is not the manifest of {what}; choose another folder.")
    return manifest


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"a key is there twice: {quote_all(key for key, count in counts.items() if count > 1)}")
    return content


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
    return digest.hexdigest()[:_MARK]


def _mark_of_numbers(numbers: UInt8[np.ndarray, "h w"]) -> str:
    return hashlib.sha256(f"{numbers.shape} ".encode() + numbers.tobytes()).hexdigest()[:_MARK]


def _write_png(path: Path, picture: Image.Image, about: Mapping[str, Any]) -> None:
    content = png_bytes(picture, about)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def png_bytes(picture: Image.Image, about: Mapping[str, Any]) -> bytes:
    """A picture as PNG, whose metadata holds `about` as JSON."""
    information, content = PngInfo(), io.BytesIO()
    information.add_itxt(_KEY, json.dumps(about, ensure_ascii=False))
    picture.save(content, format="PNG", pnginfo=information)
    return content.getvalue()
