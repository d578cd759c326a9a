"""The training loop of both trainers: accelerate's, with checkpoints that are there whole or not at all.

What a step draws depends on the seed, the process and the step's number only, so a run that was stopped goes on as if
it had not been.
"""

import json
import logging
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import (
    DataLoaderConfiguration,
    DistributedType,
    ProjectConfiguration,
    broadcast_object_list,
)
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader, IterableDataset

from ...core.atomic_files import atomic_write, remove_unfinished
from ...core.locking import locked
from ...core.quoting import quote
from ..step_random import StepRandom
from .checkpoints import Checkpoint, checkpoint_path, checkpoints_in, read_checkpoint, remove_checkpoint
from .groups import Group, GroupSource
from .processes import keep_group
from .settings import TrainingSettings

_log = logging.getLogger(__name__)

LOSSES = "losses.jsonl"
_DATA_PARALLEL = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
_LARGEST_GRADIENT = 1.0

_Result = TypeVar("_Result")
Draw = Callable[[Path], object]
OnStep = Callable[[int, Mapping[str, float]], None]


class _Batches(IterableDataset):
    def __init__(self, source: GroupSource, count: int, first: int, process: int, processes: int) -> None:
        self.source, self.count = source, count
        self.share = first * count, process, processes

    def __iter__(self) -> Iterator[list[Group]]:
        groups = self.source.stream(*self.share)
        while True:
            yield [next(groups) for _ in range(self.count)]


