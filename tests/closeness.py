"""Whether what two computations came to is the same, up to the rounding of the machine that computed it."""

from typing import Any

import torch


def largest_difference(actual: Any, expected: Any, scale: float | None = None) -> float:
    """The largest difference between two tensors of one shape, as a share of the largest value in either.

    Rounding errors of a network grow with its largest values and not with each value by itself, so a small value among
    large ones may be off by much of itself. Equal tensors, and those without values, differ by 0; NaN, which is neither
    small nor large, comes out where one of them holds NaN or infinity.

    Args:
        actual: A tensor, or what torch makes one of.
        expected: The same, of the same shape.
        scale: What the difference is a share of, where the values themselves cancel to nearly nothing.
    """
    one, other = (torch.as_tensor(each).detach().cpu().double() for each in (actual, expected))
    assert one.shape == other.shape, f"shapes differ: {tuple(one.shape)} and {tuple(other.shape)}"
    both = torch.stack([one, other])
    if not both.numel() or torch.equal(one, other):
        return 0.0
    return float((one - other).abs().max()) / (float(both.abs().max()) if scale is None else scale)


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-5, scale: float | None = None) -> None:
    """Assert that `largest_difference` is no more than a tolerance."""
    difference = largest_difference(actual, expected, scale)
    assert difference <= tolerance, f"the largest difference is {difference:.3g} of the largest value, not {tolerance}"
