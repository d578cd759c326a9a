"""Laws of derangements and of dealing references."""

from collections import Counter
from itertools import pairwise, permutations

import pytest
import torch
from story_identity.core.shuffle import MODES, deal_references, deal_tokens, derangement


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("n", [2, 3, 5, 13, 100])
def test_nobody_is_their_own_reference_and_everybody_is_somebodys(n):
    for seed in range(20):
        drawn = derangement(n, seeded(seed))
        assert drawn.dtype == torch.long
        assert sorted(drawn.tolist()) == list(range(n))
        assert not (drawn == torch.arange(n)).any()


def test_two_pictures_change_places():
    assert derangement(2, seeded()).tolist() == [1, 0]


def test_derangements_of_four_are_equally_likely():
    """Chi-squared with 8 degrees of freedom: above 26.1 once in a thousand, were they equally likely."""
    generator, draws = seeded(7), 9000
    counts = Counter(tuple(derangement(4, generator).tolist()) for _ in range(draws))
    assert set(counts) == {p for p in permutations(range(4)) if all(i != x for i, x in enumerate(p))}
    expected = draws / 9
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 26.1


def test_same_seed_same_derangement_other_seed_another():
    assert torch.equal(derangement(50, seeded(3)), derangement(50, seeded(3)))
    assert not torch.equal(derangement(50, seeded(3)), derangement(50, seeded(4)))


@pytest.mark.parametrize("n", [1, 0, -1])
def test_too_few_pictures_are_refused(n):
    with pytest.raises(ValueError, match=f"^{n} pictures cannot refer to each other.*at least 2 pictures"):
        derangement(n, seeded())


@pytest.mark.parametrize("n_references", [2, 3, 5])
def test_a_shuffle_uses_all_before_one_again_and_neighbours_differ(n_references):
    for seed in range(30):
        dealt = [index for (index,) in deal_references(n_references, 17, "shuffled", seeded(seed))]
        assert len(dealt) == 17
        for start in range(0, 17 - n_references, n_references):
            assert sorted(dealt[start : start + n_references]) == list(range(n_references))
        assert all(one != next_one for one, next_one in pairwise(dealt))


def test_a_shuffle_gives_every_frame_every_reference_equally_often():
    """The last frame of the first round and one of the second: chi-squared with 4 degrees of freedom, 18.5 at 0.1 %."""
    generator = seeded(11)
    deals = [deal_references(5, 8, "shuffled", generator) for _ in range(2000)]
    for frame in (0, 4, 6):
        counts = Counter(deal[frame][0] for deal in deals)
        assert sum((counts[index] - 400) ** 2 / 400 for index in range(5)) < 18.5


def test_a_shuffle_follows_its_seed():
    deals = [deal_references(6, 12, "shuffled", seeded(seed)) for seed in (1, 1, 2)]
    assert deals[0] == deals[1] != deals[2]


def test_the_other_modes_by_hand():
    assert deal_references(3, 5, "aligned", seeded()) == [(0,), (1,), (2,), (0,), (1,)]
    assert deal_references(3, 2, "average", seeded()) == [(0, 1, 2), (0, 1, 2)]
    assert deal_references(3, 2, "stacked", seeded()) == [(0, 1, 2), (0, 1, 2)]


@pytest.mark.parametrize("mode", MODES)
def test_one_reference_goes_to_every_frame(mode):
    assert deal_references(1, 4, mode, seeded()) == [(0,)] * 4
    assert deal_references(1, 0, mode, seeded()) == []


@pytest.mark.parametrize(
    ("references", "frames", "mode", "message"),
    [
        (0, 4, "shuffled", "no references to deal"),
        (2, -1, "aligned", "-1 frames"),
        (2, 4, "sorted", 'no mode "sorted".*shuffled, aligned, average or stacked'),
    ],
)
def test_what_makes_no_sense_is_refused(references, frames, mode, message):
    with pytest.raises(ValueError, match=message):
        deal_references(references, frames, mode, seeded())


def test_tokens_by_hand():
    tokens = torch.tensor([[[1.0], [2.0]], [[3.0], [10.0]]])
    assert deal_tokens(tokens, [(1,), (0,), (1,)], "shuffled").tolist() == [
        [[3], [10]],
        [[1], [2]],
        [[3], [10]],
    ]
    assert deal_tokens(tokens, [(0, 1)], "average").tolist() == [[[2], [6]]]
    assert deal_tokens(tokens, [(0, 1), (0, 1)], "stacked").tolist() == [[[1], [2], [3], [10]]] * 2


@pytest.mark.parametrize("mode", MODES)
def test_with_one_reference_all_modes_agree(mode):
    tokens = torch.randn(1, 3, 5, generator=seeded())
    dealt = deal_references(1, 4, mode, seeded())
    assert torch.equal(deal_tokens(tokens, dealt, mode), tokens.expand(4, -1, -1))
