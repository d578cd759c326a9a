"""The toy detector: reading its maps, the pack's protocol, the loss, and what the shipped weights can do."""

from dataclasses import replace

import pytest
import torch
from story_identity.core.detectors import BoxDetector, MaskSegmenter
from story_identity.core.toyworld.detector import (
    DetectorNetwork,
    Maps,
    ToyDetector,
    box_around,
    box_overlap,
    load_detector,
    mask_overlap,
    read_maps,
)
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.core.toyworld.vocabulary import CLASS_WORDS
from story_identity.lab.toyworld.training.train_detector import (
    KINDS,
    PEAK_SPREAD,
    compare,
    drawn_scenes,
    measure_detector,
    panoptic_loss,
    scene_of,
)
from story_identity.lab.toyworld.training.train_network import Settings
from story_identity.lab.toyworld.world import Scene, sample_scene
from torch import Tensor

from tests.closeness import assert_close

SIDE = TOY_WORLD.picture_side


def picture_of(scene: Scene) -> Tensor:
    return torch.tensor(scene.image).float() / 255


def true_maps(scene: Scene) -> Maps:
    """What a perfect network would say of a scene."""
    side = scene.image.shape[0]
    somebody, heads = torch.full((1, side, side), -9.0), torch.zeros(1, side, side)
    offsets, sizes = torch.zeros(1, 2, side, side), torch.zeros(1, 2, side, side)
    places = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy")) + 0.5
    spread = PEAK_SPREAD * side / 64
    for mask, box in zip(scene.masks, scene.face_boxes, strict=True):
        seen, low, high = torch.tensor(mask), torch.tensor(box[:2]), torch.tensor(box[2:])
        away = ((low + high) / 2)[:, None, None] - places
        near = torch.exp(-away.square().sum(dim=0) / (2 * spread**2))
        heads[0] = heads[0].maximum(near)
        somebody[0, seen] = 9
        around = seen | (near > 0.5)
        offsets[0, :, around] = away[:, around]
        sizes[0, :, near > 0.5] = ((high - low) / 2)[:, None]
    return Maps(somebody, heads.logit(eps=1e-6), offsets, sizes)


