"""The toy detector: trained on drawn scenes, where every mask is known."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from ....core.toyworld.detector import DetectorNetwork, Maps, ToyDetector, box_overlap, mask_overlap
from ....core.toyworld.identity_encoder import face_crops
from ....core.toyworld.sizes import TOY_WORLD
from ....core.toyworld.vocabulary import CLASS_WORDS
from ...step_random import StepRandom
from ..people import sample_person
from ..world import Scene, draw, portrait_plan, sample_scene
from .augmentation import augment, jitter
from .starting_weights import start_from_weights
from .train_network import Settings, train

SCENES = 10_000
KINDS = ("any", "1", "2", "3", "close_up")
"""What the scenes show, in turn: so many people, somebody close up, or what the world shows by chance."""
PEAK_SPREAD = 2.0
"""Deviation of the heat around a head's middle, in units of which a picture is 64 wide."""
HEAT_WEIGHT = 20.0
_MOST = 3
_CHUNK = 250


@dataclass(frozen=True)
class Drawn:
    """Scenes and what is true of them; where a scene has fewer than three people, their rows are 0.

    Args:
        pictures: `(n, side, side, 3)` uint8.
        owners: `(n, side, side)` uint8: 0 nobody, 1 the first person, ...
        words: `(n, 3)` int64: 0 for no such person, else 1 + the number of the class word.
        heads: `(n, 3, 4)` float32: boxes.
    """

    pictures: np.ndarray
    owners: np.ndarray
    words: np.ndarray
    heads: np.ndarray


def train_detector(settings: Settings) -> tuple[DetectorNetwork, list[float]]:
    """Train on augmented scenes: the maps (`panoptic_loss`) and the word reader (`words_loss`)."""
    torch.manual_seed(settings.seed)
    network = DetectorNetwork()
    start_from_weights(network, "detector", settings)
    network.to(settings.device)
    drawn = drawn_scenes(SCENES, settings.seed + 3, settings)

    def loss(random: StepRandom) -> Tensor:
        chosen = np.sort(random.numpy.choice(len(drawn.pictures), settings.batch, replace=False))
        pixels = torch.from_numpy(drawn.pictures[chosen]).permute(0, 3, 1, 2).float() / 255
        pixels = augment(pixels, random).to(settings.device)
        owners = torch.from_numpy(drawn.owners[chosen].astype(np.int64)).to(settings.device)
        words = torch.from_numpy(drawn.words[chosen]).to(settings.device)
        heads = torch.from_numpy(drawn.heads[chosen]).to(settings.device)
        with settings.autocast():
            maps = network(pixels)
        value = panoptic_loss(maps, owners, words > 0, heads)
        return value + words_loss(network, pixels, heads, words, random, settings) if words.any() else value

    history = train("detector", network, loss, settings)
    return network.eval(), history


def words_loss(
    network: DetectorNetwork, pictures: Tensor, heads: Tensor, words: Tensor, random: StepRandom, settings: Settings
) -> Tensor:
    """How badly the words of everybody in pictures are read; axes as in `Drawn`, and at least one person.

    Heads are cut out as a detector would find them, not quite in place.
    """
    crops = [
        face_crops(picture.permute(1, 2, 0), jitter(boxes[own], random), TOY_WORLD.crop_side)
        for picture, boxes, own in zip(pictures, heads, words > 0, strict=True)
        if own.any()
    ]
    with settings.autocast():
        logits = network.words(torch.cat(crops))
    return cross_entropy(logits, words[words > 0] - 1)


def panoptic_loss(maps: Maps, owners: Tensor, there: Tensor, heads: Tensor) -> Tensor:
    """What the maps get wrong: people and heads by cross entropy, votes and sizes by distance.

    Args:
        maps: The maps of n pictures.
        owners: `(n, h, w)` int64, as `Drawn.owners`.
        there: `(n, people)` bool: which people there are.
        heads: `(n, people, 4)`, as `Drawn.heads`.
    """
    middles, halves = (heads[..., :2] + heads[..., 2:]) / 2, (heads[..., 2:] - heads[..., :2]) / 2
    side = owners.shape[-1]
    spread, unit = PEAK_SPREAD * side / 64, side / 4
    places = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy")).to(heads) + 0.5
    away = middles[..., None, None] - places  # (n, people, 2, h, w): from every pixel to every head
    near = torch.exp(-away.square().sum(dim=2) / (2 * spread**2)) * there[..., None, None]
    heat, whose_head = near.max(dim=1)
    at_head, somebody = heat > 0.5, owners > 0
    votes = _of(owners.sub(1).clamp(min=0), away)
    sizes = _of(whose_head, halves[..., None, None].expand_as(away))
    return (
        binary_cross_entropy_with_logits(maps.somebody, somebody.float())
        + HEAT_WEIGHT * binary_cross_entropy_with_logits(maps.heads, heat)
        + _mean((maps.offsets - votes).abs().mean(dim=1), somebody) / unit
        + _mean((maps.sizes - sizes).abs().mean(dim=1), at_head) / unit
    )


