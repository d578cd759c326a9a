"""Choosing among takes: by hand on faces in a plane, and one small story all the way."""

import json
import math

import pytest
import torch
from story_identity.core.takes import Take, choose_takes, total_worth
from story_identity.lab.evaluation import best_of_takes
from story_identity.lab.evaluation.best_of_takes import (
    BEST,
    BY_WORDS,
    CHOICES,
    FLOOR,
    ONE,
    choose,
    draw_takes,
    make_tables,
    measure_story,
)
from story_identity.lab.evaluation.identitystory import DRAWN
from story_identity.lab.evaluation.stories import FRAMES, make_story

from tests.lab.evaluation.small import STORY


def face(degrees):
    return None if degrees is None else torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])


def frames_of(*takes):
    """Of each take the angles of one character's face in every frame, and how well the frames agree."""
    return [
        [Take({"Mira": face(degrees[frame])}, agreement[frame]) for degrees, agreement in takes]
        for frame in range(len(takes[0][0]))
    ]


def random_frames(seed, people=2, frames=4, takes=3):
    random = torch.Generator().manual_seed(seed)
    return [
        [
            Take({str(person): torch.randn(5, generator=random) for person in range(people)}, float(agreement))
            for agreement in torch.rand(takes, generator=random)
        ]
        for _ in range(frames)
    ]


def test_choices_by_hand():
    found = choose(
        frames_of(
            ([0, 80, 90], [0.5, 0.5, 0.9]),
            ([85, 90, 0], [0.1, 0.5, 0.1]),
            ([70, None, 85], [0.6, 0.9, 0.5]),
        )
    )
    # Frame 1: the others look at 80, 90, 90, 0, 85. Only the first and the third take agree with the words well enough.
    assert found[ONE] == [0, 0, 0]
    assert found[BEST] == [2, 0, 2]
    assert found[FLOOR] == [2, 2, 2]
    assert found[BY_WORDS] == [2, 2, 0]


@pytest.mark.parametrize("seed", range(5))
def test_by_faces_is_the_largest_mean_cosine_to_all_faces_of_the_other_frames(seed):
    frames = random_frames(seed)

    def mean_cosine(number, take):
        cosines = [
            torch.nn.functional.cosine_similarity(take.faces[person], other.faces[person], dim=0)
            for person in take.faces
            for at, others in enumerate(frames)
            for other in others
            if at != number
        ]
        return sum(cosines) / len(cosines)

    for frame, (best, floor) in enumerate(zip(choose(frames)[BEST], choose(frames)[FLOOR], strict=True)):
        worth = [mean_cosine(frame, take) for take in frames[frame]]
        agreement = [take.agreement for take in frames[frame]]
        good = [number for number in range(3) if agreement[number] >= sum(agreement) / 3]
        assert best == max(range(3), key=worth.__getitem__)
        assert floor == max(good, key=worth.__getitem__)


@pytest.mark.parametrize("seed", range(5))
def test_the_node_goes_on_from_there_and_its_faces_are_no_less_alike(seed):
    frames = random_frames(seed)

    def worth(numbers):
        return total_worth([takes[number] for takes, number in zip(frames, numbers, strict=True)])

    assert worth([each.take for each in choose_takes(frames)]) >= worth(choose(frames)[BEST]) - 1e-8


def test_equal_takes_leave_the_first():
    frames = frames_of(*[([10, 20], [0.3, 0.3])] * 3)
    assert all(numbers == [0, 0] for numbers in choose(frames).values())


def test_the_order_of_the_other_takes_does_not_matter():
    frames = frames_of(([0, 80, 90], [0.5] * 3), ([85, 90, 0], [0.4] * 3), ([70, None, 85], [0.6] * 3))
    turned = [[takes[0], takes[2], takes[1]] for takes in frames]
    for choice, numbers in choose(frames).items():
        kept = [takes[n] for takes, n in zip(frames, numbers, strict=True)]
        assert kept == [takes[n] for takes, n in zip(turned, choose(turned)[choice], strict=True)]


@pytest.mark.slow
def test_a_small_story_all_the_way(instruments, monkeypatch):
    drawn = draw_takes(instruments, make_story(STORY), 2)
    monkeypatch.setattr(best_of_takes, "draw_takes", lambda *arguments: drawn)
    row, pictures = measure_story(instruments, 2, STORY)
    assert json.loads(json.dumps(row)) == row
    assert tuple(pictures) == CHOICES
    assert not torch.equal(drawn[0][0], drawn[1][0])
    for choice, numbers in row["chosen"].items():
        assert all(torch.equal(pictures[choice][f], drawn[numbers[f]][f]) for f in range(FRAMES))
    assert row["face_sim"][DRAWN] is not None
    tables = make_tables(2, [row, {**row, "story": 1}])
    assert "best of 2 by faces − one take" in tables
