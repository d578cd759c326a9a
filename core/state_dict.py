"""Files of weights: read without running code from them, and compared with the network they are for."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from .quoting import printable, quote, quote_all

_SAFETENSORS, _PICKLE = "a safetensors file", "a PyTorch file"
_ENDINGS = (".safetensors", ".sft")
_LOOK = 512  # bytes
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_FLOAT8 = torch.float8_e4m3fn
_SHOWN = 3
_BUFFER = "position_ids"
"""A buffer of whole numbers that transformers once saved and now computes; it holds nothing that was learned."""


class WeightFileError(ValueError):
    """A file of weights that cannot be used; the text names the file, what was found and what was expected."""


def read_tensors(path: Path, expected: str) -> dict[str, Any]:
    """What a file of weights holds, on the CPU: tensors by name, or dicts of them.

    Args:
        path: A .safetensors or .sft file, or with any other ending a dict that PyTorch saved.
        expected: What the file should be, for the message: "a PhotoMaker file".

    Raises:
        FileNotFoundError: If there is no such file.
        WeightFileError: If it cannot be read, or holds something other than a dict with text for keys.
    """
    with reading(path, expected):
        if path.suffix.lower() in _ENDINGS:
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
        return named(content, path, expected)


def read_shapes(path: Path, expected: str) -> dict[str, Any]:
    """As `read_tensors`, without the numbers: on the meta device."""
    with reading(path, expected):
        if path.suffix.lower() not in _ENDINGS:
            return named(torch.load(path, map_location="meta", weights_only=True), path, expected)
        with safe_open(path, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            return {
                key: torch.empty(each.get_shape(), dtype=_dtype(each.get_dtype()), device="meta")
                for key, each in slices.items()
            }


@contextmanager
def reading(path: Path, expected: str, ending: str = "") -> Iterator[None]:
    """Around the reading of a file: whatever is wrong with it becomes one sentence that names it.

    Args:
        path: The file; its first bytes are looked at before the block runs.
        expected: What it should be, for the message.
        ending: What its name should end in; empty: what it ends in.

    Raises:
        FileNotFoundError: If there is no such file.
        WeightFileError: If it is no file of the format that the ending stands for, or the block raises.
    """
    name = printable(str(path))
    if not path.exists():
        raise FileNotFoundError(f"There is no file {name}; {expected} was expected there.")
    wanted = _SAFETENSORS if (ending or path.suffix).lower() in _ENDINGS else _PICKLE
    try:
        problem = _wrong_format(path, wanted)
    except OSError as error:
        problem = f"the system does not let it be read ({printable(str(error), 200)})."
    if problem is not None:
        raise WeightFileError(f"{name} cannot be read as weights: {problem} {_capital(expected)} was expected.")
    try:
        yield
    except WeightFileError:
        raise
    except Exception as error:  # readers of damaged bytes raise nearly everything there is
        text = str(error)
        reason = "" if "weights_only" in text else f": {printable(text, 200)}"  # torch advises to run the file's code
        raise WeightFileError(
            f"{name} cannot be read as weights ({type(error).__name__}{reason}): it is cut off, damaged, or holds "
            f"objects that are no tensors, which are never loaded. {_capital(expected)} was expected; fetch it again."
        ) from error


def named(content: object, path: Path, expected: str) -> dict[str, Any]:
    """The content of a file as a dict with text for keys.

    Raises:
        WeightFileError: If it is something else.
    """
    if not isinstance(content, Mapping):
        raise WeightFileError(
            f"{printable(str(path))} cannot be read as weights: it holds a {type(content).__name__}, not tensors by "
            f"name. {_capital(expected)} was expected."
        )
    if odd := [key for key in content if not isinstance(key, str)]:
        raise WeightFileError(
            f"{printable(str(path))} cannot be read as weights: {quote_all(odd, _SHOWN)} is no name of a tensor. "
            f"{_capital(expected)} was expected."
        )
    return dict(content)


def tensors_of(content: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """The content as plain tensors, without the buffers called `position_ids` of old files.

    Raises:
        WeightFileError: If something in it is no tensor, or one of a special layout.
    """
    odd = [key for key, value in content.items() if not _is_plain(value)]
    if odd:
        kinds = [f"{quote(key)} is {_described(content[key])}" for key in sorted(odd)[:_SHOWN]]
        more = f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else ""
        raise WeightFileError(f"{name} holds something other than plain tensors: {', '.join(kinds)}{more}.")
    return {key: value for key, value in content.items() if key.rpartition(".")[2] != _BUFFER}


def check_tensors(found: Mapping[str, Any], expected: Mapping[str, Tensor], name: str, what: str) -> None:
    """Refuse tensors that are not exactly those of a network.

    Args:
        found: What the file holds.
        expected: What the network has; only shapes, and whether they are of fractions or whole numbers, are looked at.
        name: What the message calls the file.
        what: What the message calls the network: "the toy world's VAE".

    Raises:
        WeightFileError: If tensors are missing, do not belong to it, or are of another shape; it names up to three
            of each.
    """
    wrong = [
        f"{quote(key)} is {_described(found[key])}, expected {tuple(tensor.shape)}"
        for key, tensor in sorted(expected.items())
        if key in found and not _is_alike(found[key], tensor)
    ]
    refuse_gaps(expected.keys() - found.keys(), found.keys() - expected.keys(), wrong, name, what)


def refuse_gaps(missing: Iterable[str], unexpected: Iterable[str], wrong: Sequence[str], name: str, what: str) -> None:
    """The error of `check_tensors`, for readers that compare for themselves; nothing if there is nothing to tell.

    Args:
        missing: Names of tensors.
        unexpected: Names of tensors.
        wrong: One phrase about each tensor of another shape.
        name: What the message calls the file.
        what: What the message calls the network.
    """
    problems = [
        f"{title}: {quote_all(sorted(keys), _SHOWN)}."
        for title, keys in (("Missing", list(missing)), ("Not part of it", list(unexpected)))
        if keys
    ]
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        problems.append(f"Wrong shape: {', '.join(wrong[:_SHOWN])}{more}.")
    if problems:
        raise WeightFileError(f"{name} does not fit {what}. {' '.join(problems)}")


def refuse_notes(notes: Mapping[str, Any], name: str, what: str) -> None:
    """The error of `check_tensors` by what diffusers or transformers notes (`output_loading_info`).

    Args:
        notes: The names that are missing and unexpected, and the mismatched ones, alone or with both shapes.
        name: What the message calls the file.
        what: What the message calls the network.
    """
    wrong = [
        quote(note) if isinstance(note, str) else f"{quote(note[0])} is {tuple(note[1])}, expected {tuple(note[2])}"
        for note in notes["mismatched_keys"]
    ]
    refuse_gaps(notes["missing_keys"], notes["unexpected_keys"], sorted(wrong), name, what)


def load_exactly(
    network: nn.Module, found: Mapping[str, Any], name: str, what: str, assign: bool = False
) -> dict[str, Tensor]:
    """Put tensors into a network that has exactly these; see `check_tensors`. Returns them.

    Args:
        network: Its `state_dict` says what is expected.
        found: What the file holds.
        name: What the message calls the file.
        what: What the message calls the network.
        assign: Take the tensors themselves in place of copies.
    """
    tensors = tensors_of(found, name)
    check_tensors(tensors, network.state_dict(), name, what)
    network.load_state_dict(tensors, assign=assign)
    return tensors


@contextmanager
def sizes_from(name: str, what: str) -> Iterator[None]:
    """Around what reads a network's sizes off a file's tensors and builds it: impossible sizes name the file.

    Raises:
        WeightFileError: In place of the errors of impossible arithmetic, and of networks that cannot be built.
    """
    try:
        yield
    except WeightFileError:
        raise
    except KeyError as error:
        raise WeightFileError(f"{name} does not fit {what}. Missing: {quote(error.args[0])}.") from error
    except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise WeightFileError(
            f"{name} does not fit {what}: the sizes in it do not go together ({printable(str(error), 300)})."
        ) from error


def shape_of(state: Mapping[str, Any], key: str, axes: int, name: str) -> tuple[int, ...]:
    """The shape of a tensor from which sizes are read.

    Args:
        state: What the file holds.
        key: Which tensor.
        axes: How many it must have.
        name: What the message calls the file.

    Raises:
        WeightFileError: If it is missing, has other axes, or one of them is empty.
    """
    if key not in state:
        raise WeightFileError(f"{name} lacks the tensor {key}: it is incomplete, or of another kind. Fetch it again.")
    shape = tuple(state[key].shape) if isinstance(state[key], Tensor) else ()
    if len(shape) != axes or 0 in shape:
        raise WeightFileError(f"{key} in {name} is {_described(state[key])}, expected {axes} axes, none of them empty.")
    return shape


def count_parts(state: Iterable[str], prefix: str, name: str) -> int:
    """How many numbered parts follow `prefix`, which count from 0 without a gap.

    Raises:
        WeightFileError: If there are none, or one is missing.
    """
    parts = {key[len(prefix) :].partition(".")[0] for key in state if key.startswith(prefix)}
    if not parts:
        raise WeightFileError(f"{name} lacks all tensors {prefix}*: it is incomplete. Fetch it again.")
    if odd := parts - {str(number) for number in range(len(parts))}:
        raise WeightFileError(
            f"{name} has the parts {quote_all(sorted(odd), _SHOWN)} of {prefix}*; {len(parts)} of them count from 0 to "
            f"{len(parts) - 1}."
        )
    return len(parts)


def meta(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Tensors of these shapes without numbers, as `check_tensors` compares with."""
    return {key: torch.empty(tuple(shape), device="meta") for key, shape in shapes.items()}


