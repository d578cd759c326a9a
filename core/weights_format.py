"""What a weight file holds, looked at without loading it: for files whose hash nobody has published.

Standard library only, see weights.py. The layouts are those of safetensors' README, torch.save and onnx.proto.
"""

import json
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

if __package__:
    from .quoting import quote
else:
    from quoting import quote

LARGEST_HEADER = 100_000_000
"""Bytes of a safetensors header; the safetensors library refuses more."""

LARGEST_TEXT = 2**26
"""Bytes of a tokenizer's file that are read at most; the largest in use are a third of it."""

TORCH_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""What a file of torch.save begins with if it is not a zip archive: the pickle of torch's magic number."""


class FormatError(ValueError):
    """The content is not what the name of the file promises; the text says what was found."""


def describe_stand_in(path: str | Path) -> str | None:
    """What servers send in place of a file: an empty file, a web page, a Git LFS pointer; None for anything else."""
    with Path(path).open("rb") as file:
        head = file.read(512)
    if not head:
        return "an empty file"
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|\?xml)", head, re.IGNORECASE):
        return "a web page"
    if head.startswith(b"version https://git-lfs.github.com/"):
        return "a Git LFS pointer, the text that stands for a file"
    return None


def is_known(name: str) -> bool:
    """Whether `check_format` knows what a file of this name holds."""
    return Path(name).suffix in _CHECKS


def check_format(path: str | Path, name: str) -> None:
    """Check that a file is whole and of the format that a name stands for.

    Args:
        path: The file; a download under way has another name.
        name: Its name in the end; the suffix decides.

    Raises:
        FormatError: If it is not.
    """
    if stand_in := describe_stand_in(path):
        raise FormatError(f"it is {stand_in}")
    _CHECKS[Path(name).suffix](Path(path))


def _check_safetensors(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(LARGEST_HEADER, size - 8):
            raise FormatError("it does not begin as a safetensors file does")
        header = _json_object(file.read(length), "the header of the safetensors file")
    ends = [_end_of_tensor(name, tensor) for name, tensor in header.items() if name != "__metadata__"]
    if not ends:
        raise FormatError("the safetensors file holds no tensor")
    if 8 + length + max(ends) != size:
        raise FormatError(f"its safetensors header describes {8 + length + max(ends)} bytes, it has {size}")


def _end_of_tensor(name: str, tensor: Any) -> int:
    offsets = tensor.get("data_offsets") if isinstance(tensor, Mapping) else None
    if not isinstance(offsets, list) or [type(offset) for offset in offsets] != [int, int]:
        raise FormatError(f"its safetensors header does not say where the tensor {quote(name)} lies")
    return offsets[1]


def _check_torch(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(TORCH_MAGIC)) == TORCH_MAGIC:
            return
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, struct.error) as error:
        raise FormatError("it is neither a whole zip archive of torch.save nor a pickle of it") from error
    if not any(name.split("/")[-1] == "data.pkl" for name in names):
        raise FormatError("it is a zip archive, but not one of torch.save: data.pkl is missing")


def _check_onnx(path: Path) -> None:
    with path.open("rb") as file:
        tag, version = (file.read(2) + b"\0\0")[:2]
    if tag != 0x08 or not 0 < version < 0x80:  # ModelProto's first field is ir_version
        raise FormatError("it does not begin as an ONNX model does")


def _check_json(path: Path) -> None:
    value = _json_object(_text(path), "it")
    if "error" in value:
        raise FormatError(f"it is a server's error message: {quote(value['error'])}")


def _check_vocabulary(path: Path) -> None:
    try:
        lines = _text(path).decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise FormatError("it is not text in UTF-8") from error
    for number, line in enumerate(lines, start=1):
        if not line or re.search(r"[ \t\0]", line):
            raise FormatError(f"it is not a vocabulary with one token in each line: line {number} is {quote(line)}")


def _text(path: Path) -> bytes:
    if path.stat().st_size > LARGEST_TEXT:
        raise FormatError(f"it has more than {LARGEST_TEXT} bytes, too many for a file of a tokenizer")
    return path.read_bytes()


def _json_object(text: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not JSON") from error
    if not isinstance(value, dict):
        raise FormatError(f"{what} is not a JSON object")
    return value


_CHECKS: dict[str, Callable[[Path], None]] = {
    ".safetensors": _check_safetensors,
    **dict.fromkeys((".bin", ".ckpt", ".pt", ".pth"), _check_torch),
    ".onnx": _check_onnx,
    ".json": _check_json,
    ".txt": _check_vocabulary,
}
