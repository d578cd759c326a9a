"""Checkpoints of a training: one file each, of tensors and JSON, which hold no code.

    OUT/checkpoints/step_0000500.safetensors

A tensor is called PART.NAME: `weights` are what is trained, `average` is its moving average, the others are AdamW's.
The file's metadata holds the numbers as JSON. Checkpoints of version 0.1.0 were folders as accelerate writes them; they
are read with torch's restricted unpickler, which makes tensors, numbers and containers and nothing else.
"""

import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...core.atomic_files import atomic_write
from ...core.quoting import printable

_FORMAT = "story-identity-checkpoint/1"
_KEY = "story_identity"
_NAME = re.compile(r"step_(\d{7,})(\.safetensors)?")
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""AdamW's numbers of a weight: how many steps it was changed in, the mean gradient and the mean of its square."""

_COUNTS = ("step", "updates", "averaged")


@dataclass(frozen=True)
class Checkpoint:
    """Where a training is.

    Args:
        step: How many optimizer steps are done.
        updates: How many of them changed the weights, which is all of them but in fp16.
        weights: What is trained, by name.
        moments: AdamW's numbers of every weight that it has changed.
        average: The moving average, by name; empty where there is none.
        averaged: How many steps the moving average has seen.
        seconds: How long the training has run; 0 where its time is not limited.
        scaler: The gradient scaler's numbers; empty but in fp16.
    """

    step: int
    updates: int
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Mapping[str, Tensor]]
    average: Mapping[str, Tensor] = field(default_factory=dict)
    averaged: int = 0
    seconds: float | int = 0.0
    scaler: Mapping[str, float] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the file, which is complete or absent.

        Raises:
            OSError: If it cannot be written; it says what stays.
        """
        tensors = {f"weights.{name}": each for name, each in self.weights.items()}
        tensors |= {f"average.{name}": each for name, each in self.average.items()}
        tensors |= {f"{part}.{name}": each for name, own in self.moments.items() for part, each in own.items()}
        numbers = {"format": _FORMAT, **{name: getattr(self, name) for name in (*_COUNTS, "seconds")}}
        try:
            with atomic_write(path) as temporary:
                kept = {name: each.detach().cpu().contiguous() for name, each in tensors.items()}
                save_file(kept, temporary, {_KEY: json.dumps({**numbers, "scaler": dict(self.scaler)})})
        except (OSError, SafetensorError) as error:
            raise OSError(
                f"The checkpoint {path} could not be written: {printable(str(error))}. Make room or mend the folder; "
                "the same command then continues from the checkpoint before."
            ) from error


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the oldest first."""
    found = {path: _NAME.fullmatch(path.name) for path in folder.glob("step_*")}
    steps = {path: int(match[1]) for path, match in found.items() if match and bool(match[2]) == path.is_file()}
    return sorted(steps, key=lambda path: (steps[path], path.is_file()))


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step_{step:07d}.safetensors"


def remove_checkpoint(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def read_checkpoint(path: Path, shapes: Mapping[str, torch.Size], folder_option: str = "out") -> Checkpoint:
    """Read a checkpoint; no code of the file runs.

    Args:
        path: The file, or a folder that version 0.1.0 wrote.
        shapes: Names and shapes of what is trained, in the trainee's order.
        folder_option: What the user chooses the folder by, for the message.

    Raises:
        ValueError: If it is damaged, or a checkpoint of another training.
    """
    try:
        found = _read_folder(path, list(shapes)) if path.is_dir() else _read_file(path)
    except Exception as error:  # what a damaged or foreign file can raise is not bounded
        raise ValueError(
            f"{path} is damaged, or not a checkpoint of a training: {printable(f'{type(error).__name__}: {error}')}. "
            "Delete it; the same command then continues from the checkpoint before."
        ) from error
    own = dict(shapes)
    moments = [{part: each.shape for part, each in numbers.items()} for numbers in found.moments.values()]
    expected = [{"step": torch.Size(), "exp_avg": own.get(name), "exp_avg_sq": own.get(name)} for name in found.moments]
    averages = _shapes(found.average)
    if _shapes(found.weights) != own or moments != expected or averages not in ({}, own):
        raise ValueError(
            f"{path} is a checkpoint of another training: its weights have other names or shapes. Choose another "
            f"folder for {folder_option}, or delete the checkpoint."
        )
    return found


def _read_file(path: Path) -> Checkpoint:
    with safe_open(path, framework="pt") as file:
        numbers = json.loads((file.metadata() or {}).get(_KEY, "{}"))
    if not isinstance(numbers, dict) or numbers.pop("format", None) != _FORMAT:
        raise ValueError("its metadata does not say that it is one")
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in ("weights", "average", *_MOMENTS)}
    for key, tensor in load_file(path).items():
        part, _, name = key.partition(".")
        parts[part][name] = tensor
    return Checkpoint(
        weights=parts["weights"], average=parts["average"], moments=_by_name(parts), **_checked_numbers(numbers)
    )


def _by_name(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    names = dict.fromkeys(name for part in _MOMENTS for name in parts[part])
    return {name: {part: parts[part][name] for part in _MOMENTS} for name in names}


def _checked_numbers(numbers: Mapping[str, Any]) -> dict[str, Any]:
    scaler, seconds = numbers["scaler"], numbers.get("seconds", 0.0)
    counts = {name: numbers[name] for name in _COUNTS}
    if any(type(each) is not int or each < 0 for each in counts.values()):
        raise ValueError(f"its counts are {counts}")
    if not isinstance(scaler, dict) or any(type(each) not in (int, float) for each in scaler.values()):
        raise ValueError("its gradient scaler is not made of numbers")
    if type(seconds) not in (int, float) or not 0 <= seconds < math.inf:
        raise ValueError(f"its time is {seconds} seconds")
    return {**counts, "seconds": seconds, "scaler": scaler}


def _read_folder(folder: Path, names: Sequence[str]) -> Checkpoint:
    """A checkpoint of version 0.1.0, whose parts are pickles; the generators' states in it are not needed."""
    progress, optimizer, schedule = (
        torch.load(folder / name, map_location="cpu", weights_only=True)
        for name in ("custom_checkpoint_0.pkl", "optimizer.bin", "scheduler.bin")
    )
    scaler = folder / "scaler.pt"
    average = progress["average"] or {}
    shadows = average.get("shadow_params", [])
    return Checkpoint(
        weights=load_file(folder / "trained.safetensors"),
        moments={names[int(number)]: dict(own) for number, own in optimizer["state"].items()},
        average=dict(zip(names, shadows, strict=True)) if shadows else {},
        **_checked_numbers(
            {
                "step": progress["step"],
                "updates": schedule["last_epoch"],
                "averaged": average.get("optimization_step", 0),
                "scaler": torch.load(scaler, weights_only=True) if scaler.is_file() else {},
            }
        ),
    )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
