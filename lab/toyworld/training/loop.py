"""One training loop for all of the toy world's networks: warm-up and cosine, moving average, checkpoints, resuming.

A step's batch and noise depend on the seed and the step's number only, so a run that was interrupted goes on as if it
had not been.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from ....core.quoting import printable, quote
from ...step_random import StepRandom
from .kept import read_kept, write_kept

MOVING_AVERAGE = 0.999
WARM_UP = 100


@dataclass(frozen=True)
class Settings:
    """How to train one network.

    Args:
        steps: Optimizer steps at most.
        minutes: Stop after so long, with the learning rate brought down in time; 0 sets no limit.
        batch: Pictures per step.
        rate: The highest learning rate.
        device: Such as cpu or cuda.
        seed: The seed of weights, data and noise.
        folder: Where checkpoints and rendered pictures are kept.
        save_every: Steps between checkpoints.
    """

    steps: int
    batch: int
    rate: float
    minutes: int | float = 0
    device: str = "cpu"
    seed: int = 0
    folder: Path = Path("toyworld_training")
    save_every: int = 250

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not 0 <= self.minutes < math.inf:
            raise ValueError(
                f"steps, batch and minutes must be positive, not {self.steps}, {self.batch}, {self.minutes}."
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {quote(self.seed)}; it must be from 0 to {2**32 - 1}.")
        if self.device.partition(":")[0] not in ("cpu", "cuda"):
            raise ValueError(f"device is {quote(self.device)}; it must be cpu or cuda.")
        if self.device != "cpu" and not torch.cuda.is_available():
            raise ValueError(f"device is {quote(self.device)}, but torch finds no CUDA device here; use cpu.")


def step_random(seed: int, step: int) -> StepRandom:
    """The random numbers of a step, seeded as they were when the shipped weights were trained."""
    return StepRandom(np.random.default_rng([seed, step]), torch.Generator().manual_seed(seed * 1_000_003 + step))


Loss = Callable[[StepRandom], Tensor]
"""Draws its own batch and returns a scalar."""


def train(name: str, network: nn.Module, loss: Loss, settings: Settings) -> list[float]:
    """Train `network` in place and leave it with the moving average of its weights.

    Only parameters that require a gradient are trained. Goes on from the checkpoint called `name` if there is one.

    Returns:
        The mean loss of every `save_every` steps.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    averages = [parameter.detach().clone() for parameter in trained]
    optimizer = torch.optim.AdamW(trained, lr=settings.rate, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
    path = settings.folder / f"{name}.checkpoint"
    history: list[float] = []
    done, spent = _resume(path, optimizer, trained, averages, history)
    started, recent = time.monotonic() - spent, []
    for step in _steps(done, settings, started):
        progress = _progress(step, settings, time.monotonic() - started)
        for group in optimizer.param_groups:
            group["lr"] = (
                settings.rate * min(1.0, (step + 1) / WARM_UP) * (0.02 + 0.98 * math.cos(progress * math.pi / 2) ** 2)
            )
        value = loss(step_random(settings.seed, step))
        value.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        decay = min(MOVING_AVERAGE, (step + 1) / (step + 10))
        torch._foreach_lerp_(averages, [parameter.detach() for parameter in trained], 1 - decay)
        recent.append(value.detach())
        done = step + 1
        if done % settings.save_every == 0:
            history.append(float(torch.stack(recent).mean()))
            recent = []
            _save(path, done, time.monotonic() - started, optimizer, trained, averages, history)
            _report(name, done, history[-1], time.monotonic() - started)
    with torch.no_grad():
        for parameter, average in zip(trained, averages, strict=True):
            parameter.copy_(average)
    _save(path, done, time.monotonic() - started, optimizer, trained, averages, history)
    return history


def _progress(step: int, settings: Settings, elapsed: float) -> float:
    share = elapsed / (60 * settings.minutes) if settings.minutes else 0.0
    return min(1.0, max(step / settings.steps, share))


def _steps(first: int, settings: Settings, started: float) -> Iterator[int]:
    for step in range(first, settings.steps):
        if settings.minutes and time.monotonic() - started > 60 * settings.minutes:
            return
        yield step


def _resume(
    path: Path,
    optimizer: torch.optim.Optimizer,
    trained: list[nn.Parameter],
    averages: list[Tensor],
    history: list[float],
) -> tuple[int, float]:
    if not path.is_file():
        return 0, 0.0
    state = read_kept(path)
    shapes = [parameter.shape for parameter in trained]
    try:
        weights, means = list(state["trained"]), list(state["averages"])
        if not [each.shape for each in weights] == [each.shape for each in means] == shapes:
            raise ValueError("its weights have other shapes")
        optimizer.load_state_dict(state["optimizer"])
        step, spent, losses = int(state["step"]), float(state["spent"]), [float(each) for each in state["history"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = printable(f"{type(error).__name__}: {error}", 300)
        raise ValueError(
            f"{path} is a checkpoint of another training ({why}). Delete it, or give another --work."
        ) from error
    with torch.no_grad():
        for own, kept in ((trained, weights), (averages, means)):
            for tensor, value in zip(own, kept, strict=True):
                tensor.copy_(value)
    history += losses
    return step, spent


def _save(
    path: Path,
    step: int,
    spent: float,
    optimizer: torch.optim.Optimizer,
    trained: list[nn.Parameter],
    averages: list[Tensor],
    history: list[float],
) -> None:
    state = {
        "step": step,
        "spent": spent,
        "optimizer": optimizer.state_dict(),
        "trained": [parameter.detach() for parameter in trained],
        "averages": averages,
        "history": history,
    }
    write_kept(path, state)


def _report(name: str, step: int, loss: float, elapsed: float) -> None:
    Console().print(f"{name}: step {step}, loss {loss:.4f}, {elapsed / 60:.1f} min", highlight=False)
