"""The training loop of all trainers, the toy world's too, on accelerate; each of its checkpoints is complete or absent.

What a step draws depends on the seed, the process and the step's number only, so a training that was stopped continues
as if it had not been.
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
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import (
    DataLoaderConfiguration,
    DistributedType,
    ProjectConfiguration,
    broadcast_object_list,
)
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader, IterableDataset

from ...core.atomic_files import atomic_write, remove_unfinished
from ...core.locking import locked
from ...core.quoting import quote
from ..step_random import StepRandom
from .checkpoints import Checkpoint, checkpoint_path, checkpoints_in, read_checkpoint, remove_checkpoint
from .processes import keep_group
from .settings import LoopSettings, TrainingSettings
from .time_limit import TimeLimit

_log = logging.getLogger(__name__)

LOSSES = "losses.jsonl"
_DATA_PARALLEL = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
_LARGEST_GRADIENT = 1.0

_Result = TypeVar("_Result")
Draw = Callable[[Path], object]
OnStep = Callable[[int, Mapping[str, float]], None]


@runtime_checkable
class Source(Protocol):
    """Gives every process its examples of a training: groups of pictures, as `groups.GroupSource` does."""

    def stream(self, first: int, process: int, processes: int) -> Iterator[Any]:
        """The examples of a process from its `first` on, without end, the same whenever it is asked."""
        ...


class _Batches(IterableDataset):
    def __init__(self, source: Source, count: int, first: int, process: int, processes: int) -> None:
        self.source, self.count = source, count
        self.share = first * count, process, processes

    def __iter__(self) -> Iterator[list[Any]]:
        examples = self.source.stream(*self.share)
        while True:
            yield [next(examples) for _ in range(self.count)]


class Loop:
    """One training, from its newest checkpoint to the end; data parallel under torchrun or accelerate launch.

    Between two runs of one training, settings may change where the shapes of what is trained stay.

    Args:
        trainee: A module whose parameters that require gradients are trained. Called with a list of examples and a
            `StepRandom` it returns losses by name, of which "loss" is minimised; `save` writes what is trained into a
            folder and returns the file's path.
        source: The examples.
        settings: How to train.
        log: Whether losses go to the settings' tracker.

    Raises:
        ValueError: If accelerate already works on another device than the settings name, or is configured for more than
            data parallelism.
    """

    def __init__(self, trainee: Any, source: Source, settings: LoopSettings, log: bool = True) -> None:
        self.settings, self.trainee, self.source = settings, trainee, source
        self.out = Path(settings.out)
        self.trained = {name: each for name, each in trainee.named_parameters() if each.requires_grad}
        self.accelerator = Accelerator(
            gradient_accumulation_steps=settings.accumulate,
            mixed_precision=settings.precision,
            cpu=settings.device == "cpu",
            dataloader_config=DataLoaderConfiguration(split_batches=True),
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
        optimizer = torch.optim.AdamW(
            self.trained.values(), lr=settings.learning_rate, weight_decay=0.01, **settings.adamw
        )
        self.model, self.optimizer = self.accelerator.prepare(trainee, optimizer)
        self.average = EMAModel(self.trained.values(), decay=settings.ema) if settings.ema else None
        self.time = TimeLimit(settings.minutes)
        self.done = 0  # optimizer steps
        self.updates = 0  # those that changed the weights, which is all of them except in fp16

    def run(self, draw: Draw | None = None, on_step: OnStep = lambda step, values: None) -> Path:
        """Train until all steps are done or the time is over.

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
        while self.done < settings.steps and self.time.share() <= 1:
            values = self.step(batches)
            self._log(values)
            step = self.done
            on_step(step, values)
            if step % settings.save_every == 0 or step == settings.steps:
                self._save()
            if draw and settings.draw_every and step % settings.draw_every == 0:
                picture = self.out / "pictures" / f"step_{step:07d}.png"
                self._with_average(lambda draw=draw, picture=picture: draw(picture))
        if not self._newest_is_of(self.done):
            self._save()
        saved: list[Any] = [self._with_average(lambda: self.trainee.save(self.out))]
        broadcast_object_list(saved)
        self.release()
        accelerator.end_training()
        return saved[0]

    def step(self, batches: Iterator[list[Any]]) -> dict[str, float]:
        """One optimizer step; the mean losses of all its parts and processes, whose mean gradient it follows.

        Raises:
            ValueError: If the loss is no number; what was trained is of no use then.
        """
        settings, totals = self.settings, {}
        rate = settings.rate(self.updates, self.time.share())
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for part in range(settings.accumulate):
            number = self.done * settings.accumulate + part
            with self.accelerator.accumulate(self.model):
                random = StepRandom.of(settings.seed, self.accelerator.process_index, number)
                losses = self.model(next(batches), random)
                self.accelerator.backward(losses["loss"])
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.trained.values(), _LARGEST_GRADIENT)
                self.optimizer.step()
                self.optimizer.zero_grad()
            for name, value in losses.items():
                totals[name] = totals.get(name, 0) + value.detach() / settings.accumulate
        means = {name: float(value) for name, value in self.accelerator.reduce(totals, reduction="mean").items()}
        if not math.isfinite(means["loss"]):
            raise ValueError(self._no_number(means["loss"]))
        self.done += 1
        if not self.accelerator.optimizer_step_was_skipped:
            self.updates += 1
            if self.average:
                self.average.step(self.trained.values())
        return means

    def release(self) -> None:
        """Take accelerate's wrappers off the trainee."""
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)

    def _no_number(self, loss: float) -> str:
        kept = self._checkpoints()[-1:]
        restart = (
            f"The checkpoint {kept[0]} is sound, and the same command continues from it" if kept else "Start again"
        )
        return f"The loss of step {self.done + 1} is {loss}. {restart}; first {self.settings.advice_on_divergence}."

    def _batches(self) -> Iterator[list[Any]]:
        settings, accelerator = self.settings, self.accelerator
        first = self.done * settings.accumulate
        share = accelerator.process_index, accelerator.num_processes
        dataset = _Batches(self.source, settings.groups, first, *share)
        return iter(DataLoader(dataset, batch_size=None, num_workers=settings.workers))

    def _log(self, values: Mapping[str, float]) -> None:
        rate = self.optimizer.param_groups[0]["lr"]
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
        """Keep other trainings out of the folder: the first process holds the lock, and where it cannot, all fail."""
        refused: list[str | None] = [None]
        with ExitStack() as stack:
            if self.accelerator.is_main_process:
                fix = f"Wait for it, or choose another folder for {self.settings.folder_option}."
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
        """The state as it is now. Frozen weights are not in it, since they are loaded from elsewhere."""
        state, scaler = self.optimizer.state, self.accelerator.scaler
        shadows = self.average.shadow_params if self.average else []
        return Checkpoint(
            step=self.done,
            updates=self.updates,
            seconds=self.time.spent if self.settings.minutes else 0.0,
            weights=self.trained,
            moments={name: state[each] for name, each in self.trained.items() if each in state},
            average=dict(zip(self.trained, shadows, strict=True)) if self.average else {},
            averaged=self.average.optimization_step if self.average else 0,
            scaler=scaler.state_dict() if scaler else {},
        )

    def _resume(self) -> None:
        spent = 0.0
        for path in self._checkpoints()[-1:]:
            shapes = {name: each.shape for name, each in self.trained.items()}
            found = read_checkpoint(path, shapes, self.settings.folder_option)
            self._restore(found)
            spent = found.seconds
        self.time.start(spent)
        if not self.accelerator.is_main_process:
            return
        if self.done >= self.settings.steps:
            _log.warning(
                "%s has %d steps already: nothing is left to train. For another training choose another %s.",
                self.out,
                self.done,
                self.settings.folder_option,
            )
        remove_unfinished(self.out)
        shutil.rmtree(self._folder / ".unfinished", ignore_errors=True)  # version 0.1.0 leaves it when it is killed
        if (self.out / LOSSES).is_file():
            lines = (self.out / LOSSES).read_text(encoding="utf-8-sig", errors="replace").splitlines()
            kept = [line for line in lines if _step_of(line) <= self.done]
            with atomic_write(self.out / LOSSES) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def _restore(self, found: Checkpoint) -> None:
        """Continue from a checkpoint, with the settings' learning rate and schedule."""
        self.done, self.updates = found.step, found.updates
        with torch.no_grad():
            for name, each in self.trained.items():
                each.copy_(found.weights[name])
        places = {name: place for place, name in enumerate(self.trained)}
        moments = {places[name]: dict(own) for name, own in found.moments.items()}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
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

    def _newest_is_of(self, step: int) -> bool:
        return any(path.stem == checkpoint_path(self._folder, step).stem for path in self._checkpoints()[-1:])


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


def dry_run(trainee: Any, source: Source, settings: TrainingSettings) -> Cost:
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
