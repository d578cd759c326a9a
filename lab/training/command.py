"""What the command line does for a training."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ...core.quoting import printable
from ...headless.checkpoint import load_checkpoint
from ...headless.option_values import TOYWORLD
from ...headless.prompts import check_length
from ..storydb.reader import StoryDBReader
from ..toyworld.training.toy_groups import ToyGroups
from .groups import GroupSource
from .loop import Loop, OnStep, check_tracker, dry_run
from .processes import Rank, joined
from .sample_pictures import check_story, plain_cross_attention, story_drawer
from .settings import TrainingSettings, read_settings
from .train_synchronizer import Synchronizer, SynchronizerSettings

_CONFIGS = Path(__file__).parent / "configs"
_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


def train(what: str, file: Path, dry: bool, changes: Mapping[str, Any]) -> str:
    """Train from a settings file, or try a step.

    Args:
        what: "synchronizer" or "injector".
        file: The settings.
        dry: Only try.
        changes: Settings in place of the file's.

    Returns:
        What there is to say in the end; nothing in all processes but the first.

    Raises:
        ValueError, FileNotFoundError: For what is wrong with settings or data, before anything large is loaded.
    """
    kind, trainee_of = _trainee(what)
    settings = read_settings(kind, settings_file(file), **changes)
    check_tracker("" if dry else settings.tracker)
    check_story(settings, references=what == "injector")
    with joined(settings.device, settings.wait_minutes) as rank:
        source = groups_of(settings)
        config = Path(settings.config) if settings.config else None
        pipe = load_checkpoint(settings.checkpoint, rank.device, frozen_dtype(settings), config)
        check_captions(pipe, source)
        trainee = trainee_of(pipe, settings)
        if dry:
            cost = dry_run(trainee, source, settings)
            said = f"{cost.parameters:,} parameters, {cost.seconds_per_step:.2f} s a step, {cost.peak_gib:.1f} GiB"
        else:
            hook = getattr(trainee, "cross_attention", plain_cross_attention)
            draw = story_drawer(pipe, settings, hook) if rank.is_main else None
            with _progress(settings.steps, rank) as on_step:
                said = f"What was learned is in {Loop(trainee, source, settings).run(draw, on_step)}"
        if isinstance(source, StoryDBReader) and any(source.skipped.values()):
            said += "; left out as unreadable: {pictures} pictures, {groups} groups".format(**source.skipped)
    return said if rank.is_main else ""


def _trainee(what: str) -> tuple[type[TrainingSettings], Callable[[Any, Any], Any]]:
    """A trainee's settings and what makes it of a pipeline and them."""
    if what == "synchronizer":
        return SynchronizerSettings, Synchronizer
    from .train_injector import InjectorSettings, InjectorTraining

    return InjectorSettings, InjectorTraining


def settings_file(file: Path) -> Path:
    """The file, or if there is none, the one of that name that comes with the pack."""
    own = _CONFIGS / f"{file.name.removesuffix('.toml')}.toml"
    return own if os.path.isfile(own) and not os.path.isfile(file) and file.parent == Path() else file


def groups_of(settings: TrainingSettings) -> GroupSource:
    """Where the groups come from, as the settings say."""
    if settings.data == TOYWORLD:
        return ToyGroups(settings.seed, settings.frames)
    size = settings.height, settings.width
    return StoryDBReader(Path(settings.data), *size, seed=settings.seed, frames=settings.frames)


def check_captions(pipe: Any, source: GroupSource) -> None:
    """Raise a ValueError if a checkpoint's text encoder would not see the end of a StoryDB's caption."""
    for picture, caption in source.captions() if isinstance(source, StoryDBReader) else ():
        try:
            check_length(pipe, caption, f"The caption of {printable(picture)}")
        except ValueError as error:
            raise ValueError(f"{printable(str(error))} build-storydb --tokenizer leaves such pictures out.") from error


def frozen_dtype(settings: TrainingSettings) -> torch.dtype:
    """In what the frozen networks are kept: on a GPU in the half precision that they are computed in anyway."""
    return _HALF.get(settings.precision, torch.float32) if settings.device == "cuda" else torch.float32


@contextmanager
def _progress(steps: int, rank: Rank) -> Iterator[OnStep]:
    """A bar with the loss, the seconds a step takes, and the time that is left."""
    values = TextColumn("loss {task.fields[loss]:.4f}, {task.fields[seconds]:.2f} s a step")
    columns = (TextColumn("Training"), BarColumn(), MofNCompleteColumn(), values, TimeRemainingColumn())
    console, period = Console(stderr=True), 600.0  # seconds over which the speed is taken
    with Progress(
        *columns, console=console, transient=True, disable=not rank.is_main, speed_estimate_period=period
    ) as bars:
        task = bars.add_task("", total=steps, loss=0.0, seconds=0.0)

        def on_step(step: int, losses: Mapping[str, float]) -> None:
            rank.went_on(step)
            speed = bars.tasks[task].speed
            bars.update(task, completed=step, loss=losses["loss"], seconds=1 / speed if speed else 0.0)

        yield on_step