def _of(whose: Tensor, values: Tensor) -> Tensor:
    """From values `(n, people, 2, h, w)`, those of one person per pixel, `whose` `(n, h, w)`: `(n, 2, h, w)`."""
    return values.gather(1, whose[:, None, None].expand(-1, 1, 2, -1, -1))[:, 0]


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """The mean over some pixels; 0 if there are none."""
    return (values * where).sum() / where.sum().clamp(min=1)


def drawn_scenes(count: int, seed: int, settings: Settings) -> Drawn:
    """Rendered once and kept in the settings' folder."""
    folder = settings.folder
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"drawn_{seed}_{count}_{part}.npy" for part in ("pictures", "owners", "words", "heads")]
    if not all(path.is_file() for path in paths):
        with ProcessPoolExecutor() as pool:
            parts = zip(*pool.map(partial(_chunk, count, seed), range(0, count, _CHUNK)), strict=True)
            for path, arrays in zip(paths, parts, strict=True):
                np.save(path, np.concatenate(arrays))
    return Drawn(*(np.load(path, mmap_mode="r") for path in paths))


def _chunk(count: int, seed: int, start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    numbers = range(start, min(start + _CHUNK, count))
    scenes = [scene_of(KINDS[number % len(KINDS)], seed * 10_000_019 + number) for number in numbers]
    owners = np.zeros((len(scenes), TOY_WORLD.picture_side, TOY_WORLD.picture_side), np.uint8)
    words, heads = np.zeros((len(scenes), _MOST), np.int64), np.zeros((len(scenes), _MOST, 4), np.float32)
    for row, scene in enumerate(scenes):
        for person, mask in enumerate(scene.masks):
            owners[row][mask] = person + 1
            words[row, person] = 1 + CLASS_WORDS.index(scene.plan.people[person].word)
            heads[row, person] = scene.face_boxes[person]
    return np.stack([scene.image for scene in scenes]), owners, words, heads


def measure_detector(network: DetectorNetwork, scenes: int = 200, seed: int = 7_000_003) -> dict[str, float]:
    """How well people never shown in training are found, for scenes of 1, 2 and 3 people and for close-ups.

    Args:
        network: Trained.
        scenes: The number of scenes of each kind.
        seed: The seed of the first scene.

    Returns:
        Per kind: the share of scenes with the right number of people; and over all people, of whom those not found
        count 0, the mean intersection over union of masks and of head boxes, and the share with the right word.
    """
    detector = ToyDetector(network)
    measured = {}
    for kind in KINDS[1:]:
        counted, people = [], []
        for number in range(scenes):
            scene = scene_of(kind, seed + number, held_out=True)
            right, rows = compare(detector, scene)
            counted.append(right)
            people += rows
        iou, head_iou, word = np.mean(people, axis=0).tolist()
        measured |= {f"count_right_{kind}": float(np.mean(counted)), f"mask_iou_{kind}": iou}
        measured |= {f"head_iou_{kind}": head_iou, f"word_right_{kind}": word}
    return measured


def scene_of(kind: str, seed: int, held_out: bool = False) -> Scene:
    """The scene of a seed, of one of `KINDS`."""
    if kind != "close_up":
        return sample_scene(seed, held_out, None if kind == "any" else int(kind))
    random = np.random.default_rng(seed)
    return draw(portrait_plan(sample_person(random, held_out)), random)


def compare(detector: ToyDetector, scene: Scene) -> tuple[bool, list[tuple[float, float, bool]]]:
    """Whether the number of people is right, and for each: mask and head overlap with who was found, the right word."""
    found = detector.people(torch.tensor(scene.image).float() / 255)
    rows = []
    for person, mask, head in zip(scene.plan.people, scene.masks, scene.face_boxes, strict=True):
        truth, box = torch.tensor(mask), torch.tensor(head)[None]
        best = max(found, key=lambda one: mask_overlap(one.mask, truth), default=None)
        if best is None:
            rows.append((0.0, 0.0, False))
            continue
        right = CLASS_WORDS[int(best.words.argmax())] == person.word
        rows.append((mask_overlap(best.mask, truth), float(box_overlap(box, best.head[None])), right))
    return len(found) == len(scene.plan.people), rows
