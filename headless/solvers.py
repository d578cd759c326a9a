"""Diffusers' schedulers as solvers that take x0 predictions.

Latents are in variance-exploding scale (x = x0 + sigma * noise) between steps, whatever a scheduler uses inside.
"""

import math
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler
from torch import Tensor

from ..core.quoting import quote
from ..core.shapes import Float
from .option_values import SAMPLERS


class Solver:
    """One run of a diffusers scheduler over given sigmas; make a new one for every run.

    `ddim` is DPM-Solver++ of the first order, which is the same method (Lu et al. 2022, section 4) and takes any
    sigmas, where diffusers' DDIMScheduler takes evenly spaced timesteps only.

    Args:
        name: One of `option_values.SAMPLERS`.
        sigmas: From `schedules.schedule`.
        seed: The seed of the noise that a stochastic solver (`dpmpp_2m_sde`) adds.
    """

    def __init__(self, name: str, sigmas: Float[Tensor, " steps_plus_one"], seed: int) -> None:
        if name not in SAMPLERS:
            raise ValueError(f"There is no sampler {quote(name)}; there are {', '.join(SAMPLERS)}.")
        self.sigmas = sigmas
        self._scheduler = _scheduler(name)
        self._preserves_variance = name != "euler"
        self._generator = torch.Generator().manual_seed(seed)
        steps = len(sigmas) - 1
        self._scheduler.set_timesteps(steps)
        self._scheduler.sigmas = sigmas
        self._scheduler.timesteps = torch.arange(float(steps), 0, -1)  # only names of the steps: the sigmas count
        self._scheduler.set_begin_index(0)

    def first_latent(self, noise: Float[Tensor, "b c h w"], levels: Float[Tensor, " n"]) -> Float[Tensor, "b c h w"]:
        """Pure noise at the first sigma; at the model's largest one it has the deviation of noised pictures."""
        first = float(self.sigmas[0])
        largest = float(levels[-1])
        if first > largest or math.isclose(first, largest, rel_tol=1e-5):
            return noise * (1 + self.sigmas[0] ** 2).sqrt()
        return noise * self.sigmas[0]

    def step(
        self, index: int, latent: Float[Tensor, "b c h w"], prediction: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """From `sigmas[index]` to `sigmas[index + 1]`, given the x0 prediction; steps are taken in order."""
        timestep = self._scheduler.timesteps[index]
        before, after = self._scale(index), self._scale(index + 1)
        return self._scheduler.step(prediction, timestep, latent * before, generator=self._generator)[0] / after

    def _scale(self, index: int) -> Tensor:
        """From variance-exploding to the scheduler's own scale."""
        return (1 + self.sigmas[index] ** 2).rsqrt() if self._preserves_variance else torch.ones(())


class FlowSolver(Solver):
    """The same for flow matching, where latents are (1 - sigma) x0 + sigma noise; ValueError for all but `euler`.

    Euler's step is the same in both: it goes along the line from the latent to the prediction.
    """

    def __init__(self, name: str, sigmas: Float[Tensor, " steps_plus_one"], seed: int) -> None:
        if name != "euler":
            raise ValueError(f"There is no sampler {quote(name)} for flow matching; there is euler.")
        super().__init__(name, sigmas, seed)

    def first_latent(self, noise: Float[Tensor, "b c h w"], levels: Float[Tensor, " n"]) -> Float[Tensor, "b c h w"]:
        """The part of the noise in a latent without a picture."""
        return noise * self.sigmas[0]


def _scheduler(name: str) -> Any:
    if name == "euler":
        scheduler = EulerDiscreteScheduler(prediction_type="sample")
        scheduler.is_scale_input_called = True  # what it is fed are no model inputs
        return scheduler
    return DPMSolverMultistepScheduler(
        prediction_type="sample",
        solver_order=1 if name == "ddim" else 2,
        algorithm_type="sde-dpmsolver++" if name == "dpmpp_2m_sde" else "dpmsolver++",
        final_sigmas_type="zero",
    )