class Loop:
    """One training, from its newest checkpoint to the end; data parallel under torchrun or accelerate launch.

    Between two runs of one training, settings may change where the shapes of what is trained stay.

    Args:
        trainee: A module whose parameters that require gradients are trained. Called with groups and a `StepRandom` it
            gives losses by name; `save` writes what is trained into a folder.
        source: Its groups.
        settings: How.
        log: Whether losses go to the settings' tracker.

    Raises:
        ValueError: If accelerate already works on another device than the settings name, or is configured for more than
            data parallelism.
    """

    def __init__(self, trainee: Any, source: GroupSource, settings: TrainingSettings, log: bool = True) -> None:
        self.settings, self.trainee, self.source = settings, trainee, source
        self.out = Path(settings.out)
        self.trained = {name: each for name, each in trainee.named_parameters() if each.requires_grad}
        self.accelerator = Accelerator(
            gradient_accumulation_steps=settings.accumulate,
            mixed_precision=settings.precision,
            cpu=settings.device == "cpu",
            dataloader_config=DataLoaderConfiguration(split_batches=True),  # schedules do not depend on the processes
            log_with=settings.tracker if log and settings.tracker else None,
            project_config=ProjectConfiguration(project_dir=str(self.out), logging_dir=str(self.out / "log")),
        )
        keep_group()
        if self.accelerator.device.type != settings.device:
            raise ValueError(f'device is "{settings.device}", but accelerate is at work on {self.accelerator.device}.')
        if self.accelerator.distributed_type not in _DATA_PARALLEL:
            raise ValueError(
                f"accelerate is configured for {self.accelerator.distributed_type.value}; this training is data "
                "parallel only. Run accelerate config again, or launch with accelerate launch --multi_gpu."
            )
        optimizer = torch.optim.AdamW(self.trained.values(), lr=settings.learning_rate, weight_decay=0.01)
        scheduler = get_scheduler(
            settings.schedule, optimizer, num_warmup_steps=settings.warm_up, num_training_steps=settings.steps
        )
        self.model, self.optimizer, self.scheduler = self.accelerator.prepare(trainee, optimizer, scheduler)
        self.average = EMAModel(self.trained.values(), decay=settings.ema) if settings.ema else None
        self.done = 0

    def run(self, draw: Draw | None = None, on_step: OnStep = lambda step, values: None) -> Path:
        """Train to the end.

        Args:
            draw: Makes a picture at a path; called in the first process, with the average in the trainee's place.
            on_step: Called after every step with its number and its losses.

        Returns:
            The file that the trainee saved; in every process.

        Raises:
            ValueError: If another training is at work in the folder, the newest checkpoint is damaged or of another
                trainee, or the loss is no number.
            OSError: If a checkpoint cannot be written.
        """
        with self._alone():
            return self._run(draw, on_step)

    def _run(self, draw: Draw | None, on_step: OnStep) -> Path:
        settings, accelerator = self.settings, self.accelerator
        self._resume()
        if accelerator.log_with:
            accelerator.init_trackers("training", config=dict(settings.__dict__))
        batches = self._batches()
        while (step := self.done) < settings.steps:
            values = self.step(batches)
            self._log(values)
            step += 1
            on_step(step, values)
            if step % settings.save_every == 0 or step == settings.steps:
                self._save()
            if draw and settings.draw_every and step % settings.draw_every == 0:
                picture = self.out / "pictures" / f"step_{step:07d}.png"
                self._with_average(lambda draw=draw, picture=picture: draw(picture))
        saved: list[Any] = [self._with_average(lambda: self.trainee.save(self.out))]
        broadcast_object_list(saved)
        self.release()
        accelerator.end_training()
        return saved[0]

    def step(self, batches: Iterator[list[Group]]) -> dict[str, float]:
        """One optimizer step; the mean losses of all its parts and processes, whose mean gradient it follows.

        Raises:
            ValueError: If the loss is no number; what was trained is of no use then.
        """
        settings, totals = self.settings, {}
        for part in range(settings.accumulate):
            number = self.done * settings.accumulate + part
            with self.accelerator.accumulate(self.model):
                random = StepRandom.of(settings.seed, self.accelerator.process_index, number)
                losses = self.model(next(batches), random)
                self.accelerator.backward(losses["loss"])
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.trained.values(), _LARGEST_GRADIENT)
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()
            for name, value in losses.items():
                totals[name] = totals.get(name, 0) + value.detach() / settings.accumulate
        means = {name: float(value) for name, value in self.accelerator.reduce(totals, reduction="mean").items()}
        if not math.isfinite(means["loss"]):
            raise ValueError(self._no_number(means["loss"]))
        self.done += 1
        if self.average and not self.accelerator.optimizer_step_was_skipped:
            self.average.step(self.trained.values())
        return means

    def release(self) -> None:
        """Take accelerate's wrappers off the trainee."""
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)

    def _no_number(self, loss: float) -> str:
        kept = self._checkpoints()[-1:]
        onward = f"The checkpoint {kept[0]} is sound, and a new start goes on from there" if kept else "Start again"
        return (
            f"The loss of step {self.done + 1} is {loss}. {onward}: set a lower learning_rate first, or "
            'precision = "bf16" or "no".'
        )

    def _batches(self) -> Iterator[list[Group]]:
        settings, accelerator = self.settings, self.accelerator
        first = self.done * settings.accumulate
        share = accelerator.process_index, accelerator.num_processes
        dataset = _Batches(self.source, settings.groups, first, *share)
        return iter(DataLoader(dataset, batch_size=None, num_workers=settings.workers))

    def _log(self, values: Mapping[str, float]) -> None:
        rate = self.scheduler.get_last_lr()[0]
        self.accelerator.log({**values, "learning_rate": rate}, step=self.done)
        if self.accelerator.is_main_process:
            with (self.out / LOSSES).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": self.done, **values}) + "\n")

    def _with_average(self, work: Callable[[], _Result]) -> _Result | None:
        """Do something with the moving average in the trainee's place, in the first process."""
        if not self.accelerator.is_main_process:
            return None
        if not self.average:
            return work()
        self.average.store(self.trained.values())
        self.average.copy_to(self.trained.values())
        try:
            return work()
        finally:
            self.average.restore(self.trained.values())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other trainings out of the folder; the first process holds the lock, and all hear if it cannot."""
        refused: list[str | None] = [None]
        with ExitStack() as stack:
            if self.accelerator.is_main_process:
                fix = "Wait for it, or choose another folder for out."
                try:
                    stack.enter_context(locked(self.out, f"Another training is at work in {self.out}. {fix}"))
                except ValueError as error:
                    refused = [str(error)]
            broadcast_object_list(refused)
            if refused[0] is not None:
                raise ValueError(refused[0])
            yield

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            self._checkpoint().write(checkpoint_path(self._folder, self.done))
            for old in self._checkpoints()[: -self.settings.keep]:
                remove_checkpoint(old)
        self.accelerator.wait_for_everyone()

    def _checkpoint(self) -> Checkpoint:
        """The state as it is now; what is trained only, since the frozen rest is the checkpoint that was loaded."""
        state, scaler = self.optimizer.state, self.accelerator.scaler
        shadows = self.average.shadow_params if self.average else []
        return Checkpoint(
            step=self.done,
            updates=self.scheduler.scheduler.last_epoch,
            weights=self.trained,
            moments={name: state[each] for name, each in self.trained.items() if each in state},
            average=dict(zip(self.trained, shadows, strict=True)) if self.average else {},
            averaged=self.average.optimization_step if self.average else 0,
            scaler=scaler.state_dict() if scaler else {},
        )

    def _resume(self) -> None:
        for path in self._checkpoints()[-1:]:
            shapes = {name: each.shape for name, each in self.trained.items()}
            self._restore(read_checkpoint(path, shapes))
        if not self.accelerator.is_main_process:
            return
        if self.done >= self.settings.steps:
            _log.warning(
                "%s has %d steps already: nothing is left to train. For another training choose another out.",
                self.out,
                self.done,
            )
        remove_unfinished(self.out)
        shutil.rmtree(self._folder / ".unfinished", ignore_errors=True)  # version 0.1.0 leaves it when it is killed
        if (self.out / LOSSES).is_file():
            lines = (self.out / LOSSES).read_text(encoding="utf-8-sig", errors="replace").splitlines()
            kept = [line for line in lines if _step_of(line) <= self.done]
            with atomic_write(self.out / LOSSES) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def _restore(self, found: Checkpoint) -> None:
        """Go on from a checkpoint, with the settings' learning rate and schedule."""
        self.done = found.step
        with torch.no_grad():
            for name, each in self.trained.items():
                each.copy_(found.weights[name])
        places = {name: place for place, name in enumerate(self.trained)}
        moments = {places[name]: dict(own) for name, own in found.moments.items()}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        scheduler = self.scheduler.scheduler
        counts = {"last_epoch": found.updates, "_step_count": found.updates + 1}
        scheduler.load_state_dict({**scheduler.state_dict(), **counts})
        for group, rate, rule in zip(
            self.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
        ):
            group["lr"] = rate * rule(found.updates)
        if self.average and found.average:
            shadows = [found.average[name] for name in self.trained]
            state = {"optimization_step": found.averaged, "shadow_params": shadows}
            self.average.load_state_dict({**self.average.state_dict(), **state})
            self.average.to(self.accelerator.device)
        if self.accelerator.scaler and found.scaler:
            self.accelerator.scaler.load_state_dict(dict(found.scaler))

    @property
    def _folder(self) -> Path:
        return self.out / "checkpoints"

    def _checkpoints(self) -> list[Path]:
        return checkpoints_in(self._folder)


