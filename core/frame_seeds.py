"""The seeds of a story's frames, by one of three rules, those of their takes, and those of its characters.

A seed that the story gives a frame comes before all rules.
"""

import hashlib
from collections.abc import Sequence

from .character_mentions import Character
from .quoting import quote
from .story import Frame

BY_WORDS, BY_NUMBER, SAME = "by words", "by number", "the same"
RULES = (BY_WORDS, BY_NUMBER, SAME)
_SEEDS = 2**64


def frame_seeds(frames: Sequence[Frame], seed: int, rule: str) -> list[int]:
    """One seed per frame, from 0 to 2^64 - 1.

    Args:
        frames: All frames of the story, in order.
        seed: The seed that the rule begins with.
        rule: "by number" adds the frame's position in the story, so that a frame that is inserted changes all later
            seeds. "by words" hashes the frame's words, with class words in place of names and descriptions: frames may
            come, go and move, characters may get other names and looks, and only a frame whose own words change gets
            another seed; of frames with the same words, each after the first adds one. "the same" takes the seed as
            it is, so that all frames begin with the same noise.

    Raises:
        ValueError: If there is no such rule.
    """
    if rule not in RULES:
        raise ValueError(f"seeds: {quote(rule)} is none of {', '.join(map(quote, RULES))}.")
    earlier: dict[str, int] = {}
    seeds = []
    for frame in frames:
        repeated = earlier.get(frame.wording, 0)
        earlier[frame.wording] = repeated + 1
        if frame.seed is not None:
            seeds.append(frame.seed)
        elif rule == BY_WORDS:
            seeds.append((_hashed(seed, frame.wording) + repeated) % _SEEDS)
        else:
            seeds.append((seed + (frame.index if rule == BY_NUMBER else 0)) % _SEEDS)
    return seeds


def character_seeds(characters: Sequence[Character], seed: int) -> list[int]:
    """One seed per character, from 0 to 2^64 - 1, hashed of the seed, the class word and the description.

    So it depends neither on the name nor on who else is there, and not on the order. Of characters with the same class
    word and description each after the first has their number hashed too, since they are to be different people.

    Args:
        characters: All characters.
        seed: Another one gives everybody another seed.
    """
    seeds = []
    for character, before in zip(characters, described_alike(characters), strict=True):
        words = f"{character.word}\n{character.description}"
        seeds.append(_hashed(seed, f"{words}\n{len(before) + 1}" if before else words))
    return seeds


def described_alike(characters: Sequence[Character]) -> list[tuple[str, ...]]:
    """Per character the names of those before them who have the same class word and description."""
    names: dict[tuple[str, ...], tuple[str, ...]] = {}
    before = []
    for character in characters:
        words = character.word, *character.description.split()
        before.append(names.get(words, ()))
        names[words] = (*before[-1], character.name)
    return before


def take_seed(seed: int, take: int) -> int:
    """The seed of one of several pictures of a frame, from 0 to 2^64 - 1.

    It depends on nothing but the two numbers, so that one take more changes no other. It is a hash, since the seeds of
    frames may follow one another.

    Args:
        seed: The frame's own, which the first take has.
        take: Which picture of the frame it is, from 1.
    """
    return seed if take == 1 else _hashed(seed, f"take {take}")


def _hashed(seed: int, words: str) -> int:
    digest = hashlib.sha256(f"{seed}\n{' '.join(words.split())}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
