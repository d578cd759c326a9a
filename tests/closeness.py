"""Whether what two computations came to is the same, up to the rounding of the machine that computed it."""

import torch
from torch import Tensor


def largest_difference(actual: Tensor, expected: Tensor) -> float:
    """The largest difference between two tensors of one shape, as a share of the largest value in either.

    Rounding errors of a network grow with its largest values and not with each value by itself, so a small value
    beside large ones may be off by much of itself. The same tensors, and those without values, differ by 0; NaN, which
    is neither small nor large, comes out where one of them holds NaN or infinity.
    """
    assert actual.shape == expected.shape, f"shapes differ: {tuple(actual.shape)} and {tuple(expected.shape)}"
    both = torch.stack([actual.detach().double(), expected.detach().double()])
    if not both.numel() or torch.equal(both[0], both[1]):
        return 0.0
    return float((both[0] - both[1]).abs().max() / both.abs().max())


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Assert that two tensors of one shape differ by no more than a share of the largest value in either."""
    difference = largest_difference(actual, expected)
    assert difference <= tolerance, f"the largest difference is {difference:.3g} of the largest value, not {tolerance}"