def state_without_numbers(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """The tensors of a network that is built without memory for them."""
    with torch.device("meta"):
        return build().state_dict()


def _wrong_format(path: Path, wanted: str) -> str | None:
    """What is wrong with the format of a file, as a sentence; None if nothing is."""
    if path.is_dir():
        return "it is a folder."
    with path.open("rb") as file:
        start = file.read(_LOOK)
    found = _format_of(start, path.stat().st_size)
    if found == wanted:
        return None
    if found in (_SAFETENSORS, _PICKLE):
        ending = ".safetensors" if found == _SAFETENSORS else ".bin, .pt or .ckpt"
        return f"it is {found} under another ending: rename it to end in {ending}."
    if found:
        return f"{found}, not {wanted}: fetch the file again."
    return f"it is not {wanted}, or its beginning is damaged: fetch it again."


def _format_of(start: bytes, size: int) -> str:
    """What a file is by its first bytes; empty if they say nothing."""
    length = int.from_bytes(start[:8], "little")
    if len(start) > 8 and start[8:9] == b"{" and length <= size - 8:
        return _SAFETENSORS
    if start.startswith(b"PK\x03\x04") or re.match(rb"\x80[\x02-\x05]", start):
        return _PICKLE
    if not start:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, which stands for the file (git lfs pull brings the file itself)"
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "it is a web page"
    return "it is text" if not re.search(rb"[^\t\r\n\x20-\x7e]", start) else ""


def _dtype(name: str) -> torch.dtype:
    """A dtype for a safetensors name: exact for the usual ones, of the same kind for the others."""
    return _DTYPES.get(name, _FLOAT8 if name.startswith("F8") else torch.int64)


def _is_plain(value: object) -> bool:
    if not isinstance(value, Tensor):
        return False
    return value.layout is torch.strided and not (value.is_meta or value.is_quantized or value.is_nested)


def _is_alike(value: object, tensor: Tensor) -> bool:
    if not isinstance(value, Tensor) or value.shape != tensor.shape:
        return False
    return value.is_floating_point() == tensor.is_floating_point()


def _described(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"no tensor but a {type(value).__name__}"
    return f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