@dataclass(frozen=True)
class Cost:
    """What training takes.

    Args:
        parameters: How many numbers are trained.
        seconds_per_step: The duration of the second step.
        peak_gib: The peak of memory: the GPU's or, on a CPU, the process's, from its start.
    """

    parameters: int
    seconds_per_step: float
    peak_gib: float


def dry_run(trainee: Any, source: GroupSource, settings: TrainingSettings) -> Cost:
    """Two steps that leave nothing behind."""
    loop = Loop(trainee, source, settings, log=False)
    before = {name: each.detach().clone() for name, each in loop.trained.items()}
    batches = loop._batches()
    loop.step(batches)
    started = time.perf_counter()
    loop.step(batches)
    seconds = time.perf_counter() - started
    loop.release()
    with torch.no_grad():
        for name, each in loop.trained.items():
            each.copy_(before[name])
    parameters = sum(each.numel() for each in before.values())
    return Cost(parameters, seconds, _peak_bytes(loop.accelerator.device) / 2**30)


def check_tracker(name: str) -> None:
    """Raise a ValueError if accelerate knows no such tracker or its package is not installed; "" is none."""
    if name and name not in LOGGER_TYPE_TO_CLASS:
        raise ValueError(f"tracker is {quote(name)}; accelerate knows {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}.")
    if name and name not in [str(each) for each in get_available_trackers()]:
        package = name.replace("_", "-")
        raise ValueError(
            f'tracker is "{name}", whose package is not installed: pip install {package}, or set tracker = "" '
            f"(the losses are in {LOSSES} anyway)."
        )


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return sys.maxsize  # a line that was cut off
