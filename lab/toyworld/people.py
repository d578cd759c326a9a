"""The people of the toy world: what a person looks like, and the number that identifies the look."""

from dataclasses import dataclass, fields

import numpy as np

from ...core.toyworld.vocabulary import CLASS_WORDS, CLOTHES_COLOURS, GARMENTS, HAIR_COLOURS

SKINS = 6
FACES = 3
HAIR_STYLES = 5
GLASSES = 3
GLASSES_COLOURS = 3
BEARDS = 3
EYE_COLOURS = 3
HATS = 4
HAT_COLOURS = 5

HELD_OUT = 10
"""One look in so many is never shown in training."""


@dataclass(frozen=True)
class Person:
    """One look. A caption names the word, usually the hair, sometimes the clothes, and nothing else.

    The plain numbers choose among what `drawing` can draw. For a robot `hair` is the colour of its lamp, `skin` its
    metal, `hair_style` its antenna and `beard` its mouth.
    """

    word: str
    hair: str
    clothes: str
    garment: str
    skin: int
    face: int
    hair_style: int
    glasses: int
    glasses_colour: int
    beard: int
    freckles: int
    eyes: int
    brows: int
    hat: int
    hat_colour: int
    pattern: int

    @property
    def identity(self) -> int:
        """A number that differs between any two looks."""
        number = 0
        for field in fields(self):
            options = _OPTIONS[field.name]
            value = getattr(self, field.name)
            number = number * len(options) + options.index(value)
        return number

    @property
    def held_out(self) -> bool:
        return (self.identity * 2654435761 >> 7) % HELD_OUT == 0


_OPTIONS: dict[str, tuple[str, ...] | tuple[int, ...]] = {
    "word": CLASS_WORDS,
    "hair": HAIR_COLOURS,
    "clothes": CLOTHES_COLOURS,
    "garment": GARMENTS,
    "skin": tuple(range(SKINS)),
    "face": tuple(range(FACES)),
    "hair_style": tuple(range(HAIR_STYLES)),
    "glasses": tuple(range(GLASSES)),
    "glasses_colour": tuple(range(GLASSES_COLOURS)),
    "beard": tuple(range(BEARDS)),
    "freckles": (0, 1),
    "eyes": tuple(range(EYE_COLOURS)),
    "brows": (0, 1),
    "hat": tuple(range(HATS)),
    "hat_colour": tuple(range(HAT_COLOURS)),
    "pattern": tuple(range(3)),
}


def sample_person(random: np.random.Generator, held_out: bool | None = False, **fixed: str | int) -> Person:
    """Draw a look at random.

    Args:
        random: Where the randomness comes from.
        held_out: False draws only looks used in training, True only the others, None any.
        fixed: Attributes that are given, such as `word="boy"`.
    """
    while True:
        person = _draw(random, fixed)
        if held_out is None or person.held_out == held_out:
            return person


def _draw(random: np.random.Generator, fixed: dict[str, str | int]) -> Person:
    chosen = {name: options[random.integers(len(options))] for name, options in _OPTIONS.items()} | fixed
    grown_man, robot = chosen["word"] == "man", chosen["word"] == "robot"
    if not grown_man and not robot and "beard" not in fixed:
        chosen["beard"] = 0
    if chosen["word"] in ("man", "boy") and "garment" not in fixed and chosen["garment"] == "dress":
        chosen["garment"] = "shirt"
    for rare in ("glasses", "hat"):  # half of the people wear none
        if rare not in fixed and random.random() < 0.35:
            chosen[rare] = 0
    if robot:
        chosen |= {"glasses": 0, "freckles": 0, "hat": 0}
    if chosen["glasses"] == 0:
        chosen["glasses_colour"] = 0
    if chosen["hat"] == 0:
        chosen["hat_colour"] = 0
    return Person(**chosen)  # pyright: ignore[reportArgumentType]
