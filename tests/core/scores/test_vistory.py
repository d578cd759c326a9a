"""ViStoryBench's scores: by hand, against loops, and what no reference or no picture gives."""

import math

import pytest
import torch
from story_identity.core.scores.vistory import (
    character_count_match,
    character_identity,
    copy_paste,
    mean_identity,
)


def direction(*degrees):
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def rows(count, seed):
    return torch.randn(count, 7, generator=torch.Generator().manual_seed(seed))


def test_cross_and_self_against_loops():
    found, references = rows(5, 1), rows(3, 2)
    identity = character_identity(found, references)
    cosine = torch.nn.functional.cosine_similarity
    cross = [float(cosine(a, b, dim=0)) for a in found for b in references]
    own = [float(cosine(found[i], found[j], dim=0)) for i in range(5) for j in range(i)]
    assert identity.cross == pytest.approx(sum(cross) / 15, abs=1e-6)
    assert identity.self_ == pytest.approx(sum(own) / 10, abs=1e-6)
    scaled = character_identity(3 * found.flip(0), references / 5)
    assert (scaled.cross, scaled.self_) == pytest.approx((identity.cross, identity.self_), abs=1e-6)


def test_one_picture_is_like_itself_and_none_is_like_nobody():
    assert character_identity(rows(1, 1), rows(2, 2)).self_ == 1
    nothing = character_identity(rows(0, 1), rows(2, 2))
    assert (nothing.cross, nothing.self_, nothing.copy_paste) == (0, 0, None)
    assert character_identity(rows(2, 1), rows(1, 2)).copy_paste is None


def test_copies_of_either_reference_and_what_lies_between():
    first, other = direction(0), direction(60)
    references = torch.cat([first, other])
    assert copy_paste(first, references) == pytest.approx(0, abs=2e-3)
    assert copy_paste(other, references) == pytest.approx(1, abs=2e-3)
    assert copy_paste(direction(30), references) == pytest.approx(0.5)
    assert copy_paste(first, torch.cat([first, first])) == 0.5


def test_copy_paste_by_hand():
    def chord(degrees):
        return 2 * math.sin(math.radians(degrees) / 2)

    by_hand = [(1 + (chord(20) - chord(70)) / chord(90)) / 2, (1 + (chord(20) - chord(20)) / chord(40)) / 2]
    assert copy_paste(direction(20), direction(0, 90, 40)) == pytest.approx(sum(by_hand) / 2, abs=1e-6)


def test_how_many_of_the_cast_are_there():
    assert character_count_match(2, 2) == 100
    assert character_count_match(1, 2) == pytest.approx(100 * math.exp(-0.5), rel=1e-5)
    assert character_count_match(0, 1) == pytest.approx(100 / math.e, rel=1e-5)


def test_means_over_characters():
    known, lost = character_identity(direction(0, 0), direction(60, 0)), character_identity(rows(0, 1), rows(2, 2))
    found = mean_identity([known, lost])
    assert found["cids_cross"] == pytest.approx(0.375)
    assert found["cids_self"] == pytest.approx(0.5)
    assert found["copy_paste"] == known.copy_paste
    assert mean_identity([]) == {"cids_cross": None, "cids_self": None, "copy_paste": None}
