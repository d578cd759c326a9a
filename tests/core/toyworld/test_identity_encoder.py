"""The toy face recognition: crops, training loss, verification, and what the shipped weights can do."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from story_identity.core.toyworld.identity_encoder import (
    IdentityEncoder,
    face_crops,
    load_identity_encoder,
)
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.lab.toyworld.people import sample_person
from story_identity.lab.toyworld.training.face_views import Order, _distinct_faces, _dressed, gallery
from story_identity.lab.toyworld.training.train_identity_encoder import measure_identity_encoder, nt_xent, verification
from story_identity.lab.toyworld.world import draw, portrait_plan, sample_scene
from torch import Tensor

from tests.closeness import assert_close


@pytest.fixture(scope="module")
def encoder() -> IdentityEncoder:
    return load_identity_encoder()


def picture_of(scene) -> Tensor:
    return torch.tensor(scene.image).float() / 255


def three_people() -> tuple[Tensor, Tensor]:
    scene = sample_scene(11, held_out=True, people=3)
    return picture_of(scene), torch.tensor(scene.face_boxes)


def test_a_crop_by_hand():
    ramp = ((torch.arange(64) + 0.5) / 64).expand(3, 64, 64).permute(1, 2, 0)  # every colour says how far right it is
    crop = face_crops(ramp, torch.tensor([[16.0, 20.0, 48.0, 44.0]]))  # 32 wide, so a square of 35.2 around x = 32
    expected = (32 + 17.6 * ((torch.arange(TOY_WORLD.crop_side) + 0.5) / (TOY_WORLD.crop_side / 2) - 1)) / 64
    assert_close(crop, expected.expand(1, 3, TOY_WORLD.crop_side, TOY_WORLD.crop_side))


def test_crops_move_with_the_picture():
    image, boxes = three_people()
    moved = face_crops(image.roll(-3, dims=1), boxes[1:2] - torch.tensor([3.0, 0.0, 3.0, 0.0]))
    assert_close(moved, face_crops(image, boxes[1:2]))


def test_crops_reach_past_the_edge():
    image = torch.rand(8, 12, 3, generator=torch.Generator().manual_seed(0))
    crops = face_crops(image, torch.tensor([[-30.0, -30.0, -10.0, -10.0]]))
    assert_close(crops, image[0, 0].view(1, 3, 1, 1).expand_as(crops))  # the corner goes on


@pytest.mark.parametrize("box", [[4.0, 4.0, 4.0, 9.0], [4.0, 9.0, 8.0, 5.0]])
def test_an_empty_box_is_refused(box: list[float]):
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], box])
    with pytest.raises(ValueError, match=r"Face box 1 is empty: \(4, .*x0 < x1"):
        face_crops(torch.zeros(16, 16, 3), boxes)


def test_vectors_are_units_and_follow_their_boxes(encoder: IdentityEncoder):
    image, boxes = three_people()
    images = image.expand(3, -1, -1, -1)
    vectors = encoder.embed(images, boxes)
    assert_close(vectors.norm(dim=1), torch.ones(3))
    order = torch.tensor([2, 0, 1])
    assert_close(encoder.embed(images, boxes[order]), vectors[order])
    assert_close(encoder(face_crops(image, boxes)), vectors)


def test_light_and_size_and_clothes_hardly_matter(encoder: IdentityEncoder):
    image, boxes = three_people()
    images = image.expand(3, -1, -1, -1)
    plain = encoder.embed(images, boxes)
    for changed, places in (
        ((images * 1.1).clamp(0, 1), boxes),
        (images * 0.85, boxes),
        (images.repeat_interleave(3, dim=1).repeat_interleave(3, dim=2), 3 * boxes),
    ):
        assert ((encoder.embed(changed, places) * plain).sum(dim=1) > 0.9).all()
    person = sample_person(np.random.default_rng(0), held_out=True, word="woman", clothes="blue")
    scenes = [
        draw(portrait_plan(replace(person, clothes=clothes)), np.random.default_rng(5)) for clothes in ("blue", "red")
    ]
    first, second = (encoder.embed(picture_of(scene)[None], torch.tensor(scene.face_boxes)) for scene in scenes)
    assert float((first * second).sum()) > 0.95


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"identity_encoder is missing.*training"):
        load_identity_encoder(tmp_path)


def test_the_loss_by_hand():
    views = torch.eye(2, 5).repeat(2, 1)  # two faces, two equal views of each
    assert float(nt_xent(views, temperature=1.0)) == pytest.approx(math.log(math.e + 2) - 1)


def test_the_loss_does_not_depend_on_the_order_of_faces():
    views = torch.nn.functional.normalize(torch.randn(10, 4, generator=torch.Generator().manual_seed(1)), dim=1)
    order = torch.tensor([3, 1, 0, 4, 2])
    assert_close(nt_xent(views[torch.cat([order, order + 5])]), nt_xent(views))
    assert float(nt_xent(views[:5].repeat(2, 1))) < float(nt_xent(views))


def test_verification_by_hand():
    assert verification(np.array([0.9, 0.8]), np.array([0.1, 0.2, 0.3])) == (1.0, 0.0)
    auc, error = verification(np.array([0.9, 0.4]), np.array([0.5, 0.1]))
    assert (auc, error) == (0.75, 0.5)
    assert verification(np.full(3, 0.5), np.full(4, 0.5))[0] == 0.5


@pytest.mark.slow
def test_a_gallery_shows_its_faces():
    order = Order(faces=2, close_ups=1, full=2, seed=4)
    views, again = gallery(order), gallery(order)
    assert np.array_equal(views.pictures, again.pictures)
    assert views.picture_of.shape == (25, 2, 3)
    assert views.picture_of.max() == len(views.pictures) - 1
    widths = views.boxes[..., 2] - views.boxes[..., 0]
    assert widths[..., : views.close_ups].min() > 35 * TOY_WORLD.scale > widths[..., views.close_ups :].max()


@pytest.mark.parametrize("held_out", [False, True])
def test_faces_of_a_caption_differ_and_other_clothes_stay_in_the_split(held_out: bool):
    order, random = Order(30, 1, 1, seed=0, held_out=held_out, other_clothes=True), np.random.default_rng(0)
    faces = set()
    for person in _distinct_faces(order, 3, random):
        assert (person.word, person.hair, person.held_out) == ("man", "red", held_out)
        assert _dressed(person, order, 0, random) == person
        other = _dressed(person, order, 1, random)
        assert other.held_out == held_out
        bare, other_bare = (replace(one, clothes="red", garment="shirt", pattern=0) for one in (person, other))
        assert bare == other_bare
        faces.add(bare)
    assert len(faces) == 30


@pytest.mark.slow
def test_shipped_weights_tell_unseen_people_apart(encoder: IdentityEncoder):
    """Among people of the same class word and hair colour."""
    measured = measure_identity_encoder(encoder, faces=4)
    assert measured["auc_full"] > 0.99
    assert measured["auc_close_ups"] > 0.995
    assert measured["auc_mixed"] > 0.99
    assert max(measured[f"eer_{kind}"] for kind in ("full", "close_ups", "mixed")) < 0.05
    assert measured["cosine_same_full"] - measured["cosine_different_full"] > 0.6
