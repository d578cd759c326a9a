"""The formulas: laws first, then numbers by hand."""

import numpy as np
import pytest
import torch
from story_identity.core.scores.cosines import mean_cosine_between, mean_pairwise_cosine
from story_identity.core.scores.statistics import bootstrap_interval, mean_of_known, paired_differences
from story_identity.lab.evaluation.scores import (
    HIGHEST_PSNR,
    ghost_share,
    psnr,
    seam_step,
    varied_share,
)


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_cosine_of_alike_opposite_and_orthogonal_rows():
    row = noise(1, 7)
    assert mean_pairwise_cosine(row * torch.tensor([[1.0], [3.0], [0.5]])) == pytest.approx(1)
    assert mean_pairwise_cosine(torch.cat([row, -row])) == pytest.approx(-1)
    assert mean_pairwise_cosine(torch.eye(5)) == pytest.approx(0)


def test_cosine_is_the_mean_over_every_two_rows():
    rows = noise(5, 11) - 0.5
    pairs = [torch.cosine_similarity(rows[i], rows[j], dim=0) for i in range(5) for j in range(i)]
    assert mean_pairwise_cosine(rows) == pytest.approx(float(torch.stack(pairs).mean()), abs=1e-6)
    assert mean_pairwise_cosine(rows[:1]) is None


def test_cosine_between_two_sets_by_hand():
    one, other = torch.tensor([[2.0, 0.0], [0.0, 5.0]]), torch.tensor([[3.0, 0.0]])
    assert mean_cosine_between(one, other) == pytest.approx(0.5)  # of 1 and 0
    assert mean_cosine_between(one, other[:0]) is None


def test_psnr_looks_only_where_it_is_told():
    picture, where = noise(6, 9, 3), torch.zeros(6, 9, dtype=torch.bool)
    where[:, :4] = True
    other = picture.clone()
    other[:, 4:] += 0.7
    assert psnr(other, picture, where) == HIGHEST_PSNR
    other[:, :4] += 0.1
    assert psnr(other, picture, where) == pytest.approx(20, abs=1e-4)  # -10 log10(0.01)
    assert psnr(other, picture, ~where | where) < 20
    assert psnr(other, picture, torch.zeros_like(where)) is None


def test_ghost_by_hand():
    template = torch.zeros(4, 4, 3)
    old, new = torch.zeros(4, 4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    old[:2], new[0] = True, True  # eight pixels of the old figure, four of them covered by the new one
    picture = template.clone()
    picture[1, 0] = 0.5  # one of the other four was painted over
    assert ghost_share(picture, template, new, old) == pytest.approx(3 / 8)
    assert ghost_share(template + 0.5, template, new, old) == 0
    assert ghost_share(template, template, old, old) == 0
    assert ghost_share(template, template, new, torch.zeros_like(old)) is None


def test_a_seam_is_a_step_at_the_edge_of_the_paste():
    pasted = torch.zeros(24, 24, dtype=torch.bool)
    pasted[8:16, 4:20] = True
    ramp = (torch.arange(24.0)[:, None] + 2 * torch.arange(24.0)).div(100)[..., None].expand(-1, -1, 3)
    assert seam_step(ramp, pasted) == pytest.approx(0, abs=1e-6)  # as steep at the edge as next to it
    assert seam_step(ramp + 0.25 * pasted[..., None], ~pasted) == pytest.approx(0.25, abs=0.05)
    flat = torch.full((24, 24, 3), 0.5)
    assert seam_step(flat + 0.25 * pasted[..., None], pasted) == pytest.approx(0.25)
    assert seam_step(flat, torch.ones_like(pasted)) is None


def test_a_picture_whose_contours_lie_elsewhere_has_no_seam():
    pasted = torch.zeros(24, 24, dtype=torch.bool)
    pasted[8:16, 8:16] = True
    inside = torch.zeros(24, 24, 3)
    inside[11:13, 11:13] = 1
    assert seam_step(inside, pasted) == 0


def test_turning_the_picture_changes_no_seam():
    picture, pasted = noise(12, 20, 3), noise(12, 20, seed=1) > 0.5
    turned = seam_step(picture.transpose(0, 1).contiguous(), pasted.T.contiguous())
    assert seam_step(picture, pasted) == pytest.approx(turned)


def test_missing_values_are_left_out():
    assert mean_of_known([1.0, None, 2.0]) == 1.5
    assert mean_of_known([None]) is None
    assert paired_differences([3.0, None, 1.0, 5.0], [1.0, 1.0, None, 1.0]) == [2.0, 4.0]


def test_values_vary_where_they_should():
    true = ["stands", "waves", "stands", "jumps"]
    assert varied_share(true, true) == 1
    assert varied_share(["jumps", "sits", "waves", "stands"], true) == 1  # all wrong, and all different
    assert varied_share(["stands"] * 4, true) == 0
    assert varied_share(["stands", "waves", "waves", None], true) == 1 / 2  # of the first two and the next two
    assert varied_share(["stands", None, "waves", None], true) is None


def test_interval_of_values_that_agree():
    found = bootstrap_interval([2.5] * 7)
    assert (found.mean, found.low, found.high, found.count) == (2.5, 2.5, 2.5, 7)
    with pytest.raises(ValueError, match="no story has this value"):
        bootstrap_interval([])


def test_interval_is_as_wide_as_theory_says():
    values = np.random.default_rng(0).normal(size=400)
    found = bootstrap_interval(values.tolist())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)
    assert found.low < found.mean < found.high


def test_nineteen_of_twenty_intervals_hold_the_true_mean():
    random = np.random.default_rng(1)
    held = 0
    for trial in range(100):
        found = bootstrap_interval(random.exponential(size=60).tolist(), seed=trial)  # skewed: theory's mean is 1
        held += found.low <= 1 <= found.high
    assert 88 <= held <= 99
