"""The toy world's face recogniser, with the shipped weights."""

import numpy as np
import pytest
import torch
from story_identity.core.detectors.faces import Recogniser
from story_identity.core.toyworld.recogniser import MARGIN, load_recogniser
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.lab.toyworld.people import sample_person
from story_identity.lab.toyworld.world import draw, portrait_plan, sample_scene

from tests.closeness import assert_close

SIDE = TOY_WORLD.picture_side


@pytest.fixture(scope="module")
def recogniser():
    return load_recogniser()


def of(scene):
    return torch.tensor(scene.image).float() / 255


def test_it_stands_where_insightface_stands(recogniser):
    assert isinstance(recogniser, Recogniser)
    assert recogniser.width == 64


def test_a_portrait_and_a_scene_of_one_person_are_alike_and_another_is_not(recogniser):
    random, right = np.random.default_rng(1), 0
    for _ in range(10):
        person, other = (sample_person(random, held_out=True, word="woman", hair="red") for _ in range(2))
        one, same, stranger = (recogniser.find(of(draw(portrait_plan(who), random))) for who in (person, person, other))
        right += float(one.embedding @ same.embedding) > float(one.embedding @ stranger.embedding)
    assert right >= 9


def test_the_crop_is_a_square_around_the_head(recogniser):
    scene = draw(portrait_plan(sample_person(np.random.default_rng(2))), np.random.default_rng(2))
    face = recogniser.find(of(scene))
    assert face.crop.shape == (SIDE, SIDE, 3)
    assert 0 <= face.crop.min() < face.crop.max() <= 1
    assert face.embedding.norm() == pytest.approx(1, abs=1e-5)
    x0, y0, x1, y1 = scene.face_boxes[0]
    side = MARGIN * max(x1 - x0, y1 - y0)
    x, y, half = int((x0 + x1) / 2), int((y0 + y1) / 2), SIDE // 8
    middle = of(scene)[y - half : y + half, x - half : x + half]
    reach = round(half * SIDE / side)
    shown = face.crop[SIDE // 2 - reach : SIDE // 2 + reach, SIDE // 2 - reach : SIDE // 2 + reach]
    assert_close(middle.mean(dim=(0, 1)), shown.mean(dim=(0, 1)), 0.06)


def test_the_mask_says_who_and_many_pictures_at_once_are_as_one_by_one(recogniser):
    scenes = [sample_scene(seed, people=2) for seed in (3, 4)]
    images = [of(scene) for scene in scenes for _ in range(2)]
    masks = [torch.tensor(mask) for scene in scenes for mask in scene.masks]
    together = recogniser.find_all(images, masks)
    for image, mask, face in zip(images, masks, together, strict=True):
        (alone,) = recogniser.find_all([image], [mask])
        assert_close(alone.embedding, face.embedding, 1e-4)
        assert_close(alone.crop, face.crop, 1e-4)
    assert together[0].embedding @ together[1].embedding < 0.9
    large = torch.nn.functional.interpolate(images[0].movedim(-1, 0)[None], (2 * SIDE, 2 * SIDE), mode="nearest")[0]
    (big,) = recogniser.find_all([large.movedim(0, -1)], [masks[0].repeat_interleave(2, 0).repeat_interleave(2, 1)])
    assert big.embedding @ together[0].embedding > 0.8


def test_nobody_is_found_where_nobody_is(recogniser):
    empty = of(sample_scene(0, people=0))
    assert recogniser.find(empty) is None
    assert recogniser.find_all([empty, of(sample_scene(3, people=1))], [None, torch.zeros(SIDE, SIDE) > 0]) == [
        None,
        None,
    ]
