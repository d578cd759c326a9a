"""What is told of a scene, and the fixed vocabulary it is told in."""

import re
from typing import TYPE_CHECKING

import numpy as np

from .people import CLOTHES_COLOURS, GARMENTS, HAIR_COLOURS, WORDS, Person

if TYPE_CHECKING:
    from .world import Plan

START, END, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|unknown|>"

_POSE_WORDS = {
    "standing": ("standing", "stands"),
    "waving": ("waving", "waves"),
    "sitting": ("sitting", "sits"),
    "jumping": ("jumping", "jumps"),
}
_PLACE_WORDS = {
    "beach": ("on a beach", "on the beach", "at the beach"),
    "forest": ("in a forest", "in the forest"),
    "city": ("in a city", "in the city"),
    "kitchen": ("in a kitchen", "in the kitchen"),
    "garden": ("in a garden", "in the garden"),
    "snow": ("in the snow",),
}
_OTHER_WORDS = "a an the of with and , . photo picture close-up left right on in at is are day night lamp hair".split()


def describe(person: Person, hair: bool = True, clothes: bool = False) -> str:
    """The noun phrase of a caption, such as "a woman with red hair in a green coat"."""
    words = f"a {person.word}"
    if hair:
        words += f" with a {person.hair} lamp" if person.word == "robot" else f" with {person.hair} hair"
    if clothes:
        article = "an" if person.clothes[0] in "aeiou" else "a"
        words += f" in {article} {person.clothes} {person.garment}"
    return words


def tell(plan: "Plan", random: np.random.Generator) -> str:
    """A caption of a plan: complete about places, poses and things, incomplete about people."""
    people = [
        describe(person, hair, clothes)
        for person, hair, clothes in zip(plan.people, plan.names_hair, plan.names_clothes, strict=True)
    ]
    if plan.close_up:
        return f"a {('close-up photo', 'close-up picture')[int(random.random() < 0.3)]} of {people[0]}"
    told = [
        words if pose == "standing" and random.random() < 0.6 else f"{words} {_one(_POSE_WORDS[pose], random)}"
        for words, pose in zip(people, plan.poses, strict=True)
    ]
    if plan.side:
        told[0] += f" on the {plan.side}"
    where = _one(_PLACE_WORDS[plan.place], random)
    start = " and ".join(filter(None, [", ".join(told[:-1]), *told[-1:]]))
    caption = f"{start} {where}" if told else _alone(where)
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


def vocabulary() -> list[str]:
    """Every token: the special ones first (start, end and padding, unknown), then the words, sorted."""
    from .scenery import PROPS

    words = {*WORDS, *HAIR_COLOURS, *CLOTHES_COLOURS, *GARMENTS, *PROPS, *_OTHER_WORDS}
    for phrases in (*_POSE_WORDS.values(), *_PLACE_WORDS.values()):
        words.update(word for phrase in phrases for word in phrase.split())
    return [START, END, UNKNOWN, *sorted(words)]


def tokenize(text: str, length: int) -> list[int]:
    """Token ids of a text, padded; what the tokenizer files in `weights/tokenizer` give as well.

    Raises:
        ValueError: If the text has more tokens than fit.
    """
    known = {word: number for number, word in enumerate(vocabulary())}
    words = re.findall(PATTERN, text.lower())
    if len(words) + 2 > length:
        raise ValueError(f'"{text}" has {len(words)} tokens; {length - 2} fit.')
    ids = [known[START], *(known.get(word, known[UNKNOWN]) for word in words)]
    return ids + [known[END]] * (length - len(ids))


PATTERN = r"\w+(?:-\w+)*|[^\w\s]"
"""What counts as one token: a word with its hyphens, or one other character."""
