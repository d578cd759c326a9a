"""Noise schedules by ComfyUI's names, with ComfyUI's numbers."""

import math
from typing import Any

import torch
from torch import Tensor

from ..core.shapes import Float
from .option_values import SCHEDULES


def training_levels(config: Any) -> Float[Tensor, " n"]:
    """The rising sigmas of all training timesteps, from a diffusers scheduler's config.

    Raises:
        ValueError: If the betas are of a kind that Stable Diffusion checkpoints do not have.
    """
    first, last, count = config.beta_start, config.beta_end, config.num_train_timesteps
    if config.beta_schedule != "scaled_linear" or config.get("rescale_betas_zero_snr"):
        raise ValueError(
            f"The checkpoint's noise schedule is {config.beta_schedule}, with zero terminal SNR: "
            f"{bool(config.get('rescale_betas_zero_snr'))}. Only scaled_linear without it, as in SD1.5 and SDXL, works."
        )
    betas = torch.linspace(first**0.5, last**0.5, count, dtype=torch.float64).square()
    kept = torch.cumprod(1 - betas, dim=0)
    return ((1 - kept) / kept).sqrt().float()


def schedule(name: str, steps: int, levels: Float[Tensor, " n"]) -> Float[Tensor, " steps_plus_one"]:
    """The falling sigmas of a schedule, the last one 0, as ComfyUI's scheduler of that name gives them.

    Args:
        name: One of `choices.SCHEDULES`.
        steps: 1 to n. `ddim_uniform` makes a few more where the number does not divide n, as ComfyUI's does.
        levels: The training timesteps' sigmas, rising.
    """
    count = len(levels)
    if name == "simple":
        chosen = levels[[count - 1 - int(step * count / steps) for step in range(steps)]]
    elif name == "ddim_uniform":
        chosen = levels[1 :: count // steps].flip(0)
    elif name == "normal":
        chosen = _at_timesteps(torch.linspace(count - 1, 0, steps), levels)
    elif name == "karras":
        ends = levels[-1] ** (1 / 7), levels[0] ** (1 / 7)
        chosen = (ends[0] + torch.linspace(0, 1, steps) * (ends[1] - ends[0])) ** 7
    else:
        raise ValueError(f'There is no schedule "{name}"; there are {", ".join(SCHEDULES)}.')
    return torch.cat([chosen, torch.zeros(1)])


def _at_timesteps(timesteps: Float[Tensor, " t"], levels: Float[Tensor, " n"]) -> Float[Tensor, " t"]:
    """Sigmas between two training timesteps: linear in their logarithm."""
    low, high = timesteps.floor().long(), timesteps.ceil().long()
    share = timesteps.frac()
    return ((1 - share) * levels.log()[low] + share * levels.log()[high]).exp()


def nearest_timestep(sigma: int | float, levels: Float[Tensor, " n"]) -> int:
    """The training timestep whose sigma is nearest in the logarithm."""
    return int((levels.log() - math.log(sigma)).abs().argmin())
