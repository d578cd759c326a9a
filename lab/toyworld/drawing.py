"""Drawing people, places and things with Pillow: four times too large, then scaled down.

Coordinates are in units of which every picture is 64 wide, as floats; x to the right, y down.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ...core.toyworld.sizes import TOY_WORLD
from .colours import CLOTHES, FRAMES, HAIR, HATS, INK, METAL, SKIN, Colour, darker
from .faces import draw_face
from .people import Person

Number = float | int
Point = tuple[Number, Number]

SUPERSAMPLING = 4


@dataclass(frozen=True)
class Stance:
    """Where and how somebody stands: the middle of the feet, size, what the body does, which arm is up."""

    x: Number
    ground: Number
    size: Number = 1.0
    pose: str = "standing"
    mirrored: bool = False


class Canvas:
    """A picture and, drawn alongside, who covers which pixel (0 nobody, 1 the first person, ...)."""

    def __init__(self, side: int = TOY_WORLD.picture_side) -> None:
        self.side, self.scale = side, side // 64
        self.zoom = SUPERSAMPLING * self.scale
        large = self.side * SUPERSAMPLING
        self.picture = Image.new("RGB", (large, large))
        self.owners = Image.new("L", (large, large))
        self.owner = 0
        self._pens = (ImageDraw.Draw(self.picture), ImageDraw.Draw(self.owners))

    def ellipse(self, x: Number, y: Number, rx: Number, ry: Number, colour: Colour) -> None:
        box = [self.zoom * value for value in (x - rx, y - ry, x + rx, y + ry)]
        for pen, ink in zip(self._pens, (colour, self.owner), strict=True):
            pen.ellipse(box, fill=ink)

    def box(self, x0: Number, y0: Number, x1: Number, y1: Number, colour: Colour, round_px: Number = 0) -> None:
        corners = [self.zoom * value for value in (x0, y0, x1, y1)]
        for pen, ink in zip(self._pens, (colour, self.owner), strict=True):
            pen.rounded_rectangle(corners, self.zoom * round_px, fill=ink)

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        large = [(self.zoom * x, self.zoom * y) for x, y in points]
        for pen, ink in zip(self._pens, (colour, self.owner), strict=True):
            pen.polygon(large, fill=ink)

    def line(self, points: Sequence[Point], colour: Colour, width: Number) -> None:
        """A line with round ends."""
        large = [(self.zoom * x, self.zoom * y) for x, y in points]
        for pen, ink in zip(self._pens, (colour, self.owner), strict=True):
            pen.line(large, fill=ink, width=max(1, round(self.zoom * width)), joint="curve")
        if width * self.scale > 1:
            for x, y in (points[0], points[-1]):
                self.ellipse(x, y, width / 2, width / 2, colour)

    def ring(self, x: Number, y: Number, radius: Number, colour: Colour, width: Number) -> None:
        box = [self.zoom * value for value in (x - radius, y - radius, x + radius, y + radius)]
        for pen, ink in zip(self._pens, (colour, self.owner), strict=True):
            pen.ellipse(box, outline=ink, width=max(1, round(self.zoom * width)))

    def pixels(self) -> np.ndarray:
        """The finished picture `(side, side, 3)`, uint8."""
        return np.asarray(self.picture.resize((self.side, self.side), Image.Resampling.BOX))

    def masks(self, count: int) -> np.ndarray:
        """Where each person covers at least half of a pixel `(count, side, side)`, bool; of two halves the first."""
        seen = np.asarray(self.owners) == np.arange(1, count + 1)[:, None, None]
        cells = seen.reshape(count, self.side, SUPERSAMPLING, self.side, SUPERSAMPLING)
        masks = cells.mean(axis=(2, 4)) >= 0.5
        return masks & (masks.cumsum(axis=0) == 1)


def growth(person: Person) -> float:
    """How large somebody is compared with a grown-up."""
    return 0.86 if person.word in ("boy", "girl") else 1.0


def draw_person(canvas: Canvas, person: Person, stance: Stance, owner: int) -> tuple[float, float, float, float]:
    """Draw somebody and return the box of the head, hat and hair included, in pixels: x0, y0, x1, y1."""
    canvas.owner = owner
    figure = Figure(canvas, person, stance)
    figure.hair_behind()
    figure.body()
    figure.head()
    canvas.owner = 0
    rx, ry = figure.head_radii
    x, y = figure.head_at
    left, top, right, bottom = (
        canvas.scale * value for value in (x - rx * 1.3, y - ry * 1.5, x + rx * 1.3, y + ry * 1.15)
    )
    return left, top, right, bottom


class Figure:
    """Somebody who is being drawn."""

    def __init__(self, canvas: Canvas, person: Person, stance: Stance) -> None:
        self.canvas, self.person = canvas, person
        self.s = stance.size * growth(person)
        self.side = -1 if stance.mirrored else 1
        self.pose = stance.pose
        self.x = stance.x
        lift = {"jumping": 5.0, "sitting": -4.0}.get(stance.pose, 0.0)
        self.ground = stance.ground - lift * self.s
        self.robot = person.word == "robot"
        self.skin = METAL[person.skin] if self.robot else SKIN[person.skin]
        self.cloth = CLOTHES[person.clothes]
        self.hair = HAIR[person.hair]
        wide, high = ((9.6, 9.4), (8.4, 10.2), (9.4, 9.8))[person.face]
        self.head_radii = (wide * self.s, high * self.s)
        self.head_at = (self.x, self.ground - 29.5 * self.s)
        self.shoulder = 6.4 if person.word == "man" else 5.2

    def at(self, dx: Number, dy: Number) -> Point:
        """A point relative to the middle of the feet, in units of the figure."""
        return self.x + dx * self.s, self.ground + dy * self.s

    def on_head(self, dx: Number, dy: Number) -> Point:
        """A point relative to the middle of the head, 1 being its edge."""
        return self.head_at[0] + dx * self.head_radii[0], self.head_at[1] + dy * self.head_radii[1]

    def disc(self, dx: Number, dy: Number, rx: Number, ry: Number, colour: Colour) -> None:
        x, y = self.on_head(dx, dy)
        self.canvas.ellipse(x, y, rx * self.head_radii[0], ry * self.head_radii[1], colour)

    def body(self) -> None:
        c, s, cloth = self.canvas, self.s, self.cloth
        trousers = darker(self.skin, 0.3) if self.robot else (70, 74, 104)
        shoes = INK
        if self.pose == "sitting":
            for dx in (-1, 1):
                c.line([self.at(3 * dx, -6), self.at(6.5 * dx, -3)], trousers, 4.5 * s)
                c.ellipse(*self.at(7.5 * dx, -2.5), 2.6 * s, 2.2 * s, shoes)
        else:
            spread = 4.6 if self.pose == "jumping" else 3.0
            for dx in (-1, 1):
                c.line([self.at(2.6 * dx, -9), self.at(spread * dx, -2)], trousers, 4.2 * s)
                c.ellipse(*self.at((spread + 0.6) * dx, -1.2), 2.8 * s, 1.8 * s, shoes)
        self._arms()
        bottom = -5 if self.person.garment == "dress" and not self.robot else -7.5
        flare = {"shirt": 6.0, "coat": 7.2, "dress": 8.6}[self.person.garment]
        if self.robot:
            c.box(*self.at(-7, -21), *self.at(7, -7), cloth, 2 * s)
            c.box(*self.at(-3.4, -18), *self.at(3.4, -12), darker(self.skin, 0.1), 1 * s)
            return
        c.polygon(
            [
                self.at(-self.shoulder, -21),
                self.at(self.shoulder, -21),
                self.at(flare, bottom),
                self.at(-flare, bottom),
            ],
            cloth,
        )
        self._pattern(bottom, flare)

    def _pattern(self, bottom: Number, flare: Number) -> None:
        c, s = self.canvas, self.s
        light = darker(self.cloth, 0.45) if sum(self.cloth) > 400 else (250, 240, 226)
        if self.person.pattern == 1:
            for y in (-17.0, -13.0, -9.5):
                wide = 5.0 + (flare - 5.2) * (y + 21) / (bottom + 21)
                c.line([self.at(-wide + 0.9, y), self.at(wide - 0.9, y)], light, 1.4 * s)
        elif self.person.pattern == 2:
            for dx, y in ((-2.6, -16.5), (2.6, -14.5), (-2.2, -11.5), (2.8, -10)):
                c.ellipse(*self.at(dx, y), 1.2 * s, 1.2 * s, light)
        if self.person.garment == "coat":
            c.line([self.at(0, -20), self.at(0, bottom + 0.5)], darker(self.cloth, 0.4), 1.0 * s)
            c.box(*self.at(-5, -22), *self.at(5, -19), darker(self.cloth, 0.4), 1.4 * s)

    def _arms(self) -> None:
        c, s = self.canvas, self.s
        up = {"waving": (self.side,), "jumping": (-1, 1)}.get(self.pose, ())
        for dx in (-1, 1):
            hand = self.at(11.5 * dx, -27) if dx in up else self.at(8.6 * dx, -11)
            c.line([self.at(self.shoulder * dx, -18.5), hand], darker(self.cloth, 0.15), 3.6 * s)
            c.ellipse(*hand, 2.2 * s, 2.2 * s, self.skin)

    def hair_behind(self) -> None:
        if self.robot:
            return
        style = self.person.hair_style
        if style == 1:  # long
            x, y = self.head_at
            rx, ry = self.head_radii
            self.canvas.box(x - 1.16 * rx, y - 0.4 * ry, x + 1.16 * rx, y + 1.5 * ry, darker(self.hair, 0.12), 0.5 * rx)
        elif style == 3:  # two tails
            for dx in (-1, 1):
                self.disc(1.2 * dx, 0.25, 0.34, 0.62, darker(self.hair, 0.12))
        elif style == 2:  # curls
            for dx, dy in ((-0.95, -0.2), (0.95, -0.2), (-1.0, 0.25), (1.0, 0.25), (-0.6, -0.75), (0.6, -0.75)):
                self.disc(dx, dy, 0.4, 0.4, darker(self.hair, 0.12))

    def head(self) -> None:
        if self.robot:
            self._robot_head()
            return
        if self.person.face == 2:
            x, y = self.head_at
            rx, ry = self.head_radii
            self.canvas.box(x - rx, y - ry, x + rx, y + ry, self.skin, 0.55 * rx)
        else:
            self.disc(0, 0, 1, 1, self.skin)
        self._beard()
        draw_face(self)
        self._hair()
        self._glasses()
        self._hat()

    def _beard(self) -> None:
        if self.person.beard == 1:  # full
            outline = [
                (-0.98, 0.05),
                (-0.8, 0.32),
                (0.8, 0.32),
                (0.98, 0.05),
                (0.86, 0.66),
                (0.45, 1.12),
                (-0.45, 1.12),
            ]
            self.canvas.polygon([self.on_head(*point) for point in [*outline, (-0.86, 0.66)]], self.hair)
        elif self.person.beard == 2:  # moustache
            self.canvas.line([self.on_head(-0.36, 0.46), self.on_head(0.36, 0.46)], self.hair, 0.2 * self.head_radii[0])

    def _hair(self) -> None:
        style = self.person.hair_style
        cap = [(-1.06, 0.06), (-1.08, -0.5), (-0.7, -1.02), (0, -1.2), (0.7, -1.02), (1.08, -0.5), (1.06, 0.06)]
        fringe = [(0.8, -0.36), (0.2, -0.5), (-0.3, -0.62), (-0.82, -0.3)]
        if style == 4:  # spikes
            spikes = [
                (-1.0, -0.3),
                (-1.2, -0.9),
                (-0.7, -0.95),
                (-0.55, -1.5),
                (-0.1, -1.1),
                (0.25, -1.55),
                (0.55, -1.0),
            ]
            cap = [*spikes, (1.1, -1.1), (1.02, -0.3)]
        self.canvas.polygon([self.on_head(*point) for point in [*cap, *fringe]], self.hair)
        if style == 2:
            for dx, dy in ((-0.8, -0.7), (-0.4, -1.0), (0, -1.1), (0.4, -1.0), (0.8, -0.7)):
                self.disc(dx, dy, 0.34, 0.34, self.hair)
        elif style == 3:
            for dx in (-1, 1):
                self.disc(1.08 * dx, -0.1, 0.14, 0.14, (236, 90, 140))

    def _glasses(self) -> None:
        kind = self.person.glasses
        if not kind:
            return
        c, rx = self.canvas, self.head_radii[0]
        colour = FRAMES[self.person.glasses_colour]
        for dx in (-0.44, 0.44):
            x, y = self.on_head(dx, 0.08)
            if kind == 1:
                c.ring(x, y, 0.36 * rx, colour, 0.12 * rx)
            else:
                corners = [(x - 0.36 * rx, y - 0.26 * rx), (x + 0.36 * rx, y - 0.26 * rx)]
                corners += [(x + 0.36 * rx, y + 0.28 * rx), (x - 0.36 * rx, y + 0.28 * rx)]
                c.line([*corners, corners[0]], colour, 0.13 * rx)
        c.line([self.on_head(-0.1, 0.05), self.on_head(0.1, 0.05)], colour, 0.12 * rx)

    def _hat(self) -> None:
        hat = self.person.hat
        if not hat:
            return
        colour = HATS[self.person.hat_colour]
        x, y = self.head_at
        rx, ry = self.head_radii
        if hat == 1:  # cap
            dome = [(-1.1, -0.45), (-0.9, -1.05), (0, -1.35), (0.9, -1.05), (1.1, -0.45)]
            self.canvas.polygon([self.on_head(*point) for point in dome], colour)
            self.canvas.line([self.on_head(0, -0.48), self.on_head(1.35 * self.side, -0.4)], darker(colour), 0.22 * rx)
        elif hat == 2:  # wide brim
            self.canvas.box(x - 0.75 * rx, y - 1.5 * ry, x + 0.75 * rx, y - 0.6 * ry, colour, 0.3 * rx)
            self.canvas.ellipse(x, y - 0.62 * ry, 1.4 * rx, 0.2 * ry, darker(colour, 0.15))
        else:  # bow
            for dx in (-1, 1):
                bow = [(0.35, -1.05), (0.35 + 0.5 * dx, -1.4), (0.35 + 0.5 * dx, -0.72)]
                self.canvas.polygon([self.on_head(*point) for point in bow], colour)
            self.disc(0.35, -1.05, 0.15, 0.15, darker(colour))

    def _robot_head(self) -> None:
        c, person = self.canvas, self.person
        x, y = self.head_at
        rx, ry = self.head_radii
        for dx in (-1, 1):
            c.ellipse(x + 1.06 * dx * rx, y, 0.2 * rx, 0.3 * ry, darker(self.skin, 0.35))
        places = ((0.0,), (-0.6, 0.6), (0.55,), (-0.55,), (-0.7, 0.0, 0.7))[person.hair_style]
        for dx in places:
            c.line([self.on_head(dx, -0.9), self.on_head(dx, -1.3)], darker(self.skin, 0.4), 0.12 * rx)
            self.disc(dx, -1.35, 0.24, 0.24, self.hair)
        c.box(x - rx, y - ry, x + rx, y + 0.95 * ry, self.skin, (0.25, 0.5, 0.8)[person.face] * rx)
        c.box(x - 0.78 * rx, y - 0.45 * ry, x + 0.78 * rx, y + 0.3 * ry, darker(self.skin, 0.55), 0.3 * rx)
        glow = ((255, 236, 120), (120, 220, 255), (140, 255, 150))[person.eyes]
        for dx in (-0.4, 0.4):
            size = (0.18, 0.26)[person.brows]
            self.disc(dx, -0.08, size, size, glow)
        if person.beard == 0:
            c.line([self.on_head(-0.4, 0.62), self.on_head(0.4, 0.62)], INK, 0.12 * rx)
        else:
            for dx in (-0.4, -0.13, 0.13, 0.4)[:: person.beard]:
                c.box(*self.on_head(dx - 0.09, 0.48), *self.on_head(dx + 0.09, 0.78), INK)
