"""Scenes: who is where, as a picture and as a caption.

A scene is drawn from a seed: same seed, same pixels. What its caption does not say is left to chance, as with any text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...core.toyworld.vocabulary import HOURS, PLACES, POSES, PROPS
from .captions import caption_of
from .drawing import Canvas, Stance, draw_person, growth
from .people import Person, sample_person
from .plan import Plan
from .scenery import draw_place, draw_prop

FIGURE_SIZES = (1.2, 1.12, 0.86)
"""How large grown-ups are drawn where there are 1, 2 and 3 people."""


@dataclass(frozen=True)
class Scene:
    """A drawn plan.

    Args:
        plan: What it shows.
        caption: Its caption.
        image: `(side, side, 3)` uint8.
        masks: `(people, side, side)` bool: where each person is seen; exclusive.
        face_boxes: `(people, 4)` float32: x0 y0 x1 y1 of each head in pixels, hair and hat included.
    """

    plan: Plan
    caption: str
    image: np.ndarray
    masks: np.ndarray
    face_boxes: np.ndarray

    @property
    def identities(self) -> tuple[int, ...]:
        return tuple(person.identity for person in self.plan.people)


def sample_plan(random: np.random.Generator, held_out: bool = False, people: int | None = None) -> Plan:
    """A scene of one to three people (at times none, or a close-up), of looks used in training or of the others."""
    count = int(random.choice(4, p=(0.04, 0.46, 0.4, 0.1))) if people is None else people
    cast = tuple(sample_person(random, held_out) for _ in range(count))
    plan = Plan(
        people=cast,
        poses=tuple(POSES[random.choice(4, p=(0.4, 0.2, 0.2, 0.2))] for _ in cast),
        place=PLACES[random.integers(len(PLACES))],
        hour=HOURS[int(random.random() < 0.2)],
        props=tuple(str(prop) for prop in random.choice(PROPS, size=1)) if random.random() < 0.45 else (),
        side=("", "left", "right")[random.choice(3, p=(0.5, 0.25, 0.25))] if count == 1 else "",
        names_clothes=tuple(bool(random.random() < 0.3) and count < 3 for _ in cast),
        names_hair=tuple(bool(random.random() < 0.9) for _ in cast),
    )
    if people is None and count == 1 and random.random() < 0.5:
        return portrait_plan(cast[0], plan.names_hair[0], plan.names_clothes[0])
    return plan


def portrait_plan(person: Person, names_hair: bool = True, names_clothes: bool = False) -> Plan:
    return Plan((person,), ("standing",), "wall", "day", (), "", True, (names_clothes,), (names_hair,))


def draw(plan: Plan, random: np.random.Generator) -> Scene:
    """Draw a plan; what it leaves open (clouds, colours of things, exact places) comes from `random`."""
    canvas = Canvas()
    draw_place(canvas, plan.place, plan.hour, random)
    stances = _stances(plan, random)
    for prop in plan.props:
        _put_prop(canvas, prop, stances, random)
    boxes = [
        draw_person(canvas, person, stance, owner)
        for owner, (person, stance) in enumerate(zip(plan.people, stances, strict=True), start=1)
    ]
    return Scene(
        plan=plan,
        caption=caption_of(plan, random),
        image=canvas.pixels(),
        masks=canvas.masks(len(boxes)),
        face_boxes=np.asarray(boxes, np.float32).reshape(-1, 4),
    )


def sample_scene(seed: int, held_out: bool = False, people: int | None = None) -> Scene:
    """The scene of a seed."""
    random = np.random.default_rng(seed)
    return draw(sample_plan(random, held_out, people), random)


def _stances(plan: Plan, random: np.random.Generator) -> list[Stance]:
    if plan.close_up:
        grown = growth(plan.people[0])
        size = (1.95 + 0.2 * random.random()) / grown**0.6
        ground = 31 + 3 * random.random() + 29.5 * size * grown
        return [Stance(32 + random.uniform(-2, 2), ground, size, "standing", bool(random.random() < 0.5))]
    middles: Sequence[float] = {0: (), 1: (32.0,), 2: (19.0, 45.0), 3: (11.5, 32.0, 52.5)}[len(plan.people)]
    if plan.side:
        middles = (17.0,) if plan.side == "left" else (47.0,)
    size = FIGURE_SIZES[len(plan.people) - 1]
    return [
        Stance(
            x + random.uniform(-2, 2) * size,
            59.5 + random.uniform(-1.5, 1.5),
            size * random.uniform(0.96, 1.04),
            pose,
            bool(random.random() < 0.5),
        )
        for x, pose in zip(middles, plan.poses, strict=True)
    ]


def _put_prop(canvas: Canvas, prop: str, stances: Sequence[Stance], random: np.random.Generator) -> None:
    """Where there is room: the widest gap between people and the picture's edges."""
    reach = 9 * max(1.0, FIGURE_SIZES[len(stances) - 1])
    edges = [0.0, *(edge for stance in stances for edge in (stance.x - reach, stance.x + reach)), 64.0]
    gaps = sorted(((edges[i + 1] - edges[i], edges[i]) for i in range(0, len(edges), 2)), reverse=True)
    wide, left = gaps[0]
    x = float(np.clip(left + wide / 2 + random.uniform(-1, 1) * max(wide / 2 - 7, 0), 6, 58))
    draw_prop(canvas, prop, x, 60.5, random)
