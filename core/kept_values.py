"""Values that a cache may keep: how large they are, and as files of tensors.

Only values whose every part is known are kept: tensors in main memory, plain data, and the pack's own dataclasses. A
model, or an object of another pack, may hold gigabytes or change later; nothing is known of it, so it is made again.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from .atomic_files import atomic_write
from .identity import Identity
from .quoting import printable

_PLAIN = (str, bytes, int, float, bool, type(None), UUID)
_OURS = __name__.split(".core.")[0]
_FORM = "value"
"""The key of a file's metadata that has the value's form as JSON; tensors in it are numbered."""

_SMALL = 64
"""Bytes that count for a part which is no tensor."""


def size_of(value: object, is_small: Callable[[object], bool] = lambda part: False) -> int | None:
    """The bytes of memory that a value takes, a storage that tensors share counted once.

    Args:
        value: Anything.
        is_small: Whether an object of another package, which is not known here, is small and never changes.

    Returns:
        None if the value has a part that must not be kept: a model, a tensor on another device, an unknown object.
    """
    total, seen = 0, set()
    for part in _parts(value, is_small):
        if part is _UNKNOWN:
            return None
        if isinstance(part, Tensor):
            storage = part.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                total += storage.nbytes()
        else:
            total += part.nbytes if isinstance(part, np.ndarray) else max(_SMALL, len(str(part)))
    return total


def is_storable(value: object) -> bool:
    """Whether `save_value` can write a value.

    These are tensors, text, numbers, None and identities, and lists, tuples and dicts (with keys of text) of those.
    """
    if isinstance(value, Identity):
        return is_storable(_fields(value))
    if isinstance(value, Tensor):
        return value.device.type == "cpu" and not value.is_sparse and not value.is_quantized
    if isinstance(value, Mapping):
        return type(value) is dict and all(isinstance(key, str) and is_storable(each) for key, each in value.items())
    if type(value) in (list, tuple):
        return all(is_storable(each) for each in value)  # type: ignore[attr-defined]
    if type(value) is float:
        return math.isfinite(value)
    return value is None or type(value) in (str, int, bool)


def save_value(path: Path, value: object) -> None:
    """Write a value as safetensors; the file is whole or not there.

    Raises:
        TypeError: If it is not storable.
        OSError: If the file cannot be written.
    """
    if not is_storable(value):
        raise TypeError(f"{printable(str(path))}: a {type(value).__name__} cannot be stored")
    tensors: dict[str, Tensor] = {}
    form = json.dumps(_form(value, tensors))
    with atomic_write(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata={_FORM: form})


def load_value(path: Path) -> Any:
    """What `save_value` wrote, bit for bit, tensors with the same order of their dimensions in memory.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no such file, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            form = json.loads((file.metadata() or {})[_FORM])
            return _value(form, file)
    except OSError:
        raise
    except Exception as problem:  # safetensors has an error of its own for each kind of damage
        raise ValueError(f"{printable(str(path))} is damaged or no file of a kept value.") from problem


_UNKNOWN = object()


def _parts(value: object, is_small: Callable[[object], bool]) -> Iterator[Any]:
    """Every tensor, array and plain part of a value; `_UNKNOWN` for what must not be kept."""
    if isinstance(value, Tensor):
        yield value if value.device.type == "cpu" and value.layout == torch.strided else _UNKNOWN
    elif isinstance(value, (*_PLAIN, np.ndarray)):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _parts(key, is_small)
            yield from _parts(each, is_small)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for each in value:
            yield from _parts(each, is_small)
    elif dataclasses.is_dataclass(value) and type(value).__module__.startswith(_OURS):
        for each in dataclasses.fields(value):
            yield from _parts(getattr(value, each.name), is_small)
    else:
        yield type(value).__name__ if is_small(value) else _UNKNOWN


def _form(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON; tensors go into `tensors`, contiguous, with the order that their dimensions had."""
    if isinstance(value, Tensor):
        number = str(len(tensors))
        order = sorted(range(value.ndim), key=lambda axis: -value.stride(axis))
        tensors[number] = value.permute(order).contiguous().clone()
        return {"tensor": number, "order": order}
    if isinstance(value, Identity):
        return {"identity": _form(_fields(value), tensors)}
    if isinstance(value, dict):
        return {"dict": {key: _form(each, tensors) for key, each in value.items()}}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_form(each, tensors) for each in value]}
    return {"plain": value}


def _value(form: Any, file: Any) -> Any:
    if "tensor" in form:
        return file.get_tensor(form["tensor"]).permute(np.argsort(form["order"]).tolist())
    if "identity" in form:
        return Identity(**_value(form["identity"], file))
    if "dict" in form:
        return {key: _value(each, file) for key, each in form["dict"].items()}
    if "list" in form:
        return [_value(each, file) for each in form["list"]]
    return tuple(_value(each, file) for each in form["tuple"]) if "tuple" in form else form["plain"]


def _fields(identity: Identity) -> dict[str, Any]:
    known = {each.name: getattr(identity, each.name) for each in dataclasses.fields(identity)}
    return {**known, "metadata": dict(identity.metadata)}