class Planted(DetectorNetwork):
    """Says the truth of one scene, whatever the picture; and of the faces, from left to right, the words."""

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self.scene = scene

    def forward(self, pictures: Tensor) -> Maps:
        assert pictures.shape == (1, 3, SIDE, SIDE)
        return true_maps(self.scene)

    def words(self, crops: Tensor) -> Tensor:
        assert crops.shape == (len(self.scene.masks), 3, SIDE // 2, SIDE // 2)
        numbers = [CLASS_WORDS.index(person.word) for person in self.scene.plan.people]
        return 5 * torch.eye(len(CLASS_WORDS))[numbers]


@pytest.fixture(scope="module")
def detector() -> ToyDetector:
    return load_detector()


@pytest.mark.parametrize(("seed", "people"), [(1, 1), (2, 2), (3, 3), (4, 3)])
def test_true_maps_give_the_scene_back(seed: int, people: int):
    scene = sample_scene(seed, people=people)
    masks, heads = read_maps(true_maps(scene))
    assert torch.equal(masks, torch.tensor(scene.masks))
    assert_close(heads, torch.tensor(scene.face_boxes))
    found = ToyDetector(Planted(scene)).people(picture_of(scene))
    for one, person, mask, head in zip(found, scene.plan.people, masks, heads, strict=True):
        assert torch.equal(one.mask, mask)
        assert torch.equal(one.box, box_around(mask))
        assert torch.equal(one.head, head)
        assert one.words[CLASS_WORDS.index(person.word)] > 0.9
        assert float(one.words.sum()) == pytest.approx(1)


def test_maps_by_hand():
    """Two heads; left of column 8 every pixel votes for the one, right of it for the other, three rows are people."""
    somebody, heads = torch.full((1, 16, 16), -1.0), torch.full((1, 16, 16), -5.0)
    somebody[0, 4:7] = 1
    heads[0, 5, 12], heads[0, 5, 3], heads[0, 5, 13] = 1.0, 2.0, 0.5  # the last is too near to be a head of its own
    offsets = torch.zeros(1, 2, 16, 16)
    offsets[0, 0, :, :8] = 3.0 - (torch.arange(8) + 0.5)
    offsets[0, 0, :, 8:] = 13.0 - (torch.arange(8, 16) + 0.5)
    offsets[0, 1] = (5.0 - (torch.arange(16) + 0.5))[:, None]
    masks, boxes = read_maps(
        Maps(somebody, heads, offsets, torch.tensor([2.0, 1.0]).view(1, 2, 1, 1).expand_as(offsets))
    )
    assert boxes.tolist() == [[1, 4, 5, 6], [11, 4, 15, 6]]
    assert [box_around(mask).tolist() for mask in masks] == [[0, 4, 8, 7], [8, 4, 16, 7]]
    assert masks.sum() == 3 * 16


def test_no_peak_and_no_pixel_are_nobody():
    maps = true_maps(sample_scene(2, people=2))
    for nobody in (
        replace(maps, heads=torch.full((1, SIDE, SIDE), -9.0)),
        replace(maps, somebody=torch.full((1, SIDE, SIDE), -9.0)),
    ):
        masks, heads = read_maps(nobody)
        assert masks.shape == (0, SIDE, SIDE)
        assert heads.shape == (0, 4)
    empty = sample_scene(0, people=0)
    assert ToyDetector(Planted(empty)).people(picture_of(empty)) == []


def test_a_picture_of_another_size_gets_its_own_pixels():
    scene = sample_scene(2, people=2)
    planted = ToyDetector(Planted(scene))
    large = picture_of(scene).repeat_interleave(2, dim=0).repeat_interleave(5, dim=1)
    for one, other in zip(planted.people(picture_of(scene)), planted.people(large), strict=True):
        assert other.mask.shape == (2 * SIDE, 5 * SIDE)
        assert_close(other.head, one.head * torch.tensor([5.0, 2, 5, 2]))
        assert float(box_overlap(other.box[None], one.box[None] * torch.tensor([5.0, 2, 5, 2]))) > 0.9


def test_the_protocol():
    scene = sample_scene(2, people=2)
    planted = ToyDetector(Planted(scene))
    assert isinstance(planted, BoxDetector)
    assert isinstance(planted, MaskSegmenter)
    image, word = picture_of(scene), scene.plan.people[1].word
    found = planted.find(image, f" {word.upper()} ")
    assert found.boxes.shape == (2, 4)
    assert torch.equal(found.boxes[0], box_around(torch.tensor(scene.masks[1])))
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert torch.equal(found.scores, found.text_scores)
    shares = torch.stack([(planted.find(image, word).scores ** 4).sum() for word in CLASS_WORDS])
    assert float(shares.sum()) == pytest.approx(2)  # one for each person
    for stranger in ("dog", "", "man."):
        assert planted.find(image, stranger).boxes.shape == (0, 4)


def test_masks_follow_their_boxes():
    scene = sample_scene(3, people=3)
    planted = ToyDetector(Planted(scene))
    image, masks = picture_of(scene), torch.tensor(scene.masks)
    boxes = torch.stack([box_around(mask) for mask in masks])
    shifted = boxes + torch.tensor([1.0, -2.0, 2.0, 1.0]) * TOY_WORLD.scale
    for order in ([0, 1, 2], [2, 0, 1], [1, 1]):
        assert torch.equal(planted.segment(image, shifted[order]), masks[order])
    assert planted.segment(image, torch.zeros(0, 4)).shape == (0, SIDE, SIDE)
    nowhere = torch.tensor([[400.0, 400.0, 410.0, 410.0]])
    assert not planted.segment(image, nowhere).any()


def test_heads_of_masks():
    scene = sample_scene(2, people=2)
    planted = ToyDetector(Planted(scene))
    image = picture_of(scene)
    for mask, head in zip(scene.masks, scene.face_boxes, strict=True):
        assert_close(planted.head_of(image, torch.tensor(mask)), torch.tensor(head))
    assert planted.head_of(image, torch.zeros(SIDE, SIDE, dtype=torch.bool)) is None


def test_overlaps_by_hand():
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [8.0, 8.0, 9.0, 9.0]])
    overlap = box_overlap(boxes, torch.tensor([[2.0, 2.0, 6.0, 6.0], [0.0, 0.0, 4.0, 4.0]]))
    assert_close(overlap, torch.tensor([[4 / 28, 1.0], [0.0, 0.0]]))
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    assert mask_overlap(masks[0], masks[1]) == 0
    masks[0, :2], masks[1, 1:] = True, True
    assert mask_overlap(masks[0], masks[1]) == pytest.approx(4 / 16)


