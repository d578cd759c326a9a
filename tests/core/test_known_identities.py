"""Identities for a frame, and saved identities that fit or do not."""

import dataclasses

import pytest
import torch
from story_identity.core.identity import Identity
from story_identity.core.known_identities import differences, identities_of, identity_digest
from story_identity.core.story import Story

STORY = Story.from_lines("Mira | woman | a woman\nPip | robot | a robot", "Mira waits\na robot greets Mira\na beach")
PICTURES = torch.randint(0, 256, (2, 3, 5, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def identity(name: str, number: float = 1.0) -> Identity:
    return Identity(name, "", "e", torch.tensor([number, 2.0]), {}, PICTURES)


def test_a_frame_gets_its_own_in_the_order_of_its_prompt():
    mira, pip, ben = identity("Mira"), identity("Pip", 3), identity("Ben")
    assert identities_of(STORY.frames[0], [ben, pip, mira]) == [mira]
    assert identities_of(STORY.frames[1], [mira, ben, pip]) == [pip, mira]
    assert identities_of(STORY.frames[2], []) == []


def test_who_has_none_or_two_is_named():
    with pytest.raises(ValueError, match='^Frame 2 shows "Pip", but there is no identity.*There is "Mira", "Ben"'):
        identities_of(STORY.frames[1], [identity("Mira"), identity("Ben")])
    with pytest.raises(ValueError, match="There is nobody's"):
        identities_of(STORY.frames[0], [])
    with pytest.raises(ValueError, match='Two identities are called "Mira"'):
        identities_of(STORY.frames[0], [identity("Mira"), identity("Mira", 2)])


def test_a_digest_is_of_what_is_drawn_and_not_of_the_name():
    mira = identity("Mira")
    assert identity_digest(mira) == identity_digest(dataclasses.replace(mira, name="Ada", description="x", metadata={}))
    others = [
        identity("Mira", 1.5),
        dataclasses.replace(mira, encoder="f"),
        dataclasses.replace(mira, portraits=None),
        dataclasses.replace(mira, portraits=PICTURES[:1]),
        dataclasses.replace(mira, portraits=PICTURES.transpose(1, 2)),
    ]
    assert len({identity_digest(each) for each in (mira, *others)}) == 6


def test_what_differs_is_said():
    wanted = {"description": "a woman", "model": "1", "steps": 20}
    assert differences(wanted, dict(wanted)) == []
    assert differences({**wanted, "steps": 2, "model": "2"}, wanted) == [
        "the model is another",
        "steps is 2 there, 20 here",
    ]
    assert differences({**wanted, "pictures": "1"}, wanted) == ["the pictures are others"]
    assert differences({}, {"description": "a woman"}) == ['description is None there, "a woman" here']
