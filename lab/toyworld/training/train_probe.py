"""The probe that reads pictures for the measurements: trained on drawn scenes, where every answer is known."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ....core.toyworld.sizes import TOY_WORLD
from ...step_random import StepRandom
from ..probe import ATTRIBUTES, PERSON, SCENE, Probe, answers_of_person, answers_of_scene, split
from ..world import Scene, sample_scene
from .augmentation import augment
from .starting_weights import start_from_weights
from .train_network import Settings, train

SCENES = 10_000
PEOPLE = (1, 2)
"""How many people the scenes show, in turn."""
ASKS_SCENE = 0.4
"""Share of questions about the scene; the others are about one of the people."""
_CHUNK = 250


def train_probe(settings: Settings) -> tuple[Probe, list[float]]:
    """Train by the cross entropy of every answer that was asked for."""
    torch.manual_seed(settings.seed)
    network = Probe()
    start_from_weights(network, "probe", settings)
    network.to(settings.device)
    pictures, owners, answers = drawn_scenes(SCENES, settings.seed + 5, settings)

    def loss(random: StepRandom) -> Tensor:
        chosen = np.sort(random.numpy.choice(len(pictures), settings.batch, replace=False))
        who = random.numpy.integers(1, 1 + owners[chosen].max(axis=(1, 2)))
        asks_scene = random.numpy.random(len(chosen)) < ASKS_SCENE
        masks = torch.from_numpy(owners[chosen] == np.where(asks_scene, 255, who)[:, None, None])[:, None].float()
        right = torch.from_numpy(answers[chosen, who - 1]).to(settings.device)
        pixels = torch.from_numpy(np.array(pictures[chosen])).permute(0, 3, 1, 2).float() / 255
        pixels = augment(pixels, random).to(settings.device)
        with settings.autocast():
            logits = network(pixels, masks.to(settings.device))
        about_scene = torch.from_numpy(asks_scene).to(settings.device)
        return answer_loss(logits, right, about_scene)

    return network, train("probe", network, loss, settings)


def answer_loss(logits: Tensor, right: Tensor, about_scene: Tensor) -> Tensor:
    """Mean over questions of the sum of the cross entropies of what was asked.

    Args:
        logits: `(n, k)`, of `Probe`.
        right: `(n, attributes)` int64, in the order of `ATTRIBUTES`.
        about_scene: `(n,)` bool: whether `SCENE` was asked about, or `PERSON`.
    """
    total = logits.new_zeros(())
    for number, (name, part) in enumerate(zip(ATTRIBUTES, split(logits), strict=True)):
        asked = about_scene if name in SCENE else ~about_scene
        total = total + cross_entropy(part[asked], right[asked, number], reduction="sum")
    return total / len(logits)


def drawn_scenes(count: int, seed: int, settings: Settings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rendered once and kept in the folder: pictures, owners (0 nobody, 1 the first person, ...) and answers.

    The answers are `(count, people, attributes)`, numbers of options; where there is no second person, the first's.
    """
    folder = settings.folder
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"probed_{seed}_{count}_{part}.npy" for part in ("pictures", "owners", "answers")]
    if not all(path.is_file() for path in paths):
        with ProcessPoolExecutor() as pool:
            parts = zip(*pool.map(partial(_chunk, count, seed), range(0, count, _CHUNK)), strict=True)
            for path, arrays in zip(paths, parts, strict=True):
                np.save(path, np.concatenate(arrays))
    pictures, owners, answers = (np.load(path, mmap_mode="r") for path in paths)
    return pictures, owners, answers


def _chunk(count: int, seed: int, start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    numbers = range(start, min(start + _CHUNK, count))
    scenes = [sample_scene(seed * 10_000_019 + number, people=PEOPLE[number % len(PEOPLE)]) for number in numbers]
    owners = np.zeros((len(scenes), TOY_WORLD.picture_side, TOY_WORLD.picture_side), np.uint8)
    for row, scene in enumerate(scenes):
        for person, mask in enumerate(scene.masks, start=1):
            owners[row][mask] = person
    answers = np.stack(
        [[_answers(scene, person % len(scene.masks)) for person in range(max(PEOPLE))] for scene in scenes]
    )
    return np.stack([scene.image for scene in scenes]), owners, answers


def _answers(scene: Scene, person: int) -> list[int]:
    plan = scene.plan
    true = answers_of_scene(plan) | answers_of_person(plan.people[person], plan.poses[person])
    return [options.index(true[name]) for name, options in ATTRIBUTES.items()]


def measure_probe(network: Probe, scenes: int = 400, seed: int = 8_000_009) -> dict[str, float]:
    """How often each attribute is read right from drawings of people never shown in training."""
    network = network.eval().cpu()
    right: dict[str, list[bool]] = {name: [] for name in ATTRIBUTES}
    for number in range(scenes):
        scene = sample_scene(seed + number, held_out=True, people=PEOPLE[number % len(PEOPLE)])
        image = torch.tensor(scene.image).float() / 255
        true, read = answers_of_scene(scene.plan), network.read_scene(image)
        for name in SCENE:
            right[name].append(read[name] == true[name])
        for person, pose, mask in zip(scene.plan.people, scene.plan.poses, scene.masks, strict=True):
            true, read = answers_of_person(person, pose), network.read_person(image, torch.from_numpy(mask))
            for name in PERSON:
                right[name].append(read[name] == true[name])
    return {name: float(np.mean(values)) for name, values in right.items()}
