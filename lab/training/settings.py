"""The settings of the trainers, from a TOML file; all of it checked before anything is loaded."""

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch

from ...core.quoting import printable, quote, quote_all
from ...headless.option_values import TOYWORLD

PRECISIONS = ("no", "fp16", "bf16")
SCHEDULES = ("constant_with_warmup", "cosine")
_LARGEST_FILE = 2**20
_TOYS = ("checkpoint", "data", "image_encoder", "face_models")

_Settings = TypeVar("_Settings", bound="TrainingSettings")


def setting(default: Any, meaning: str) -> Any:
    """A field with a default (MISSING: none) and what it means."""
    metadata = {"meaning": meaning}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


class LoopSettings:
    """What the training loop reads of the settings of a trainer; `TrainingSettings` says what each means."""

    out: str
    steps: int
    groups: int
    accumulate: int
    learning_rate: float
    schedule: str
    warm_up: int
    precision: str
    ema: float
    seed: int
    save_every: int
    keep: int
    draw_every: int
    tracker: str
    workers: int
    device: str
    minutes: float | int = 0.0
    """Training ends after so long, over which the schedule "cosine" falls at the latest; 0 sets no limit."""
    lowest_rate: ClassVar[float] = 0.0
    """Where the schedule "cosine" ends, as a share of `learning_rate`."""
    adamw: ClassVar[Mapping[str, Any]] = {}
    """Arguments of torch's AdamW in place of its defaults."""
    folder_option: ClassVar[str] = "out"
    """What a user chooses the folder by."""
    advice_on_divergence: ClassVar[str] = 'set a lower learning_rate, or precision = "bf16" or "no"'

    def rate(self, updates: int, time_share: float | int) -> float:
        """The learning rate of a step.

        Args:
            updates: How often the weights were changed before.
            time_share: The share of `minutes` that is spent; 0 if there is no limit.
        """
        if updates < self.warm_up:
            return self.learning_rate * (updates / self.warm_up)
        if self.schedule == "constant_with_warmup":
            return self.learning_rate
        done = min(1.0, max((updates - self.warm_up) / max(1, self.steps - self.warm_up), time_share))
        share = 0.5 * (1 + math.cos(math.pi * done))
        return self.learning_rate * (self.lowest_rate + (1 - self.lowest_rate) * share)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(LoopSettings):
    """The settings of both trainers; a TOML file has these names.

    Raises:
        ValueError: If a value is out of range.
        FileNotFoundError: If a file or folder is not there.
    """

    checkpoint: str = setting(MISSING, 'A .safetensors or .ckpt file, a diffusers folder, or "toyworld".')
    data: str = setting(MISSING, 'A StoryDB folder, or "toyworld" to draw groups.')
    out: str = setting(MISSING, "Where checkpoints, pictures and the result go.")
    steps: int = setting(MISSING, "Optimizer steps.")
    config: str = setting("", "For a checkpoint in a single file: a diffusers folder of the same family.")
    width: int = setting(512, "Width of the pictures, in pixels.")
    height: int = setting(512, "Height of the pictures, in pixels.")
    groups: int = setting(1, "Groups at a time in each process.")
    frames: int = setting(4, "Pictures of a group that are seen together.")
    accumulate: int = setting(1, "How many times that per optimizer step (gradient accumulation).")
    learning_rate: float = setting(1e-4, "The highest learning rate.")
    schedule: str = setting("constant_with_warmup", f"Schedule of the learning rate: {', '.join(SCHEDULES)}.")
    warm_up: int = setting(100, "Steps until the learning rate is reached.")
    precision: str = setting("no", f"Mixed precision: {', '.join(PRECISIONS)}.")
    gradient_checkpointing: bool = setting(False, "Less memory, about a quarter more time.")
    ema: float = setting(0.999, "Decay of the weights' moving average, which is what is saved; 0: none.")
    text_dropout: float = setting(0.05, "Share of groups whose captions are left out.")
    plain: float = setting(
        0.25, "Share of groups whose frames do not see each other; in stage 1 of an injector no frames do."
    )
    seed: int = setting(0, "Seed of the weights, the noise and the order.")
    save_every: int = setting(500, "Steps between checkpoints.")
    keep: int = setting(2, "How many checkpoints are kept.")
    draw_every: int = setting(0, "Steps between pictures of the story; 0: none.")
    story: str = setting("", "The story file they are drawn from.")
    tracker: str = setting(
        "tensorboard", 'Where losses go in addition to losses.jsonl: a tracker of accelerate, or "".'
    )
    workers: int = setting(0, "1 prepares groups in a process of its own.")
    wait_minutes: float = setting(30.0, "With several processes: minutes to wait for one that finishes no step.")
    device: str = setting("cuda", '"cuda" or "cpu"; which GPU, and how many, is up to the launcher.')

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{each.name} is {value}; it must be a finite number.")
        for name, (low, high) in self.bounds().items():
            value = getattr(self, name)
            if value < low:
                raise ValueError(f"{name} is {quote(value)}; it must be {low} or more.")
            if value > high:
                raise ValueError(f"{name} is {quote(value)}; it must be {high} or less.")
        for name in ("width", "height"):
            if getattr(self, name) % 8:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be a multiple of 8.")
        for name in ("learning_rate", "wait_minutes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0.")
        for name in self.shares():
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 0 to 1.")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; it must be from 0 to under 1.")
        for name, known in self.choices().items():
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} is {quote(value)}; it must be one of {', '.join(map(str, known))}.")
        self._check_device()
        self._check_paths()

    def _check_device(self) -> None:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError('device is "cuda", but torch finds no CUDA device here; use "cpu".')
        if self.device == "cpu" and self.precision == "fp16":
            raise ValueError('precision "fp16" needs a GPU; on a CPU use "bf16" or "no".')

    def _check_paths(self) -> None:
        if self.draw_every and not self.story:
            raise ValueError("draw_every is set, but there is no story to draw; give story a file, or take it out.")
        for name in ("checkpoint", "data", "out"):
            if not getattr(self, name):
                raise ValueError(f'{name} is ""; it must not be empty.')
        if not _may_be_folder(self.out):
            raise ValueError(f"out is {quote(self.out)}, which cannot be a folder; choose another name.")
        for name in self.files():
            path = getattr(self, name)
            toy = path == TOYWORLD and name in _TOYS
            if path and not toy and not os.path.exists(path):
                raise FileNotFoundError(f"{name}: there is no {quote(path)}.")

    def bounds(self) -> dict[str, tuple[int, int]]:
        """The least and the most that whole numbers may be; more than the most is a slip, whatever the machine."""
        sizes = dict.fromkeys(("width", "height"), (8, 2**14))
        counts = dict.fromkeys(("groups", "frames"), (1, 2**12))
        steps = dict.fromkeys(("steps", "accumulate", "save_every", "keep"), (1, 10**9))
        others = dict.fromkeys(("warm_up", "draw_every"), (0, 10**9))
        return {**sizes, **counts, **steps, **others, "seed": (0, 2**63 - 1), "wait_minutes": (0, 60 * 24 * 30)}

    def shares(self) -> tuple[str, ...]:
        """The settings from 0 to 1."""
        return "text_dropout", "plain"

    def files(self) -> tuple[str, ...]:
        """The settings that name files or folders, which are there; or nothing, or some of them "toyworld"."""
        return "checkpoint", "data", "config", "story"

    def choices(self) -> dict[str, tuple[str | int, ...]]:
        """The values that settings with few of them may have."""
        return {
            "precision": PRECISIONS,
            "schedule": SCHEDULES,
            "device": ("cuda", "cpu"),
            "workers": (0, 1),
        }


