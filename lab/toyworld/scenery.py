"""Places and things of the toy world."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from .colours import Colour, darker
from .drawing import Canvas, Number, Point

HORIZON = 40.0


def draw_place(canvas: Canvas, place: str, hour: str, random: np.random.Generator) -> None:
    """Fill the canvas with a place (one of `PLACES`, or `wall` for portraits) at an hour; details are random."""
    night = hour == "night"
    _PAINTERS[place](canvas, random, night)


def draw_prop(canvas: Canvas, prop: str, x: Number, ground: Number, random: np.random.Generator) -> None:
    """Draw a thing that stands at (x, ground), or flies above it."""
    colour = _BRIGHT[random.integers(len(_BRIGHT))]
    if prop == "ball":
        canvas.ellipse(x, ground - 3.6, 3.8, 3.8, colour)
        canvas.line([(x - 3.2, ground - 3.6), (x + 3.2, ground - 3.6)], (250, 250, 250), 1.2)
    elif prop == "balloon":
        y = 9 + 4 * random.random()
        canvas.line([(x, y + 5), (x + 1, y + 14)], (90, 90, 90), 0.6)
        canvas.ellipse(x, y, 4.2, 5.2, colour)
        canvas.ellipse(x - 1.4, y - 1.8, 1.0, 1.4, (255, 255, 255))
    elif prop == "kite":
        y = 9 + 4 * random.random()
        canvas.line([(x, y + 6), (x - 2, y + 11), (x + 1, y + 15)], (90, 90, 90), 0.6)
        canvas.polygon([(x, y - 6.5), (x + 5, y), (x, y + 6.5), (x - 5, y)], colour)
        canvas.polygon([(x, y - 6.5), (x + 5, y), (x, y)], darker(colour))
    else:
        _draw_animal(canvas, prop, x, ground, random)


def _draw_animal(canvas: Canvas, prop: str, x: Number, ground: Number, random: np.random.Generator) -> None:
    coat = _COATS[random.integers(len(_COATS))]
    turn = random.choice((-1, 1))
    canvas.line([(x - 4.5 * turn, ground - 5), (x - 7.5 * turn, ground - 9.5)], coat, 1.6)
    for dx in (-3, 2.5):
        canvas.box(x + dx * turn - 1, ground - 4, x + dx * turn + 1, ground, darker(coat))
    canvas.ellipse(x, ground - 5, 5.2, 3.0, coat)
    hx, hy = x + 5 * turn, ground - 8.5
    if prop == "cat":
        for dx in (-2.2, 2.2):
            canvas.polygon([(hx + dx - 1.3, hy - 1.5), (hx + dx + 1.3, hy - 1.5), (hx + dx, hy - 5)], coat)
    canvas.ellipse(hx, hy, 3.3, 3.0, coat)
    if prop == "dog":
        for dx in (-3, 3):
            canvas.ellipse(hx + dx, hy + 0.4, 1.2, 2.5, darker(coat, 0.45))
        canvas.ellipse(hx + 1 * turn, hy + 1.4, 1.6, 1.2, (250, 244, 236))
    for dx in (-1.2, 1.2):
        canvas.ellipse(hx + dx, hy - 0.4, 0.55, 0.7, (20, 18, 20))
    canvas.ellipse(hx, hy + 1, 0.6, 0.5, (20, 18, 20))


_BRIGHT: tuple[Colour, ...] = ((232, 58, 58), (58, 110, 232), (250, 200, 50), (70, 180, 90), (232, 110, 190))
_COATS: tuple[Colour, ...] = ((150, 96, 52), (232, 190, 128), (72, 68, 74), (206, 208, 214))


def _sky(canvas: Canvas, random: np.random.Generator, night: bool) -> None:
    top, low = ((22, 26, 66), (56, 58, 112)) if night else ((116, 186, 240), (206, 232, 250))
    _gradient(canvas, 0, HORIZON + 2, top, low)
    if night:
        for _ in range(9):
            canvas.ellipse(64 * random.random(), 24 * random.random(), 0.5, 0.5, (255, 250, 214))
        canvas.ellipse(8 + 48 * random.random(), 8, 4.2, 4.2, (252, 244, 206))
        return
    if random.random() < 0.5:
        canvas.ellipse(6 + 52 * random.random(), 7, 4.4, 4.4, (255, 226, 92))
    for _ in range(random.integers(1, 3)):
        x, y = 64 * random.random(), 6 + 9 * random.random()
        for dx, r in ((-4, 2.4), (0, 3.4), (4, 2.6)):
            canvas.ellipse(x + dx, y, r * 1.3, r * 0.8, (252, 252, 255))


def _gradient(canvas: Canvas, y0: Number, y1: Number, top: Colour, low: Colour) -> None:
    edges = np.linspace(y0, y1, 13)
    for i, (a, b) in enumerate(pairwise(edges)):
        share = i / 11
        mixed: Colour = tuple(round(t + (u - t) * share) for t, u in zip(top, low, strict=True))  # pyright: ignore
        canvas.box(0, a, 64, b + 0.5, mixed)


def _shade(colour: Colour, night: bool) -> Colour:
    if not night:
        return colour
    red, green, blue = colour
    return round(red * 0.42), round(green * 0.46), round(blue * 0.62)


def _beach(canvas: Canvas, random: np.random.Generator, night: bool) -> None:
    _sky(canvas, random, night)
    canvas.box(0, 36, 64, 48, _shade((44, 134, 200), night))
    for y in (39, 43):
        canvas.line([(64 * random.random(), y), (64 * random.random(), y)], _shade((150, 206, 236), night), 0.8)
    canvas.box(0, 46, 64, 64, _shade((240, 216, 150), night))
    if random.random() < 0.7:
        x = float(random.choice((6, 58)))
        canvas.line([(x, 56), (x + 1.5, 26)], _shade((140, 96, 56), night), 2.4)
        for dx, dy in ((-9, 1), (9, 1), (-7, -5), (7, -5), (-5, 6), (6, 6)):
            canvas.line([(x + 1.5, 26), (x + 1.5 + dx, 24 + dy)], _shade((44, 150, 76), night), 2.0)


def _forest(canvas: Canvas, random: np.random.Generator, night: bool) -> None:
    _sky(canvas, random, night)
    canvas.box(0, 40, 64, 64, _shade((82, 134, 62), night))
    for x in np.linspace(-2, 66, 6) + random.uniform(-3, 3, 6):
        top = 4 + 12 * random.random()
        green = _shade(((30, 96, 58), (44, 120, 62), (26, 82, 66))[random.integers(3)], night)
        canvas.box(x - 1.4, 36, x + 1.4, 48, _shade((92, 62, 42), night))
        for level in range(3):
            y = top + level * 9
            reach = 5 + 1.6 * level
            canvas.polygon([(x, y - 4), (x + reach, y + 11), (x - reach, y + 11)], green)


def _city(canvas: Canvas, random: np.random.Generator, night: bool) -> None:
    _sky(canvas, random, night)
    x = -4.0
    while x < 64:
        wide, top = 9 + 6 * random.random(), 8 + 18 * random.random()
        wall = _shade(((150, 112, 106), (128, 138, 158), (176, 160, 138), (104, 110, 128))[random.integers(4)], night)
        canvas.box(x, top, x + wide, 50, wall)
        for wx in np.arange(x + 1.6, x + wide - 2, 3.4):
            for wy in np.arange(top + 2, 46, 5.0):
                lit = (255, 228, 120) if night and random.random() < 0.6 else darker(wall, 0.35)
                canvas.box(wx, wy, wx + 1.7, wy + 2.6, lit)
        x += wide + 0.6
    canvas.box(0, 48, 64, 64, _shade((132, 132, 140), night))
    canvas.box(0, 48, 64, 50, _shade((190, 190, 194), night))


def _kitchen(canvas: Canvas, random: np.random.Generator, night: bool) -> None:
    wall = ((248, 226, 190), (214, 232, 214), (232, 214, 226))[random.integers(3)]
    canvas.box(0, 0, 64, 64, wall)
    pane: Colour = (34, 38, 84) if night else (158, 212, 246)
    x = 8 + 30 * random.random()
    canvas.box(x, 5, x + 17, 21, (250, 250, 250), 1)
    canvas.box(x + 1.6, 6.6, x + 15.4, 19.4, pane)
    canvas.box(x + 7.8, 5, x + 9.2, 21, (250, 250, 250))
    wood = ((176, 118, 70), (120, 146, 168), (198, 92, 82))[random.integers(3)]
    canvas.box(0, 31, 64, 49, wood)
    canvas.box(0, 29, 64, 32, darker(wood, 0.4))
    for knob in np.arange(6.0, 64, 13):
        canvas.ellipse(knob, 39, 1, 1, (250, 236, 190))
    canvas.box(0, 49, 64, 64, (226, 218, 204))
    for tile in np.arange(0.0, 64, 9):
        canvas.line([(tile, 49), (tile - 5, 64)], (196, 186, 172), 0.7)
    pan = float(random.choice((6, 54)))
    canvas.box(pan - 4, 24, pan + 4, 29, (82, 84, 96), 1)


def _garden(canvas: Canvas, random: np.random.Generator, night: bool) -> None:
    _sky(canvas, random, night)
    for x in np.arange(0, 66, 6.5):
        canvas.box(x, 27, x + 5, 44, _shade((244, 240, 232), night), 1)
    canvas.box(0, 32, 64, 34, _shade((228, 222, 212), night))
    canvas.box(0, 42, 64, 64, _shade((122, 190, 84), night))
    for _ in range(14):
        x, y = 64 * random.random(), 44 + 18 * random.random()
        canvas.ellipse(x, y, 1.3, 1.3, _shade(_BRIGHT[random.integers(len(_BRIGHT))], night))


def _snow(canvas: Canvas, random: np.random.Generator, night: bool) -> None:
    _sky(canvas, random, night)
    for _ in range(2):
        x = 64 * random.random()
        peak: list[Point] = [(x - 22, 44), (x, 16 + 8 * random.random()), (x + 22, 44)]
        canvas.polygon(peak, _shade((150, 168, 196), night))
        canvas.polygon([(x - 7, peak[1][1] + 9), peak[1], (x + 7, peak[1][1] + 9)], _shade((246, 250, 255), night))
    canvas.box(0, 42, 64, 64, _shade((240, 246, 252), night))
    for _ in range(16):
        canvas.ellipse(64 * random.random(), 50 * random.random(), 0.7, 0.7, (255, 255, 255))


def _wall(canvas: Canvas, random: np.random.Generator, night: bool) -> None:
    tone: Colour = ((236, 206, 196), (198, 218, 236), (206, 226, 200), (232, 224, 190), (216, 204, 232))[
        random.integers(5)
    ]
    _gradient(canvas, 0, 64, _shade(tone, night), _shade(darker(tone, 0.16), night))


_PAINTERS: dict[str, Callable[[Canvas, np.random.Generator, bool], None]] = {
    "beach": _beach, "forest": _forest, "city": _city, "kitchen": _kitchen, "garden": _garden, "snow": _snow,
    "wall": _wall,
}  # fmt: skip
