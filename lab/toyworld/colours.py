"""The colours of the toy world's people."""

from collections.abc import Sequence

Colour = tuple[int, int, int]

SKIN: Sequence[Colour] = (
    (255, 226, 200), (243, 196, 152), (226, 168, 112), (190, 126, 80), (138, 84, 52), (88, 56, 42),
)  # fmt: skip
METAL: Sequence[Colour] = (
    (176, 186, 198), (110, 176, 178), (206, 158, 96), (222, 158, 186), (236, 238, 242), (118, 126, 172),
)  # fmt: skip
HAIR: dict[str, Colour] = {
    "black": (38, 32, 38), "brown": (118, 70, 38), "blond": (244, 208, 98), "red": (212, 70, 36),
    "white": (238, 238, 240),
}  # fmt: skip
CLOTHES: dict[str, Colour] = {
    "red": (216, 48, 48), "blue": (52, 92, 214), "green": (46, 152, 72), "yellow": (246, 214, 60),
    "purple": (142, 66, 178), "white": (244, 244, 246), "black": (48, 48, 56), "orange": (242, 138, 40),
}  # fmt: skip
EYES: Sequence[Colour] = ((70, 40, 22), (44, 110, 214), (36, 146, 82))
FRAMES: Sequence[Colour] = ((24, 24, 30), (200, 40, 60), (250, 250, 255))
HATS: Sequence[Colour] = ((196, 40, 52), (40, 84, 190), (250, 196, 40), (40, 140, 92), (90, 56, 120))
INK: Colour = (44, 34, 42)


def darker(colour: Colour, share: float | int = 0.25) -> Colour:
    return tuple(round(value * (1 - share)) for value in colour)  # pyright: ignore[reportReturnType]
