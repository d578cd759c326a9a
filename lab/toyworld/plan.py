"""What a scene of the toy world shows, before it is drawn."""

from dataclasses import dataclass

from .people import Person


@dataclass(frozen=True)
class Plan:
    """What a scene shows.

    Args:
        people: From left to right, at most three.
        poses: One per person, of `POSES`.
        place: One of `PLACES`, or `wall` for a portrait.
        hour: day or night.
        props: Any of `PROPS`.
        side: Where a single person stands: left, right, or empty for the middle.
        close_up: A portrait, head and shoulders of one person.
        names_clothes: Per person, whether the caption mentions the clothes.
        names_hair: Per person, whether the caption mentions the hair.
    """

    people: tuple[Person, ...]
    poses: tuple[str, ...]
    place: str
    hour: str = "day"
    props: tuple[str, ...] = ()
    side: str = ""
    close_up: bool = False
    names_clothes: tuple[bool, ...] = ()
    names_hair: tuple[bool, ...] = ()
