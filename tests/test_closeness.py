"""The comparison that other tests use: relative to the largest value, and never fooled by what is no number."""

import pytest
import torch

from .closeness import assert_close, largest_difference

LARGE = torch.tensor([400.0, -1e-3])


def test_a_difference_is_a_share_of_the_largest_value():
    assert largest_difference(LARGE, LARGE + torch.tensor([0.0, 4e-4])) == pytest.approx(1e-6, rel=0.01)
    assert largest_difference(LARGE + torch.tensor([0.0, 4e-4]), LARGE) == pytest.approx(1e-6, rel=0.01)
    assert largest_difference(torch.zeros(2), LARGE) == 1
    assert largest_difference(torch.tensor([1, 2]), torch.tensor([1, 4])) == 0.5
    assert largest_difference(torch.zeros(3), torch.zeros(3)) == largest_difference(LARGE[:0], LARGE[:0]) == 0


def test_rounding_is_close_and_a_wrong_value_is_not():
    assert_close(LARGE, LARGE + torch.tensor([3e-4, -3e-4]))
    assert_close(LARGE, LARGE + 4, 0.01)
    for wrong in (LARGE + 0.1, LARGE * torch.nan, LARGE / 0, -LARGE):
        with pytest.raises(AssertionError, match="largest difference is .* not 1e-05"):
            assert_close(LARGE, wrong)
        with pytest.raises(AssertionError):
            assert_close(wrong, LARGE)


def test_shapes_are_not_broadcast():
    with pytest.raises(AssertionError, match=r"shapes differ: \(2,\) and \(1, 2\)"):
        assert_close(LARGE, LARGE[None])
