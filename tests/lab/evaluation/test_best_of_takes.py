"""Choosing among takes: by hand on faces in a plane, and one small story all the way."""

import json
import math

import torch
from story_identity.lab.evaluation import best_of_takes
from story_identity.lab.evaluation.best_of_takes import (
    BEST,
    BY_WORDS,
    CHOICES,
    FLOOR,
    ONE,
    Take,
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


def take(degrees, agreement):
    return Take([[face(each) for each in degrees]], agreement)


def test_choices_by_hand():
    takes = [
        take([0, 80, 90], [0.5, 0.5, 0.9]),
        take([85, 90, 0], [0.1, 0.5, 0.1]),
        take([70, None, 85], [0.6, 0.9, 0.5]),
    ]
    found = choose(takes)
    # Frame 1: the others look at 80, 90, 90, 0, 85. Only the first and the third take agree with the words well enough.
    assert found[ONE] == [0, 0, 0]
    assert found[BEST] == [2, 0, 2]
    assert found[FLOOR] == [2, 2, 2] or found[FLOOR] == [2, 2, 0]
    assert found[BY_WORDS] == [2, 2, 0]


def test_equal_takes_leave_the_first():
    takes = [take([10, 20], [0.3, 0.3])] * 3
    assert all(numbers == [0, 0] for numbers in choose(takes).values())


def test_the_order_of_the_other_takes_does_not_matter():
    takes = [take([0, 80, 90], [0.5] * 3), take([85, 90, 0], [0.4] * 3), take([70, None, 85], [0.6] * 3)]
    turned = [takes[0], takes[2], takes[1]]
    for choice, numbers in choose(takes).items():
        assert [takes[n] for n in numbers] == [turned[n] for n in choose(turned)[choice]]


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
