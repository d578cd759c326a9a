"""Drawn pictures as a diffusion model would draw them: a little blurred, noisy, too bright or too pale."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ...step_random import StepRandom

NOISE = 0.04
LIGHT = 0.12
JITTER = 0.06
"""Deviation of a box's middle, in its sides, and of the logarithm of its size."""


def augment(pictures: Tensor, random: StepRandom) -> Tensor:
    """Pictures `(n, 3, h, w)` in [0, 1], each blurred, brightened and made noisy to another degree."""
    count = len(pictures)
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    blur = (kernel[:, None] * kernel).expand(3, 1, 3, 3).to(pictures)
    for _ in range(2):
        share = torch.rand(count, 1, 1, 1, generator=random.torch).to(pictures) * _coin(count, random, pictures)
        blurred = F.conv2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), blur, groups=3)
        pictures = pictures.lerp(blurred, share)
    contrast, brightness = (LIGHT * random.normal(count, 1, 1, 1).clamp(-2, 2).to(pictures) for _ in range(2))
    pictures = (pictures - 0.5) * (1 + contrast) + 0.5 + brightness / 2
    noise = NOISE * torch.rand(count, 1, 1, 1, generator=random.torch).to(pictures) * _coin(count, random, pictures)
    return (pictures + noise * random.normal(*pictures.shape).to(pictures)).clamp(0, 1)


def jitter(boxes: Tensor, random: StepRandom) -> Tensor:
    """Boxes `(n, 4)` as a detector would give them: not quite in place, a little too large or too small."""
    middles, halves = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    middles = middles + 2 * JITTER * halves * random.normal(len(boxes), 2).to(boxes)
    halves = halves * torch.exp(JITTER * random.normal(len(boxes), 1).to(boxes))
    return torch.cat([middles - halves, middles + halves], dim=1)


def _coin(count: int, random: StepRandom, like: Tensor) -> Tensor:
    return (torch.rand(count, 1, 1, 1, generator=random.torch) < 0.7).to(like)
