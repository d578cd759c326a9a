"""The settings of the trainers, from a TOML file; all of it checked before anything is loaded."""

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import torch
from pydantic import model_validator

from ...core.quoting import printable, quote
from ...headless.option_values import TOYWORLD
from ...headless.schema import Settings, setting

_LARGEST_FILE = 2**20
_TOYS = ("checkpoint", "data", "image_encoder", "face_models")

_Settings = TypeVar("_Settings", bound="TrainingSettings")


_MOST_STEPS = 10**9
"""More than the most is a slip, whatever the machine; so it is with the other bounds of counts and sizes."""


def steps_setting(default: Any, meaning: str, least: int = 1) -> Any:
    return setting(default, meaning, ge=least, le=_MOST_STEPS)


class LoopSettings:
    """What the training loop reads of the settings of a trainer; `TrainingSettings` says what each means."""

    if TYPE_CHECKING:  # so that pydantic takes them for no fields
        out: str
        steps: int
        groups: int
        accumulate: int
        learning_rate: float
        schedule: Any
        warm_up: int
        precision: Any
        ema: float
        seed: int
        save_every: int
        keep: int
        draw_every: int
        tracker: str
        workers: Any
        device: Any
        minutes: float | int
    else:
        minutes: ClassVar[float] = 0.0
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


class TrainingSettings(LoopSettings, Settings):
    """The settings of both trainers; a TOML file has these names.

    Raises:
        ValueError: If a value is out of range.
        FileNotFoundError: If a file or folder is not there.
    """

    checkpoint: str = setting(..., 'A .safetensors or .ckpt file, a diffusers folder, or "toyworld".')
    data: str = setting(..., 'A StoryDB folder, or "toyworld" to draw groups.')
    out: str = setting(..., "Where checkpoints, pictures and the result go.")
    steps: int = steps_setting(..., "Optimizer steps.")
    config: str = setting("", "For a checkpoint in a single file: a diffusers folder of the same family.")
    width: int = setting(512, "Width of the pictures, in pixels.", ge=8, le=2**14, multiple_of=8)
    height: int = setting(512, "Height of the pictures, in pixels.", ge=8, le=2**14, multiple_of=8)
    groups: int = setting(1, "Groups at a time in each process.", ge=1, le=2**12)
    frames: int = setting(4, "Pictures of a group that are seen together.", ge=1, le=2**12)
    accumulate: int = steps_setting(1, "How many times that per optimizer step (gradient accumulation).")
    learning_rate: float = setting(1e-4, "The highest learning rate.", gt=0)
    schedule: Literal["constant_with_warmup", "cosine"] = setting(
        "constant_with_warmup", "How the learning rate goes on."
    )
    warm_up: int = steps_setting(100, "Steps until the learning rate is reached.", 0)
    precision: Literal["no", "fp16", "bf16"] = setting("no", "Mixed precision.")
    gradient_checkpointing: bool = setting(False, "Less memory, about a quarter more time.")
    ema: float = setting(0.999, "Decay of the weights' moving average, which is what is saved; 0: none.", ge=0, lt=1)
    text_dropout: float = setting(0.05, "Share of groups whose captions are left out.", ge=0, le=1)
    plain: float = setting(
        0.25,
        "Share of groups whose frames do not see each other; in stage 1 of an injector no frames do.",
        ge=0,
        le=1,
    )
    seed: int = setting(0, "Seed of the weights, the noise and the order.", ge=0, le=2**63 - 1)
    save_every: int = steps_setting(500, "Steps between checkpoints.")
    keep: int = steps_setting(2, "How many checkpoints are kept.")
    draw_every: int = steps_setting(0, "Steps between pictures of the story; 0: none.", 0)
    story: str = setting("", "The story file they are drawn from.")
    tracker: str = setting(
        "tensorboard", 'Where losses go in addition to losses.jsonl: a tracker of accelerate, or "".'
    )
    workers: Literal[0, 1] = setting(0, "1 prepares groups in a process of its own.")
    wait_minutes: float = setting(
        30.0, "With several processes: minutes to wait for one that finishes no step.", gt=0, le=60 * 24 * 30
    )
    device: Literal["cuda", "cpu"] = setting("cuda", "Which GPU, and how many, is up to the launcher.")

    @model_validator(mode="after")
    def _check_device(self) -> "TrainingSettings":
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError('device is "cuda", but torch finds no CUDA device here; use "cpu".')
        if self.device == "cpu" and self.precision == "fp16":
            raise ValueError('precision "fp16" needs a GPU; on a CPU use "bf16" or "no".')
        return self

    @model_validator(mode="after")
    def _check_paths(self) -> "TrainingSettings":
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
        return self

    def files(self) -> tuple[str, ...]:
        """The settings that name files or folders, which are there; or nothing, or some of them "toyworld"."""
        return "checkpoint", "data", "config", "story"


def read_settings(kind: type[_Settings], path: Path, **changes: Any) -> _Settings:
    """Settings from a TOML file; `changes` replace single ones.

    Raises:
        FileNotFoundError: If the file, or one that it names, is not there.
        ValueError: If it is no TOML, has a name that there is not, lacks one, or a value is of another type or out of
            range.
    """
    given = {**_parse(path), **changes}
    try:
        return kind(**given)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _may_be_folder(path: str) -> bool:
    """Whether a folder is there, or there is nothing and the name is one that a folder may have."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except (OSError, ValueError):  # a part is a file or too long, or there is a zero byte in it
        return False
    return os.path.isdir(path)


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
