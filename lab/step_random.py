"""Random numbers of one training step."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class StepRandom:
    """The random numbers of one step, the same whenever that step is done again.

    Args:
        numpy: Chooses pictures, groups and noise levels.
        torch: Draws noise, on the CPU.
    """

    numpy: np.random.Generator
    torch: torch.Generator

    @classmethod
    def of(cls, seed: int, process: int, step: int) -> "StepRandom":
        """The random numbers of one step of one process."""
        numbers = np.random.default_rng([seed, process, step])
        return cls(numbers, torch.Generator().manual_seed(int(numbers.integers(2**62))))

    def normal(self, *shape: int) -> Tensor:
        """Noise of this shape from the standard normal distribution, on the CPU."""
        return torch.randn(shape, generator=self.torch)

    def chosen(self, count: int, share: float | int) -> list[bool]:
        """For each of `count`, whether it is chosen; each is with the probability `share`."""
        return (self.numpy.random(count) < share).tolist()
