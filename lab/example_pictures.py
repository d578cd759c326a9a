"""The pictures of the node Example Picture: `python -m story_identity.lab.example_pictures` draws them anew.

The people are those of the toy world, large; their networks have no part in it. The pose is a skeleton as OpenPose
draws it, which is what ControlNets for poses were trained on.
"""

import colorsys
import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from .toyworld.colours import Colour, darker
from .toyworld.drawing import Canvas, Point, Stance, draw_person
from .toyworld.people import Person
from .toyworld.scenery import draw_place

FOLDER = Path(__file__).absolute().parents[1] / "nodes" / "pictures"
PORTRAIT_SIDE, POSE_SIDE = 512, 1024
NORA = Person(
    word="woman",
    hair="black",
    clothes="green",
    garment="coat",
    skin=1,
    face=1,
    hair_style=0,
    glasses=0,
    glasses_colour=0,
    beard=0,
    freckles=1,
    eyes=2,
    brows=0,
    hat=0,
    hat_colour=0,
    pattern=0,
)
OTTO = replace(NORA, word="man", hair="white", clothes="blue", skin=2, face=0, beard=1, freckles=0, eyes=1, hat=1)


class Portrait(NamedTuple):
    """Somebody at a place, the middle of the head at half of the picture's height; `seed` chooses the details."""

    person: Person
    place: str
    seed: int
    x: float
    size: float
    pose: str = "standing"
    mirrored: bool = False


PORTRAITS = {
    "woman_1": Portrait(NORA, "wall", 1, 32.0, 2.1),
    "woman_2": Portrait(replace(NORA, garment="shirt", pattern=1), "forest", 2, 30.0, 1.8, "waving"),
    "woman_3": Portrait(replace(NORA, clothes="yellow", garment="dress"), "beach", 3, 34.0, 2.0),
    "man_1": Portrait(OTTO, "wall", 4, 32.0, 2.1),
    "man_2": Portrait(replace(OTTO, clothes="orange"), "snow", 5, 34.0, 1.8, "waving", mirrored=True),
    "man_3": Portrait(replace(OTTO, hat=0, pattern=2, garment="shirt"), "kitchen", 6, 31.0, 2.0),
}

JOINTS: dict[str, Point] = {
    "nose": (32.0, 9.5),
    "neck": (32.0, 15.6),
    "right shoulder": (27.2, 15.8),
    "right elbow": (21.6, 19.6),
    "right wrist": (19.2, 12.4),
    "left shoulder": (36.8, 15.8),
    "left elbow": (39.8, 23.2),
    "left wrist": (40.6, 30.2),
    "right hip": (29.2, 31.2),
    "right knee": (28.0, 43.2),
    "right ankle": (27.2, 55.2),
    "left hip": (34.8, 31.2),
    "left knee": (36.2, 43.2),
    "left ankle": (37.2, 55.2),
    "right eye": (30.7, 8.4),
    "left eye": (33.3, 8.4),
    "right ear": (28.9, 9.2),
    "left ear": (35.1, 9.2),
}
"""Somebody who faces the viewer with the right arm up: OpenPose's body joints in its order, in a picture 64 wide."""
LIMBS = (
    *("neck, right shoulder", "neck, left shoulder", "right shoulder, right elbow", "right elbow, right wrist"),
    *("left shoulder, left elbow", "left elbow, left wrist", "neck, right hip", "right hip, right knee"),
    *("right knee, right ankle", "neck, left hip", "left hip, left knee", "left knee, left ankle", "neck, nose"),
    *("nose, right eye", "right eye, right ear", "nose, left eye", "left eye, left ear"),
)
"""In OpenPose's order, which gives each its colour."""
THICK = 0.7
"""Half of a limb's width, and the radius of a joint."""


def draw_portrait(portrait: Portrait) -> Image.Image:
    """A portrait of `PORTRAITS`."""
    canvas = Canvas(PORTRAIT_SIDE)
    draw_place(canvas, portrait.place, "day", np.random.default_rng(portrait.seed))
    ground = 32 + 29.5 * portrait.size
    stance = Stance(portrait.x, ground, portrait.size, portrait.pose, portrait.mirrored)
    draw_person(canvas, portrait.person, stance, 1)
    return Image.fromarray(canvas.pixels())


def draw_pose() -> Image.Image:
    """The skeleton: limbs as ellipses, each in a colour of its own and darker than the joints, on black."""
    canvas = Canvas(POSE_SIDE)
    for number, limb in enumerate(LIMBS):
        start, end = (JOINTS[name] for name in limb.split(", "))
        canvas.polygon(_ellipse(start, end), darker(_colour(number), 0.4))
    for number, (x, y) in enumerate(JOINTS.values()):
        canvas.ellipse(x, y, THICK, THICK, _colour(number))
    return Image.fromarray(canvas.pixels())


def _colour(number: int) -> Colour:
    """20 degrees further round the circle of hues each time."""
    red, green, blue = (round(255 * value) for value in colorsys.hsv_to_rgb(number / 18, 1, 1))
    return red, green, blue


def _ellipse(start: Point, end: Point) -> list[Point]:
    """An ellipse whose long axis is the line between two points."""
    (x, y), (x1, y1) = start, end
    middle, along = ((x + x1) / 2, (y + y1) / 2), ((x1 - x) / 2, (y1 - y) / 2)
    half = math.hypot(*along)
    across = -along[1] * THICK / half, along[0] * THICK / half
    turns = (math.tau * step / 48 for step in range(48))
    return [
        tuple(m + math.cos(turn) * a + math.sin(turn) * c for m, a, c in zip(middle, along, across, strict=True))
        for turn in turns
    ]  # pyright: ignore[reportReturnType]


def drawn() -> dict[str, Image.Image]:
    """All pictures, by the name of their file without its ending."""
    portraits = {name: draw_portrait(portrait) for name, portrait in PORTRAITS.items()}
    return {**portraits, "pose_with_one_arm_up": draw_pose()}


def main() -> None:
    """Write them to nodes/pictures/."""
    FOLDER.mkdir(exist_ok=True)
    for name, picture in drawn().items():
        picture.quantize(256).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
