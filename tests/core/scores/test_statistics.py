"""Intervals over the frames of one story."""

import numpy as np
import pytest
import torch
from story_identity.core.scores.cosines import cosine_matrix, cosines_of_rows
from story_identity.core.scores.statistics import bootstrap_frames, bootstrap_interval, bootstrap_pairs


def faces(count, seed=0):
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(9, generator=random) + 0.5 for _ in range(count)]


def resampled_by_loops(matrix, random, resamples):
    """The bootstrap as one would write it: draw frames, take every two draws of different frames."""
    size, found = len(matrix), []
    for times in random.multinomial(size, np.full(size, 1 / size), size=resamples):
        drawn = [frame for frame in range(size) for _ in range(times[frame])]
        pairs = [matrix[a, b] for i, a in enumerate(drawn) for b in drawn[:i] if a != b and not np.isnan(matrix[a, b])]
        if pairs:
            found.append(np.mean(pairs))
    return np.quantile(found, (0.025, 0.975))


@pytest.mark.parametrize("missing", [(), (2, 4)])
def test_pairs_against_loops(missing):
    matrix = cosine_matrix([None if frame in missing else each for frame, each in enumerate(faces(6))])
    found = bootstrap_pairs([matrix], np.random.default_rng(3), resamples=200)
    low, high = resampled_by_loops(matrix.numpy(), np.random.default_rng(3), 200)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.count == 6 - len(missing)


def test_two_characters_count_alike():
    one, other = cosine_matrix(faces(5)), cosine_matrix([*faces(2, seed=1), None, None, None])
    own = [bootstrap_pairs([each], resamples=10).mean for each in (one, other)]
    assert bootstrap_pairs([one, other], resamples=10).mean == pytest.approx(np.mean(own))


def test_frames_by_hand():
    values = torch.tensor([[1.0, 2.0, torch.nan, 6.0], [torch.nan, 7.0, torch.nan, torch.nan]], dtype=torch.double)
    assert bootstrap_frames(values).mean == pytest.approx((3 + 7) / 2)
    assert bootstrap_frames(values, pooled=True).mean == pytest.approx(16 / 4)
    assert bootstrap_frames(values).count == 3


def test_frames_of_one_character_are_the_plain_bootstrap():
    values = np.random.default_rng(0).normal(size=40)
    plain, found = bootstrap_interval(values.tolist()), bootstrap_frames(torch.tensor(values[None]))
    assert found.mean == pytest.approx(plain.mean)
    assert (found.low, found.high) == (pytest.approx(plain.low, abs=0.02), pytest.approx(plain.high, abs=0.02))


def test_few_frames_have_no_width_and_none_has_no_mean():
    pair = cosine_matrix(faces(2))
    found = bootstrap_pairs([pair])
    assert found.low == found.mean == found.high == pytest.approx(float(pair[0, 1]))
    assert bootstrap_pairs([cosine_matrix([None, faces(1)[0]])]) is None
    assert bootstrap_pairs([]) is None
    assert bootstrap_frames(torch.full((2, 3), torch.nan)) is None


def test_a_generator_goes_on():
    random = np.random.default_rng(0)
    first, second = (bootstrap_interval([0.0, 1.0, 5.0, 2.5], random) for _ in range(2))
    assert first == bootstrap_interval([0.0, 1.0, 5.0, 2.5], 0)
    assert first.mean == second.mean


def test_cosines_of_rows_and_matrix_agree():
    rows = torch.stack(faces(4))
    matrix = cosine_matrix(list(rows))
    assert torch.allclose(matrix.diagonal(), torch.ones(4, dtype=torch.double))
    assert torch.allclose(matrix[[0, 1, 2, 3], [1, 2, 3, 0]], cosines_of_rows(rows, rows.roll(-1, 0)))
    assert cosine_matrix([None, rows[0]]).isnan().sum() == 3
