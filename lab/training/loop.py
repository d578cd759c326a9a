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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration, broadcast_object_list
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from ...core.atomic_files import remove_unfinished, replacing
from .denoising_task import Dice
from .groups import Group, GroupSource
from .settings import TrainingSettings

_log = logging.getLogger(__name__)

LOSSES = "losses.jsonl"
_TRAINED = "trained.safetensors"
_LARGEST_GRADIENT = 1.0

_Result = TypeVar("_Result")
Draw = Callable[[Path], object]
OnStep = Callable[[int, Mapping[str, float]], None]


class Trainee(Protocol):
    """A module whose parameters that require gradients are trained; called with groups and dice it gives losses."""

    def __call__(self, groups: Sequence[Group], dice: Dice) -> Mapping[str, Tensor]: ...

    def save(self, folder: Path) -> Path: ...


class _Batches(IterableDataset):
    def __init__(self, source: GroupSource, count: int, first: int, process: int, processes: int) -> None:
        self.source, self.count = source, count
        self.share = first * count, process, processes

    def __iter__(self) -> Iterator[list[Group]]:
        groups = self.source.stream(*self.share)
        while True:
            yield [next(groups) for _ in range(self.count)]


@dataclass
class _Progress:
    """What accelerate saves with the rest: how many optimizer steps are done, and the moving average."""

    average: EMAModel | None
    device: torch.device
    step: int = 0

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "average": self.average and self.average.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]
        if self.average and state["average"]:
            self.average.load_state_dict({**state["average"], "decay": self.average.decay})
            self.average.to(self.device)


class Loop:
    """One training, from its newest checkpoint to the end; data parallel under torchrun or accelerate launch.

    Between two runs of one training, settings may change where the shapes of what is trained stay.

    Args:
        trainee: What is trained, a module.
        source: Its groups.
        settings: How.
        log: Whether the tracker hears of it.

    Raises:
        ValueError: If accelerate works on another device than the settings say, since it was told so before.
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
        if self.accelerator.device.type != settings.device:
            raise ValueError(f'device is "{settings.device}", but accelerate is at work on {self.accelerator.device}.')
        optimizer = torch.optim.AdamW(self.trained.values(), lr=settings.learning_rate, weight_decay=0.01)
        scheduler = get_scheduler(
            settings.schedule, optimizer, num_warmup_steps=settings.warm_up, num_training_steps=settings.steps
        )
        self.model, self.optimizer, self.scheduler = self.accelerator.prepare(trainee, optimizer, scheduler)
        self.average = EMAModel(self.trained.values(), decay=settings.ema) if settings.ema else None
        self.progress = _Progress(self.average, self.accelerator.device)
        self.accelerator.register_for_checkpointing(self.progress)
        self.accelerator.register_save_state_pre_hook(self._save_trained)
        self.accelerator.register_load_state_pre_hook(self._load_trained)

    def run(self, draw: Draw | None = None, on_step: OnStep = lambda step, values: None) -> Path:
        """Train to the end.

        Args:
            draw: Makes a picture at a path; called in the first process, with the average in the trainee's place.
            on_step: Hears of every step and its losses.

        Returns:
            The file that the trainee saved; in every process.

        Raises:
            ValueError: If the newest checkpoint is of another trainee, or the loss is no number.
        """
        settings, accelerator = self.settings, self.accelerator
        self._resume()
        if accelerator.log_with:
            accelerator.init_trackers("training", config=dict(settings.__dict__))
        batches = self._batches()
        while (step := self.progress.step) < settings.steps:
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
            number = self.progress.step * settings.accumulate + part
            with self.accelerator.accumulate(self.model):
                dice = Dice.of(settings.seed, self.accelerator.process_index, number)
                losses = self.model(next(batches), dice)
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
        self.progress.step += 1
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
            f"The loss of step {self.progress.step + 1} is {loss}. {onward}: set a lower learning_rate first, or "
            'precision = "bf16" or "no".'
        )

    def _batches(self) -> Iterator[list[Group]]:
        settings, accelerator = self.settings, self.accelerator
        first = self.progress.step * settings.accumulate
        share = accelerator.process_index, accelerator.num_processes
        dataset = _Batches(self.source, settings.groups, first, *share)
        return iter(DataLoader(dataset, batch_size=None, num_workers=settings.workers))

    def _log(self, values: Mapping[str, float]) -> None:
        rate = self.scheduler.get_last_lr()[0]
        self.accelerator.log({**values, "learning_rate": rate}, step=self.progress.step)
        if self.accelerator.is_main_process:
            with (self.out / LOSSES).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": self.progress.step, **values}) + "\n")

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

    def _save(self) -> None:
        folder, unfinished = self._checkpoint(self.progress.step), self.out / "checkpoints" / ".unfinished"
        if self.accelerator.is_main_process and unfinished.exists():
            shutil.rmtree(unfinished)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(unfinished))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            unfinished.rename(folder)
            for old in self._checkpoints()[: -self.settings.keep]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        for folder in self._checkpoints()[-1:]:
            self.accelerator.load_state(str(folder))
            self._take_learning_rate()
        if self.progress.step >= self.settings.steps and self.accelerator.is_main_process:
            _log.warning(
                "%s has %d steps already: nothing is left to train. For another training choose another out.",
                self.out,
                self.progress.step,
            )
        if self.accelerator.is_main_process:
            remove_unfinished(self.out)
        if self.accelerator.is_main_process and (self.out / LOSSES).is_file():
            lines = (self.out / LOSSES).read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= self.progress.step]
            with replacing(self.out / LOSSES) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def _take_learning_rate(self) -> None:
        """The settings' learning rate, in place of the one that a checkpoint brought with it."""
        rate = self.settings.learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] *= rate / group["initial_lr"]
            group["initial_lr"] = rate
        self.scheduler.scheduler.base_lrs = [rate] * len(self.optimizer.param_groups)

    def _checkpoint(self, step: int) -> Path:
        return self.out / "checkpoints" / f"step_{step:07d}"

    def _checkpoints(self) -> list[Path]:
        return sorted((self.out / "checkpoints").glob("step_*"))

    def _save_trained(self, models: list[nn.Module], weights: list[Any], folder: str) -> None:
        """Checkpoints hold what is trained; the frozen rest is the checkpoint that was loaded."""
        weights.clear()
        if self.accelerator.is_main_process:
            state = {name: each.detach().cpu().contiguous() for name, each in self.trained.items()}
            save_file(state, Path(folder) / _TRAINED)

    def _load_trained(self, models: list[nn.Module], folder: str) -> None:
        models.clear()
        state = load_file(Path(folder) / _TRAINED)
        if _shapes(state) != _shapes(self.trained):
            raise ValueError(
                f"{folder} is a checkpoint of another training: its weights have other names or shapes. Choose another "
                "folder for out, or delete that one."
            )
        with torch.no_grad():
            for name, each in self.trained.items():
                each.copy_(state[name])


@dataclass(frozen=True)
class Cost:
    """What training takes.

    Args:
        parameters: How many numbers are trained.
        seconds_per_step: Of the second step.
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
        raise ValueError(f'tracker is "{name}"; accelerate knows {", ".join(sorted(LOGGER_TYPE_TO_CLASS))}.')
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


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: each.shape for name, each in weights.items()}


def _step_of(line: str) -> int:
    try:
        return json.loads(line)["step"]
    except ValueError:
        return sys.maxsize  # a line that was cut off
