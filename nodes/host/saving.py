"""Pictures in ComfyUI's output folder under fixed names: a new picture replaces the one of the same name.

A digest of the pixels in a PNG says that this pack wrote it. Other files are never replaced.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from comfy.cli_args import args
from PIL import Image, PdfParser
from PIL.PngImagePlugin import PngInfo

from ...core.atomic_files import atomic_write
from ...core.quoting import printable, quote

_ROWS = 256
"""How many rows of a picture are converted at a time: a sheet may have many thousands."""
_MARK = "StoryIdentity"
"""The text chunk of a PNG that this pack wrote: a digest of its pixels."""


def place_of(node: str, prefix: str, width: int, height: int) -> tuple[Path, str, str]:
    """Folder, name and subfolder of the output folder, as Save Image understands a prefix.

    Args:
        node: What messages call the node.
        prefix: What stands in its widget filename_prefix.
        width: Of the pictures, for a prefix that has %width%.
        height: Likewise.

    Raises:
        ValueError: If the prefix names no file.
    """
    folder, name, _, subfolder, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory(), width, height
    )
    if not name or printable(name, 200) != name:
        raise ValueError(f"{node}: filename_prefix {quote(prefix)} names no file. Write a folder and a name.")
    return Path(folder), name, subfolder


def save_png(node: str, path: Path, picture: torch.Tensor, prompt: Any, more: dict[str, Any] | None) -> None:
    """Write a picture with ComfyUI's metadata, unless the file has the very same pixels.

    Args:
        node: What messages call the node.
        path: Of the file.
        picture: (h w 3) in [0, 1].
        prompt: The hidden input `prompt` of the node.
        more: The hidden input `extra_pnginfo` of the node.

    Raises:
        ValueError: If the file is there and no node of this pack wrote it.
    """
    pixels = np.empty(picture.shape, np.uint8)
    for first in range(0, len(pixels), _ROWS):
        rows = slice(first, first + _ROWS)
        pixels[rows] = np.clip(255.0 * picture[rows].cpu().numpy(), 0, 255)  # rounded down, as Save Image does
    digest = _digest(pixels)
    known = _digest_of(path)
    if known == digest:
        return
    if known is None and path.exists():
        raise ValueError(_foreign(node, path))
    metadata = PngInfo()
    metadata.add_text(_MARK, digest)
    if not args.disable_metadata:
        for key, value in {"prompt": prompt, **(more or {})}.items():
            if value is not None:
                metadata.add_text(key, json.dumps(value))
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=metadata, compress_level=4)


def save_pdf(node: str, path: Path, pages: Sequence[Image.Image], dots_per_inch: float) -> None:
    """Write pages as one PDF, as JPEG inside.

    Args:
        node: What messages call the node.
        path: Of the file.
        pages: At least one.
        dots_per_inch: Pixels of a page per inch of paper.

    Raises:
        ValueError: If the file is there and no node of this pack wrote it.
    """
    if path.exists() and not _is_our_pdf(path):
        raise ValueError(_foreign(node, path))
    first, *others = pages
    with atomic_write(path) as temporary:
        first.save(
            temporary,
            format="PDF",
            save_all=True,
            append_images=others,
            resolution=dots_per_inch,
            quality=92,
            producer=_MARK,
        )


def states_of(prefix: str, node: str, pattern: str) -> str:
    """Which files of a prefix there are, and how they were left, for `fingerprint_inputs`.

    Args:
        prefix: What stands in the widget filename_prefix.
        node: What messages call the node.
        pattern: What follows the prefix's name, as a regular expression.
    """
    folder, name, _ = place_of(node, prefix, 0, 0)
    whole = re.compile(re.escape(name) + pattern)
    files = sorted(path for path in folder.iterdir() if whole.fullmatch(path.name))
    return "\n".join(f"{path.name}:{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in files)


def _foreign(node: str, path: Path) -> str:
    return (
        f"{node}: {printable(str(path))} is there and was not saved by {node}. Move it away, or choose another "
        "filename_prefix."
    )


def _is_our_pdf(path: Path) -> bool:
    try:
        with PdfParser.PdfParser(str(path)) as pdf:
            return getattr(pdf.info, "Producer", None) == _MARK
    except Exception:  # the reader raises nearly everything there is on what is no PDF
        return False


def _digest(pixels: np.ndarray) -> str:
    digest = hashlib.sha256(f"{pixels.shape}".encode())
    digest.update(pixels.data)
    return digest.hexdigest()


def _digest_of(path: Path) -> str | None:
    """The digest in a file that this pack wrote; None for any other file, and where there is none."""
    if not path.is_file():
        return None
    try:
        with Image.open(path) as image:
            found = image.info.get(_MARK)
    except OSError:
        return None
    return found if isinstance(found, str) else None