def read_settings(kind: type[_Settings], path: Path, **changes: Any) -> _Settings:
    """Settings from a TOML file; `changes` replace single ones.

    Raises:
        FileNotFoundError: If the file, or one that it names, is not there.
        ValueError: If it is no TOML, has a name that there is not, lacks one, or a value is of another type or out of
            range.
    """
    found = _parse(path)
    given = {**found, **changes}
    known = {each.name: each for each in fields(kind)}
    strange = sorted(set(given) - set(known))
    if strange:
        raise ValueError(f"{path.name}: there is no setting {quote_all(strange)}. There are {', '.join(known)}.")
    missing = [name for name, each in known.items() if each.default is MISSING and name not in given]
    if missing:
        raise ValueError(f"{path.name} does not say {', '.join(missing)}.")
    return kind(**{name: _typed(path.name, name, value, known[name].type) for name, value in given.items()})


def _may_be_folder(path: str) -> bool:
    """Whether a folder is there, or there is nothing and the name is one that a folder may have."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except (OSError, ValueError):  # a part is a file or too long, or there is a zero byte in it
        return False
    return os.path.isdir(path)


def _typed(file: str, name: str, value: Any, kind: Any) -> Any:
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError as error:
            raise ValueError(f"{file}: {name} is {quote(value)}, which is too large.") from error
    if type(value) is not kind:
        raise ValueError(f"{file}: {name} is {quote(value)}; it must be of type {kind.__name__}.")
    return value


def _parse(path: Path) -> Mapping[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # pyright: ignore[reportMissingImports]
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no settings file {quote(str(path))}.")
    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"{path.name} is larger than a settings file may be ({_LARGEST_FILE:,} bytes).")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 text ({error.reason}); save it again as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not valid TOML: {printable(str(error), 300)}") from error
