"""Trains one network of the toy world with the training loop of `lab/training`.

A step's batch and noise depend on the seed and the step's number only.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, ClassVar, ParamSpec

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ....core.atomic_files import atomic_write
from ....core.quoting import quote
from ...float32_attention import Float32Attention
from ...step_random import StepRandom
from ...training.loop import LOSSES, Loop
from ...training.settings import LoopSettings

_P = ParamSpec("_P")
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
        start: A folder of finished weights to begin with where there is no checkpoint; None begins anew.
        compile: Compile the UNet or the transformer before training it.
    """

    steps: int
    batch: int
    rate: float
    minutes: int | float = 0
    device: str = "cpu"
    seed: int = 0
    folder: Path = Path("toyworld_training")
    save_every: int = 250
    start: Path | None = None
    compile: bool = False

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

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Inside, networks run in bfloat16 where that is faster; without instructions for it, it is 20 times slower.

        On a processor, attention is computed in float32.
        """
        kind = self.device.partition(":")[0]
        fast = kind != "cpu" or _processor_has_bfloat16()
        with ExitStack() as stack:
            stack.enter_context(torch.autocast(kind, torch.bfloat16, enabled=fast))
            stack.enter_context(Float32Attention())
            yield

    def compiled(self, function: Callable[_P, Tensor]) -> Callable[_P, Tensor]:
        """The function, compiled if that is asked for."""
        return torch.compile(function) if self.compile else function


Loss = Callable[[StepRandom], Tensor]
"""Draws its own batch and returns a scalar."""


def train(name: str, network: nn.Module, loss: Loss, settings: Settings) -> list[float]:
    """Train `network` in place and leave it with the moving average of its weights.

    Only parameters that require a gradient are trained. Checkpoints and losses go into a folder called `name` in the
    settings' folder; a training that was stopped continues from the newest.

    Returns:
        The mean loss of every `save_every` steps.

    Raises:
        ValueError: If the folder holds a checkpoint of another training or of a former version.
    """
    former = settings.folder / f"{name}.checkpoint"
    if former.is_file():
        raise ValueError(
            f"{former} is a checkpoint of version 0.2.0 or older, from which this version cannot continue. Delete it "
            "to train anew, or give another --work."
        )
    chosen = _NetworkSettings.of(settings.folder / name, settings)
    if settings.device != "cpu":
        torch.cuda.set_device(settings.device)
    trainee = _Trainee(network, loss)
    loop = Loop(trainee, _NoExamples(), chosen)

    def report(step: int, values: Mapping[str, float]) -> None:
        if step % settings.save_every == 0:
            minutes = loop.time.spent / 60
            Console().print(f"{name}: step {step}, loss {values['loss']:.4f}, {minutes:.1f} min", highlight=False)

    trainee.load(loop.run(on_step=report))
    return _mean_losses(Path(chosen.out) / LOSSES, settings.save_every)


@dataclass(frozen=True, kw_only=True)
class _NetworkSettings(LoopSettings):
    """The loop's settings for a network of the toy world."""

    out: str
    steps: int
    learning_rate: float
    minutes: float | int
    device: str
    seed: int
    save_every: int
    warm_up: int
    groups: int = 1
    accumulate: int = 1
    schedule: str = "cosine"
    precision: str = "no"
    ema: float = MOVING_AVERAGE
    keep: int = 2
    draw_every: int = 0
    tracker: str = ""
    workers: int = 0
    lowest_rate: ClassVar[float] = 0.02
    adamw: ClassVar[Mapping[str, Any]] = {"betas": (0.9, 0.99), "fused": True}
    folder_option: ClassVar[str] = "--work"
    advice_on_divergence: ClassVar[str] = "give another --work and --seed"

    @classmethod
    def of(cls, folder: Path, settings: Settings) -> "_NetworkSettings":
        return cls(
            out=str(folder),
            steps=settings.steps,
            learning_rate=settings.rate,
            minutes=settings.minutes,
            device=settings.device.partition(":")[0],
            seed=settings.seed,
            save_every=settings.save_every,
            warm_up=WARM_UP,
        )


def _processor_has_bfloat16() -> bool:
    has: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch older than 2.10 cannot say
    return bool(has.get("amx_bf16") or has.get("avx512_bf16"))


class _NoExamples:
    """The loop's examples, of which there are none, since a network's loss draws its own batches."""

    def stream(self, first: int, process: int, processes: int) -> Iterator[int]:
        return repeat(0)


class _Trainee(nn.Module):
    """A network with its loss, as the training loop calls them."""

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network, self.loss = network, loss
        self.trained = {name: each for name, each in network.named_parameters() if each.requires_grad}

    def forward(self, examples: list[int], random: StepRandom) -> dict[str, Tensor]:
        return {"loss": self.loss(random)}

    def save(self, folder: Path) -> Path:
        path = folder / "trained.safetensors"
        with atomic_write(path) as temporary:
            save_file({name: each.detach().cpu().contiguous() for name, each in self.trained.items()}, temporary)
        return path

    @torch.no_grad()
    def load(self, path: Path) -> None:
        for name, each in load_file(path).items():
            self.trained[name].copy_(each)


def _mean_losses(file: Path, count: int) -> list[float]:
    """The means of so many losses each."""
    losses = [json.loads(line)["loss"] for line in file.read_text(encoding="utf-8").splitlines()]
    return [sum(losses[last - count : last]) / count for last in range(count, len(losses) + 1, count)]