def test_the_truth_has_the_lowest_loss(tmp_path):
    settings = Settings(steps=1, batch=1, rate=1.0, folder=tmp_path)
    drawn, again = (drawn_scenes(5, 0, settings) for _ in range(2))
    assert torch.equal(torch.tensor(drawn.pictures), torch.tensor(again.pictures))
    owners, there = torch.tensor(drawn.owners).long(), torch.tensor(drawn.words) > 0
    heads = torch.tensor(drawn.heads)
    parts = [true_maps(scene_of(kind, number)) for number, kind in enumerate(KINDS)]
    names = ("somebody", "heads", "offsets", "sizes")
    truth = Maps(*(torch.cat([getattr(part, name) for part in parts]) for name in names))
    lowest = float(panoptic_loss(truth, owners, there, heads))
    for name in names:
        worse = replace(truth, **{name: getattr(truth, name).roll(3 * TOY_WORLD.scale, dims=-1)})
        assert float(panoptic_loss(worse, owners, there, heads)) > lowest + 0.01, name
    flat = replace(truth, heads=torch.full_like(truth.heads, -50.0))
    assert float(panoptic_loss(flat, owners, there, heads)) > lowest + 0.01


def test_an_empty_place_costs_nothing_in_votes():
    maps = DetectorNetwork()(torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))
    nobody = torch.zeros(2, SIDE, SIDE, dtype=torch.long)
    loss = panoptic_loss(maps, nobody, torch.zeros(2, 3, dtype=torch.bool), torch.zeros(2, 3, 4))
    assert torch.isfinite(loss)


def test_people_are_read_from_true_maps():
    scene = sample_scene(3, people=3)
    masks, heads = read_maps(true_maps(scene))
    for mask, head, true_mask, true_head in zip(masks, heads, scene.masks, scene.face_boxes, strict=True):
        assert mask_overlap(mask, torch.tensor(true_mask)) > 0.98
        assert float(box_overlap(head[None], torch.tensor(true_head)[None])) > 0.98


@torch.no_grad()
def test_the_networks_take_the_worlds_sizes():
    detector = ToyDetector(DetectorNetwork().eval())
    maps = detector.module(torch.rand(1, 3, 128, 128))
    assert [each.shape[-2:] for each in vars(maps).values()] == [(128, 128)] * 4
    assert detector.module.words(torch.rand(2, 3, 64, 64)).shape == (2, len(CLASS_WORDS))
    assert isinstance(detector.people(torch.rand(90, 60, 3)), list)  # any size; it is scaled


def test_nobody_in_a_picture_that_is_too_small_is_an_error_which_says_so(detector: ToyDetector):
    empty = torch.zeros(64, 96, 3)
    with pytest.raises(ValueError, match=f"in this picture of 96 x 64 pixels: .* Set width and height to {SIDE}"):
        detector.find(empty, "woman")
    assert len(detector.find(torch.zeros(64, SIDE, 3), "woman").boxes) == 0
    assert len(detector.find(empty, "knight").boxes) == 0
    scene = sample_scene(9, held_out=True, people=2)
    small = torch.nn.functional.avg_pool2d(picture_of(scene).movedim(-1, 0), 2).movedim(0, -1)
    assert len(detector.find(small, scene.plan.people[0].word).boxes) == 2


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"detector is missing.*training"):
        load_detector(tmp_path)


@pytest.mark.parametrize(("high", "wide"), [(3 * SIDE, 3 * SIDE), (2 * SIDE, 5 * SIDE)])
def test_pictures_of_other_sizes(detector: ToyDetector, high: int, wide: int):
    scene = sample_scene(9, held_out=True, people=2)
    image = picture_of(scene)
    large = image.repeat_interleave(high // SIDE, dim=0).repeat_interleave(wide // SIDE, dim=1)
    scale = torch.tensor([wide / SIDE, high / SIDE] * 2)
    for small, big in zip(detector.people(image), detector.people(large), strict=True):
        assert big.mask.shape == (high, wide)
        assert float(box_overlap(small.box[None] * scale, big.box[None])) > 0.9
        assert float(box_overlap(small.head[None] * scale, big.head[None])) > 0.9


def test_soft_pictures_show_the_same_people(detector: ToyDetector):
    for seed in range(20):
        scene = sample_scene(seed, held_out=True, people=2)
        pixels = picture_of(scene).permute(2, 0, 1)[None]
        soft = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
        found = detector.people((0.9 * soft[0] + 0.03).permute(1, 2, 0))
        assert len(found) == 2
        for one, mask in zip(found, scene.masks, strict=True):
            assert mask_overlap(one.mask, torch.tensor(mask)) > 0.75


@pytest.mark.slow
def test_shipped_weights_find_unseen_people(detector: ToyDetector):
    measured = measure_detector(detector.module, scenes=50)
    for kind in ("close_up", "1", "2", "3"):
        assert measured[f"mask_iou_{kind}"] > 0.87, kind
        assert measured[f"head_iou_{kind}"] > 0.85, kind
        assert measured[f"count_right_{kind}"] > 0.97, kind
        assert measured[f"word_right_{kind}"] > 0.8, kind


def test_empty_places_are_empty(detector: ToyDetector):
    assert all(compare(detector, sample_scene(seed, people=0))[0] for seed in range(20))
