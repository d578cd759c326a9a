"""Faces: lights in the eyes, open mouths, and what tells the class words apart.

Coordinates are the head's: 0 is its middle, 1 its edge.
"""

from typing import Any

from .colours import EYES, HAIR, INK, Colour, darker

_WHITE = (255, 255, 255)


def draw_face(figure: Any) -> None:
    """Eyes, brows, nose, mouth, freckles, and by class word cheeks, lashes and earrings, on a `drawing.Figure`."""
    person = figure.person
    child, female = person.word in ("boy", "girl"), person.word in ("woman", "girl")
    for side in (-1, 1):
        if child:
            figure.disc(0.66 * side, 0.4, 0.2, 0.15, _blushing(figure.skin))
        if person.word == "woman":
            figure.disc(1.02 * side, 0.5, 0.13, 0.15, (250, 206, 70))
        _eye(figure, side, 0.28 if child else 0.21, female)
    figure.disc(0, 0.34, 0.1, 0.08, darker(figure.skin, 0.3))
    _mouth(figure, 0.3 if child else 0.38, (214, 40, 70) if person.word == "woman" else darker(figure.skin, 0.55))
    if person.freckles:
        for dx, dy in ((-0.68, 0.4), (-0.52, 0.52), (-0.36, 0.4), (0.68, 0.4), (0.52, 0.52), (0.36, 0.4)):
            figure.disc(dx, dy, 0.065, 0.065, darker(figure.skin, 0.45))


def _eye(figure: Any, side: int, size: float, lashes: bool) -> None:
    c, person, x, rx = figure.canvas, figure.person, 0.42 * side, figure.head_radii[0]
    figure.disc(x, 0.06, size, size * 1.2, _WHITE)
    figure.disc(x, 0.08, size * 0.74, size * 0.92, EYES[person.eyes])
    figure.disc(x, 0.08, size * 0.38, size * 0.5, (12, 10, 14))
    figure.disc(x + 0.35 * size, 0.08 - 0.4 * size, size * 0.26, size * 0.26, _WHITE)
    lid = 0.06 - size * 1.12
    if lashes:
        c.line([figure.on_head(x - size, lid + 0.08), figure.on_head(x, lid), figure.on_head(x + size, lid + 0.08)],
               INK, 0.1 * rx)  # fmt: skip
        c.line([figure.on_head(x + side * size, lid + 0.08), figure.on_head(x + side * (size + 0.12), lid - 0.08)],
               INK, 0.08 * rx)  # fmt: skip
    brow = darker(HAIR["brown"] if person.hair == "white" else figure.hair, 0.2)
    thick = (0.08, 0.2)[person.brows] * rx
    c.line([figure.on_head(x - 0.22, lid - 0.12), figure.on_head(x + 0.22, lid - 0.15)], brow, thick)


def _mouth(figure: Any, half: float, lips: Colour) -> None:
    """A smile with teeth, framed by lips."""
    shares = (-1, -0.75, -0.4, 0, 0.4, 0.75, 1)
    for grown, depth, colour in ((1.0, 0.3, lips), (0.78, 0.21, (110, 24, 40))):
        low = [figure.on_head(half * grown * x, 0.56 + depth * (1 - x * x)) for x in shares]
        high = [figure.on_head(half * grown * x, 0.56 - 0.18 * depth * (1 - x * x)) for x in reversed(shares)]
        figure.canvas.polygon([*low, *high], colour)
    teeth = [figure.on_head(half * 0.68 * x, 0.56 + 0.1 * (1 - x * x)) for x in shares]
    figure.canvas.polygon(teeth, _WHITE)


def _blushing(skin: Colour) -> Colour:
    red, green, blue = skin
    return min(255, red + 24), round(green * 0.74), round(blue * 0.78)
