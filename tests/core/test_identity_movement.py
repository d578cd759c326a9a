import pytest
import torch
from story_identity.core.identity_discovery import discover_identity, identity_movement


def test_movement_by_hand():
    """With a plain mean: two equal rows, then a third at a right angle."""
    rows = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    mean = torch.tensor([2.0, 1]) / 3
    assert identity_movement(rows, 1, iterations=0) == pytest.approx(1 - float(mean[0] / mean.norm()), rel=1e-6)
    assert identity_movement(rows[:2], 1, iterations=0) == pytest.approx(0, abs=1e-12)
    assert identity_movement(rows, 3, iterations=0) == float("inf")
    assert identity_movement(rows, 1) == float("inf")  # too few for any rank


def test_movement_compares_the_discoveries_before_and_after():
    rows = torch.randn(40, 24, generator=torch.Generator().manual_seed(1)) + 2
    before, after = (discover_identity(part, 4).embedding for part in (rows[:32], rows))
    expected = 1 - float(torch.nn.functional.cosine_similarity(before.double(), after.double(), dim=0))
    assert identity_movement(rows, 8, rank=4) == pytest.approx(expected, rel=1e-9)
