"""Noise schedules by ComfyUI's names, with ComfyUI's numbers."""

from math import inf
from typing import Any

import torch
from torch import Tensor

from ..core.quoting import quote
from ..core.shapes import Float, Int64
from .option_values import SCHEDULES


def training_levels(config: Any) -> Float[Tensor, " n"]:
    """The rising sigmas of all training timesteps, from a diffusers scheduler's config; float32.

    Raises:
        ValueError: If the betas are of a kind that Stable Diffusion checkpoints do not have.
    """
    return _exact_levels(config).float()


def log_levels(config: Any) -> Float[Tensor, " n"]:
    """The logarithms of `training_levels`, float32; taken before the sigmas are rounded, as ComfyUI takes them."""
    return _exact_levels(config).log().float()


def _exact_levels(config: Any) -> Float[Tensor, " n"]:
    """The sigmas in float64."""
    first, last, count = config.beta_start, config.beta_end, config.num_train_timesteps
    if config.beta_schedule != "scaled_linear" or config.get("rescale_betas_zero_snr"):
        raise ValueError(
            f"The checkpoint's noise schedule is {quote(config.beta_schedule)}, with zero terminal SNR: "
            f"{bool(config.get('rescale_betas_zero_snr'))}. Only scaled_linear without it, as in SD1.5 and SDXL, works."
        )
    betas = torch.linspace(first**0.5, last**0.5, count, dtype=torch.float64).square()
    kept = torch.cumprod(1 - betas, dim=0)
    return ((1 - kept) / kept).sqrt()


def schedule(name: str, steps: int, config: Any) -> Float[Tensor, " steps_plus_one"]:
    """The falling sigmas of a schedule, the last one 0, bit for bit as ComfyUI's scheduler of that name gives them.

    Args:
        name: One of `option_values.SCHEDULES`.
        steps: 1 to the number of training timesteps. `ddim_uniform` makes a few more where the number does not divide
            that of the training timesteps, as ComfyUI's does.
        config: A diffusers scheduler's config.
    """
    levels = training_levels(config)
    count = len(levels)
    if name == "simple":
        chosen = levels[[count - 1 - int(step * (count / steps)) for step in range(steps)]]
    elif name == "ddim_uniform":
        chosen = levels[1 :: count // steps].flip(0)
    elif name == "normal":
        logs = log_levels(config)
        chosen = torch.stack([_at_timestep(timestep, logs) for timestep in torch.linspace(count - 1, 0, steps)])
    elif name == "karras":
        largest, smallest = float(levels[-1]) ** (1 / 7), float(levels[0]) ** (1 / 7)
        chosen = (largest + torch.linspace(0, 1, steps) * (smallest - largest)) ** 7
    else:
        raise ValueError(f"There is no schedule {quote(name)}; there are {', '.join(SCHEDULES)}.")
    return torch.cat([chosen, torch.zeros(1)])


def level_at(percent: float | int, config: Any) -> float:
    """The noise level at a part of sampling, as ComfyUI's `percent_to_sigma`: 0 is before noise, 1 the clean picture.

    Args:
        percent: 0 to 1.
        config: A diffusers scheduler's config.
    """
    if percent <= 0:
        return inf
    if percent >= 1:
        return 0.0
    return float(_at_timestep(torch.tensor((1.0 - percent) * 999.0), log_levels(config)))


def _at_timestep(timestep: Float[Tensor, ""], logs: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """The sigma between two training timesteps: linear in the logarithm."""
    share = timestep.frac()
    return ((1 - share) * logs[timestep.floor().long()] + share * logs[timestep.ceil().long()]).exp()


def nearest_timesteps(sigmas: Float[Tensor, " b"], logs: Float[Tensor, " n"]) -> Int64[Tensor, " b"]:
    """The training timesteps whose sigmas are nearest in the logarithm.

    Half way between two timesteps, where many sigmas of the schedule `normal` lie, the last bit decides. So this is
    ComfyUI's own expression, in float32 on the device of `sigmas`.

    Args:
        sigmas: The noise levels of a call.
        logs: From `log_levels`.
    """
    return (sigmas.log() - logs.to(sigmas.device)[:, None]).abs().argmin(dim=0)
