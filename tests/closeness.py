"""Whether what two computations came to is the same, up to the rounding of the machine that computed it."""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Numbers: TypeAlias = "Tensor | float | Sequence[float]"


def largest_difference(actual: Numbers, expected: Numbers, scale: float | None = None) -> float:
    """The largest difference between numbers of one shape, as a share of the largest value in either.

    Rounding errors of a network grow with its largest values and not with each value by itself, so a small value
    next to large ones may be off by much of itself. The same tensors, and those without values, differ by 0; NaN,
    which is neither small nor large, comes out where one of them holds NaN or infinity.

    Args:
        actual: A tensor, a number or a list of numbers.
        expected: Numbers of the same shape.
        scale: What the difference is a share of, in place of the largest value; for numbers that cancel to 0.
    """
    one, other = (torch.as_tensor(each).detach().cpu().double() for each in (actual, expected))
    assert one.shape == other.shape, f"shapes differ: {tuple(one.shape)} and {tuple(other.shape)}"
    both = torch.stack([one, other])
    if not both.numel() or torch.equal(one, other):
        return 0.0
    return float((one - other).abs().max() / (both.abs().max() if scale is None else scale))


def assert_close(actual: Numbers, expected: Numbers, tolerance: float = 1e-5, scale: float | None = None) -> None:
    """Assert that the largest difference of numbers of one shape is no more than a share of the largest value.

    Args:
        actual: A tensor, a number or a list of numbers.
        expected: Numbers of the same shape.
        tolerance: The share that is allowed.
        scale: See `largest_difference`.
    """
    difference = largest_difference(actual, expected, scale)
    assert difference <= tolerance, f"the largest difference is {difference:.3g} of the largest value, not {tolerance}"
