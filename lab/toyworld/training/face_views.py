"""Many views of many faces, ordered by what a caption would say of them."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ....core.toyworld.vocabulary import CLASS_WORDS, CLOTHES_COLOURS, GARMENTS, HAIR_COLOURS
from ..people import Person, sample_person
from ..world import Scene, draw, portrait_plan, sample_plan

CAPTIONS = [(word, hair) for word in CLASS_WORDS for hair in HAIR_COLOURS]
_Views = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Gallery:
    """Rendered views; the axes are captions (word and hair colour), faces that share it, views of a face.

    Args:
        pictures: `(pictures, side, side, 3)` uint8; those with several people serve several views.
        picture_of: `(captions, faces, views)`: the picture a view is seen in.
        boxes: `(captions, faces, views, 4)` float32: where the head is.
        close_ups: So many views come first; the others are full figures.
    """

    pictures: np.ndarray
    picture_of: np.ndarray
    boxes: np.ndarray
    close_ups: int


@dataclass(frozen=True)
class Order:
    """What to render.

    Args:
        faces: Per caption, no two of them alike.
        close_ups: Views of each face as a portrait.
        full: Views of each face with the whole figure, among up to three people.
        seed: The seed of everything that is drawn at random.
        held_out: Whether the faces have looks that training never shows.
        other_clothes: Every other view shows the face above other clothes.
    """

    faces: int
    close_ups: int
    full: int
    seed: int
    held_out: bool = False
    other_clothes: bool = False


def gallery(order: Order, folder: Path | None = None) -> Gallery:
    """Render an order; with a folder, once, and kept there."""
    if folder is None:
        return Gallery(*_render(map(partial(_of_caption, order), range(len(CAPTIONS)))), order.close_ups)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"faces_{order.seed}_{order.faces}_{order.close_ups}_{order.full}_{order.held_out:d}{order.other_clothes:d}"
    paths = [folder / f"{name}_{part}.npy" for part in ("pictures", "picture_of", "boxes")]
    if not all(path.is_file() for path in paths):
        with ProcessPoolExecutor() as pool:
            parts = _render(pool.map(partial(_of_caption, order), range(len(CAPTIONS))))
        for path, array in zip(paths, parts, strict=True):
            np.save(path, array)
    pictures, picture_of, boxes = (np.load(path, mmap_mode="r") for path in paths)
    return Gallery(pictures, np.asarray(picture_of), np.asarray(boxes), order.close_ups)


def _render(captions: Iterable[_Views]) -> _Views:
    pictures, picture_of, boxes = [], [], []
    for images, numbers, heads in captions:
        picture_of.append(numbers + sum(map(len, pictures)))
        pictures.append(images)
        boxes.append(heads)
    return np.concatenate(pictures), np.stack(picture_of), np.stack(boxes)


def _of_caption(order: Order, caption: int) -> _Views:
    random = np.random.default_rng([order.seed, caption])
    people = _distinct_faces(order, caption, random)
    pictures: list[np.ndarray] = []
    picture_of = np.empty((order.faces, order.close_ups + order.full), np.int32)
    boxes = np.empty((*picture_of.shape, 4), np.float32)

    def keep(scene: Scene, faces: Sequence[int], view: int) -> None:
        picture_of[faces, view] = len(pictures)
        boxes[faces, view] = scene.face_boxes
        pictures.append(scene.image)

    for view in range(order.close_ups):
        for face, person in enumerate(people):
            keep(draw(portrait_plan(_dressed(person, order, view, random)), random), [face], view)
    for view in range(order.close_ups, order.close_ups + order.full):
        waiting = random.permutation(order.faces).tolist()
        while waiting:
            count = min(len(waiting), int(random.choice((1, 2, 3), p=(0.4, 0.4, 0.2))))
            faces, waiting = waiting[:count], waiting[count:]
            cast = tuple(_dressed(people[face], order, view, random) for face in faces)
            keep(draw(replace(sample_plan(random, people=count), people=cast), random), faces, view)
    return np.stack(pictures), picture_of, boxes


def _distinct_faces(order: Order, caption: int, random: np.random.Generator) -> list[Person]:
    """People of a caption who differ in more than their clothes."""
    word, hair = CAPTIONS[caption]
    people: dict[Person, Person] = {}
    while len(people) < order.faces:
        person = sample_person(random, order.held_out, word=word, hair=hair)
        people.setdefault(replace(person, clothes="red", garment="shirt", pattern=0), person)
    return list(people.values())


def _dressed(person: Person, order: Order, view: int, random: np.random.Generator) -> Person:
    while order.other_clothes and view % 2:
        other = replace(
            person,
            clothes=CLOTHES_COLOURS[random.integers(len(CLOTHES_COLOURS))],
            garment=GARMENTS[random.integers(2 if person.word in ("man", "boy") else 3)],
            pattern=int(random.integers(3)),
        )
        if other.held_out == order.held_out:
            return other
    return person
