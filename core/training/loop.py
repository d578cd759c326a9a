"""The training loop of both trainers: accelerate's, with checkpoints that are there whole or not at all.

What a step draws depends on the seed, the process and the step's number only, so a run that was stopped goes on as if
it had not been.
"""

import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from ..replacing import replacing
from .diffusion import Dice
from .groups import Group, GroupSource
from .settings import TrainingSettings

LOSSES = "losses.jsonl"
_TRAINED = "trained.safetensors"
_LARGEST_GRADIENT = 1.0


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
    """How many optimizer steps are done; what accelerate saves with the rest."""

    step: int = 0

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.step = state["step"]


class Loop:
    """One training, from its newest checkpoint to the end."""

    def __init__(self, trainee: Any, source: GroupSource, settings: TrainingSettings, log: bool = True) -> None:
        self.settings, self.trainee, self.source = settings, trainee, source
        self.out = Path(settings.out)
        self.trained = {name: each for name, each in trainee.named_parameters() if each.requires_grad}
        self.accelerator = Accelerator(
            gradient_accumulation_steps=settings.accumulate,
            mixed_precision=settings.precision,
            cpu=settings.device == "cpu",
            log_with=settings.tracker if log and settings.tracker else None,
            project_config=ProjectConfiguration(project_dir=str(self.out), logging_dir=str(self.out / "log")),
        )
        optimizer = torch.optim.AdamW(self.trained.values(), lr=settings.learning_rate, weight_decay=0.01)
        processes = self.accelerator.num_processes
        scheduler = get_scheduler(
            settings.schedule, optimizer, settings.warm_up * processes, settings.steps * processes
        )
        self.average = EMAModel(self.trained.values(), decay=settings.ema) if settings.ema else None
        self.progress = _Progress()
        self.model, self.optimizer, self.scheduler = self.accelerator.prepare(trainee, optimizer, scheduler)
        self.accelerator.register_for_checkpointing(self.progress, *([self.average] if self.average else []))
        self.accelerator.register_save_state_pre_hook(self._save_trained)
        self.accelerator.register_load_state_pre_hook(self._load_trained)
        if self.average:
            self.average.to(self.accelerator.device)

    def run(self, draw: Callable[[Path], None] | None = None) -> Path:
        """Train to the end; `draw` makes a picture of the story at a path.

        Returns:
            The file that the trainee saved.
        """
        settings, accelerator = self.settings, self.accelerator
        self._resume()
        if settings.tracker:
            accelerator.init_trackers("training", config=dict(settings.__dict__))
        batches = self._batches()
        while self.progress.step < settings.steps:
            values = self.step(batches)
            self._log(values)
            if self.progress.step % settings.save_every == 0 or self.progress.step == settings.steps:
                self._save()
            if draw and settings.draw_every and self.progress.step % settings.draw_every == 0:
                self._with_average(lambda: draw(self.out / "pictures" / f"step_{self.progress.step:07d}.png"))
        self._with_average(lambda: self.trainee.save(self.out))
        accelerator.wait_for_everyone()
        accelerator.end_training()
        return next(self.out.glob("*.safetensors"))

    def step(self, batches: Iterator[list[Group]]) -> dict[str, float]:
        """One optimizer step; the mean losses of all processes."""
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
        self.progress.step += 1
        if self.average:
            self.average.step(self.trained.values())
        means = self.accelerator.reduce(totals, reduction="mean")
        return {name: float(value) for name, value in means.items()}

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

    def _with_average(self, work: Callable[[], Any]) -> None:
        """Do something with the moving average of the weights, in the first process."""
        if self.accelerator.is_main_process:
            if self.average:
                self.average.store(self.trained.values())
                self.average.copy_to(self.trained.values())
            work()
            if self.average:
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
        if self.accelerator.is_main_process and (self.out / LOSSES).is_file():
            lines = (self.out / LOSSES).read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= self.progress.step]
            with replacing(self.out / LOSSES) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

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
        if state.keys() != self.trained.keys():
            raise ValueError(f"{folder} is of another training: its weights have other names. Choose another out.")
        with torch.no_grad():
            for name, each in self.trained.items():
                each.copy_(state[name])


def dry_run(trainee: Any, source: GroupSource, settings: TrainingSettings) -> dict[str, float]:
    """Two steps that leave nothing behind: parameters trained, seconds of the second step, and the peak of memory."""
    loop = Loop(trainee, source, settings, log=False)
    batches, cuda = loop._batches(), loop.accelerator.device.type == "cuda"
    loop.step(batches)
    started = time.perf_counter()
    loop.step(batches)
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    parameters = sum(each.numel() for each in loop.trained.values())
    return {"parameters": parameters, "seconds_per_step": seconds, "peak_gib": peak / 2**30}


def _step_of(line: str) -> int:
    try:
        return json.loads(line)["step"]
    except ValueError:
        return sys.maxsize  # a line that was cut off
