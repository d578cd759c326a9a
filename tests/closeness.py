"""One comparison of computed numbers, the same on every machine: the error as a share of the largest value."""

from typing import Any

import torch


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-5, scale: float | None = None) -> None:
    """Fail unless the largest difference is at most `tolerance` times the largest expected value.

    How machines round depends on the order in which they add, and the error grows with the values: a limit for the
    difference alone holds on one machine and fails on another.

    Args:
        actual: A tensor, an array, a number or a list of numbers.
        expected: The same, of the same shape.
        tolerance: A share.
        scale: What the difference is a share of; None: the largest absolute value of `expected`. Where zeros are
            expected, it says how large the numbers are that cancel.
    """
    found, wanted = (torch.as_tensor(each).detach().cpu().double() for each in (actual, expected))
    assert found.shape == wanted.shape, f"the shape is {tuple(found.shape)}, expected {tuple(wanted.shape)}"
    assert torch.isfinite(found).all(), "there are values that are not finite"
    largest = float(wanted.abs().max()) if scale is None and wanted.numel() else scale or 0.0
    error = float((found - wanted).abs().max()) if wanted.numel() else 0.0
    assert error <= tolerance * largest, f"differs by {error:.3g}; {tolerance:g} of {largest:.3g} is allowed"


def is_close(actual: Any, expected: Any, tolerance: float = 1e-5, scale: float | None = None) -> bool:
    """Whether `assert_close` would pass."""
    try:
        assert_close(actual, expected, tolerance, scale)
    except AssertionError:
        return False
    return True
