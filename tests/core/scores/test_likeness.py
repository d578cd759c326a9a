"""Face-Sim: laws of the formula, and faces of drawn people."""

import math

import numpy as np
import pytest
import torch
from story_identity.core.scores.cosines import likeness
from story_identity.core.toyworld.recogniser import load_recogniser
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.lab.toyworld.people import sample_person
from story_identity.lab.toyworld.plan import Plan
from story_identity.lab.toyworld.world import draw

SIDE = TOY_WORLD.picture_side


def unit(*values):
    return torch.nn.functional.normalize(torch.tensor(values), dim=0)


def test_one_face_everywhere_is_1_and_orthogonal_faces_are_0():
    same = likeness([unit(3.0, 4.0)] * 5)
    assert same.mean == pytest.approx(1)
    assert same.to_others == pytest.approx((1,) * 5)
    assert likeness(list(torch.eye(4))).mean == pytest.approx(0)


def test_three_faces_by_hand():
    half = unit(1.0, 1.0)
    found = likeness([unit(1.0, 0.0), None, half, unit(0.0, 1.0)])
    cosine = 1 / math.sqrt(2)
    assert found.to_others == (pytest.approx(cosine / 2), None, pytest.approx(cosine), pytest.approx(cosine / 2))
    assert found.mean == pytest.approx(2 * cosine / 3)
    assert found.faces == 3


def test_the_mean_is_over_pairs_and_over_frames_alike():
    faces = torch.nn.functional.normalize(torch.randn(7, 11, generator=torch.Generator().manual_seed(0)), dim=1)
    found = likeness(list(faces))
    pairs = [float(faces[i] @ faces[j]) for i in range(7) for j in range(i)]
    assert found.mean == pytest.approx(np.mean(pairs), abs=1e-6)
    assert found.mean == pytest.approx(np.mean(found.to_others), abs=1e-6)
    shuffled = likeness([faces[i] for i in (3, 0, 6, 1, 5, 2, 4)])
    assert shuffled.mean == pytest.approx(found.mean, abs=1e-6)
    assert shuffled.to_others[0] == pytest.approx(found.to_others[3], abs=1e-6)


@pytest.mark.parametrize("faces", [[], [None, None], [None, unit(1.0, 2.0)]])
def test_fewer_than_two_faces_have_no_likeness(faces):
    found = likeness(faces)
    assert found.mean is None
    assert found.to_others == (None,) * len(faces)
    assert found.faces == sum(face is not None for face in faces)


def drawn(people, seed, place):
    count = len(people)
    plan = Plan(
        *(tuple(people), ("standing",) * count, place), names_clothes=(False,) * count, names_hair=(True,) * count
    )
    scene = draw(plan, np.random.default_rng(seed))
    return torch.from_numpy(scene.image / np.float32(255)), torch.from_numpy(scene.masks)


def test_faces_of_one_drawn_person_are_more_alike_than_those_of_two_told_alike():
    read_face, random = load_recogniser().embedding_of, np.random.default_rng(5)
    same, other = [], []
    for seed in range(6):
        mira, double = (sample_person(random, held_out=True, word="woman", hair="red") for _ in range(2))
        tom = sample_person(random, held_out=True, word="boy", hair="black")
        first, masks = drawn([mira, tom], 2 * seed, "beach")
        second, second_masks = drawn([tom, double], 2 * seed + 1, "forest")
        third, third_masks = drawn([mira], 2 * seed + 1, "snow")
        faces = [read_face(first, masks[0]), read_face(second, second_masks[1]), read_face(third, third_masks[0])]
        same.append(likeness([faces[0], None, faces[2]]).mean)
        other.append(likeness([faces[0], faces[1], None]).mean)
    assert np.mean(same) > np.mean(other) + 0.3


def test_where_nobody_is_there_is_no_face():
    read_face = load_recogniser().embedding_of
    picture, masks = drawn([sample_person(np.random.default_rng(1))], 3, "garden")
    assert read_face(picture, masks[0]) is not None
    assert read_face(picture, torch.zeros_like(masks[0])) is None
    assert read_face(torch.full((SIDE, SIDE, 3), 0.5), masks[0]) is None
