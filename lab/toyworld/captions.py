"""Captions of drawn scenes."""

import numpy as np

from ...core.toyworld.vocabulary import PLACE_WORDS, POSE_WORDS
from .people import Person
from .plan import Plan


def describe(person: Person, hair: bool = True, clothes: bool = False) -> str:
    """The noun phrase of a caption, such as "a woman with red hair in a green coat"."""
    words = f"a {person.word}"
    if hair:
        words += f" with a {person.hair} lamp" if person.word == "robot" else f" with {person.hair} hair"
    if clothes:
        article = "an" if person.clothes[0] in "aeiou" else "a"
        words += f" in {article} {person.clothes} {person.garment}"
    return words


def caption_of(plan: Plan, random: np.random.Generator) -> str:
    """A caption of a plan: complete about places, poses and things, incomplete about people."""
    people = [
        describe(person, hair, clothes)
        for person, hair, clothes in zip(plan.people, plan.names_hair, plan.names_clothes, strict=True)
    ]
    if plan.close_up:
        return f"a {('close-up photo', 'close-up picture')[int(random.random() < 0.3)]} of {people[0]}"
    parts = [
        words if pose == "standing" and random.random() < 0.6 else f"{words} {_one(POSE_WORDS[pose], random)}"
        for words, pose in zip(people, plan.poses, strict=True)
    ]
    if plan.side:
        parts[0] += f" on the {plan.side}"
    where = _one(PLACE_WORDS[plan.place], random)
    start = " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
    caption = f"{start} {where}" if parts else _alone(where)
    if plan.props:
        caption += f" with {'a' if random.random() < 0.8 else 'the'} {plan.props[0]}"
    if plan.hour == "night" or random.random() < 0.1:
        caption += " at night" if plan.hour == "night" else " in the day"
    return caption


def _alone(where: str) -> str:
    place = where.split()[-1]
    return "the snow" if place == "snow" else f"a {place}"


def _one(choices: tuple[str, ...], random: np.random.Generator) -> str:
    return choices[random.integers(len(choices))]
