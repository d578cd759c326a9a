"""Re-denoising with progressive masks (IdentityStory, section 3.2, equations 6 to 8)."""

import math

import torch
from torch import Tensor

from .layout import chessboard_distance, subtract_smaller_first
from .shapes import Bool, Float, Shaped

REFERENCE_SIDE = 1024
"""The picture side, in pixels, for which the paper's largest kernel (50) is given."""


def scaled_kernel(max_kernel: int | float, height: int, width: int) -> float:
    """A kernel given for a 1024-pixel picture, scaled to this picture's shorter side."""
    return max_kernel * min(height, width) / REFERENCE_SIDE


def first_step(start: int | float, steps: int, name: str = "start") -> int:
    """The step at which re-denoising begins, 0-based, counted up from the noisiest.

    Args:
        start: A share of the steps, 0 to below 1 (the paper's 10 of 50 is 0.2), rounded to a whole step of the
            schedule; or the step itself, a whole number.
        steps: Sampling steps of the whole schedule (the paper's T), 1 or more.
        name: What messages call it.

    Raises:
        ValueError: If it is neither a share nor a step of the schedule.
    """
    if 0 <= start < 1:
        return min(math.floor(start * steps + 0.5), steps - 1)
    if not float(start).is_integer():
        raise ValueError(
            f"{name} is {start}: use a share of the steps below 1, such as 0.2, or the number of a step, such as 10."
        )
    if not 0 <= start < steps:
        fifth = first_step(0.2, steps)
        raise ValueError(
            f"{name} is {int(start)}, but the schedule has {steps} steps: use 0 to {steps - 1}, or a share such as 0.2 "
            f"(the paper's 10 of 50; here step {fifth})."
        )
    return int(start)


class ProgressiveMasks:
    """The mask schedule of one frame: exact at first, grown at every step, always exclusive.

    At step i a character's mask is dilated by a square of half-width
    `k_i = floor(max_kernel_px * (i + 1 - start) / (steps - start))` and the masks are made exclusive again, from the
    smallest to the largest. (The paper's formula for K_i counts down and has its sign reversed; this is the published
    code's reading.) One distance transform per character serves all steps.

    Args:
        masks: Exclusive character masks, in pixels.
        steps: Sampling steps of the whole schedule (the paper's T).
        start: The first step that re-denoises, 0-based, counted up, 0 to steps - 1 (10 of 50 is the paper's t' = 40);
            or a share of the steps, see `first_step`.
        max_kernel_px: Half-width at the last step, in pixels; see `scaled_kernel`.

    Raises:
        ValueError: If `start` is outside the schedule or `max_kernel_px` is negative.
    """

    def __init__(
        self, masks: Bool[Tensor, "s h w"], steps: int, start: int | float, max_kernel_px: int | float
    ) -> None:
        if max_kernel_px < 0:
            raise ValueError(f"The largest mask kernel is {max_kernel_px}; it must be 0 or more.")
        self.steps = steps
        self.start = first_step(start, steps)
        self.max_kernel_px = max_kernel_px
        self._distances = torch.stack([chessboard_distance(mask) for mask in masks]) if len(masks) else masks.cpu()

    def kernel(self, step: int) -> int:
        """Half-width of the square at a step from `start` on, in pixels."""
        return math.floor(self.max_kernel_px * (step + 1 - self.start) / (self.steps - self.start))

    def at(self, step: int) -> Bool[Tensor, "s h w"]:
        """The exclusive masks of one step (0-based, counted up); all empty before `start`."""
        if not 0 <= step < self.steps:
            raise ValueError(f"There is no step {step}: the schedule has steps 0 to {self.steps - 1}.")
        if step < self.start or not len(self._distances):
            return torch.zeros(self._distances.shape, dtype=torch.bool)
        return subtract_smaller_first(self._distances <= self.kernel(step))

    def reach(self) -> Bool[Tensor, "s h w"]:
        """Where each mask can be at any step: grown as at the last one, and not exclusive."""
        if not len(self._distances):
            return torch.zeros(self._distances.shape, dtype=torch.bool)
        return self._distances <= self.kernel(self.steps - 1)


def to_latent_grid(
    masks: Bool[Tensor, "s h w"], height: int, width: int, soft: bool = False
) -> Shaped[Tensor, "s 1 lh lw"]:
    """Bring masks to the latent grid.

    Nearest (bool, as published), or, with `soft`, the share of each cell that is covered (float32 in [0, 1]; the
    shares of exclusive masks add up to at most 1).
    """
    pixels = masks.unsqueeze(1).float()
    if soft:
        return torch.nn.functional.interpolate(pixels, size=(height, width), mode="area")
    return torch.nn.functional.interpolate(pixels, size=(height, width), mode="nearest") > 0.5


def composite(
    background: Float[Tensor, "b c *moment h w"],
    characters: Float[Tensor, "s b c *moment h w"],
    masks: Bool[Tensor, "s b 1 *moment h w"] | Float[Tensor, "s b 1 *moment h w"],
) -> Float[Tensor, "b c *moment h w"]:
    """Put the characters' predictions into the background's: D = (1 - sum M_j) D_bg + sum M_j D_j (equation 7).

    The paper composites latents. A sampler's update is linear in x, D and noise at every pixel, so compositing
    predictions gives exactly the same for DDIM and Euler, and works with every other sampler too.

    Args:
        background: Prediction of the template; a picture, or a video of one moment (b c 1 h w).
        characters: One prediction per character.
        masks: Exclusive. Bool selects: background pixels come through bit for bit. Float blends; where all masks are
            0 the background comes through bit for bit as well.
    """
    result = background
    if masks.dtype == torch.bool:
        for prediction, mask in zip(characters, masks, strict=True):
            result = torch.where(mask, prediction, result)
        return result
    covered = masks.sum(dim=0)
    blended = (1 - covered) * background + (masks * characters).sum(dim=0)
    return torch.where(covered == 0, background, blended.to(background.dtype))
