"""The pack's icon and banner in the registry: `python -m story_identity.lab.registry_pictures` writes them to docs/.

Both show one story of the toy world, drawn by its generator (no network is used): the same two people in every panel.
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .toyworld.drawing import Canvas, Stance, draw_person
from .toyworld.people import Person
from .toyworld.scenery import draw_place, draw_prop

DOCS = Path(__file__).absolute().parents[1] / "docs"
PAPER, INK, QUIET = (250, 247, 240), (44, 34, 42), (120, 104, 112)
ICON_SIDE = 400
BANNER_WIDTH, BANNER_HEIGHT = 1260, 540

PIP = Person(
    word="robot",
    hair="blond",
    clothes="blue",
    garment="shirt",
    skin=1,
    face=0,
    hair_style=0,
    glasses=0,
    glasses_colour=0,
    beard=0,
    freckles=0,
    eyes=1,
    brows=0,
    hat=0,
    hat_colour=0,
    pattern=0,
)
MIRA = replace(
    PIP, word="woman", hair="red", clothes="green", garment="dress", hair_style=1, glasses=1, freckles=1, eyes=2
)


class Panel(NamedTuple):
    """A frame of the story: where it is, what is there, and the poses of the two."""

    place: str
    hour: str
    prop: str
    mira: str
    pip: str


PANELS = (
    Panel("garden", "day", "balloon", "waving", "standing"),
    Panel("beach", "day", "dog", "sitting", "waving"),
    Panel("snow", "day", "kite", "jumping", "jumping"),
    Panel("city", "night", "cat", "standing", "sitting"),
)


def draw_panel(panel: Panel, side_px: int) -> Image.Image:
    """A frame, `side_px` wide and high."""
    random = np.random.default_rng(PANELS.index(panel))
    canvas = Canvas()
    draw_place(canvas, panel.place, panel.hour, random)
    draw_prop(canvas, panel.prop, 32.0, 58.0, random)
    for owner, (person, x, pose) in enumerate(((MIRA, 17.0, panel.mira), (PIP, 47.0, panel.pip)), start=1):
        draw_person(canvas, person, Stance(x, 60.0, 1.0, pose, mirrored=owner == 2), owner)
    return canvas.picture.resize((side_px, side_px), Image.Resampling.LANCZOS)


def draw_icon() -> Image.Image:
    """Four panels, two by two."""
    icon = Image.new("RGB", (ICON_SIDE, ICON_SIDE), INK)
    gap = 8
    side = (ICON_SIDE - 3 * gap) // 2
    for number, panel in enumerate(PANELS):
        row, column = divmod(number, 2)
        icon.paste(draw_panel(panel, side), (gap + column * (side + gap), gap + row * (side + gap)))
    return icon


def draw_banner() -> Image.Image:
    """The name over the four panels in a row."""
    banner = Image.new("RGB", (BANNER_WIDTH, BANNER_HEIGHT), PAPER)
    pen, gap = ImageDraw.Draw(banner), 36
    side = (BANNER_WIDTH - gap * (len(PANELS) + 1)) // len(PANELS)
    pen.text((gap, 44), "StoryIdentity", INK, ImageFont.load_default(80))
    pen.text((gap, 152), "Picture stories whose characters stay the same people", QUIET, ImageFont.load_default(36))
    for number, panel in enumerate(PANELS):
        x, y = gap + number * (side + gap), BANNER_HEIGHT - gap - side
        pen.rectangle((x - 4, y - 4, x + side + 3, y + side + 3), INK)
        banner.paste(draw_panel(panel, side), (x, y))
    return banner


def main() -> None:
    """Write docs/icon.png and docs/banner.png."""
    for name, picture in (("icon", draw_icon()), ("banner", draw_banner())):
        picture.quantize(256).save(DOCS / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
