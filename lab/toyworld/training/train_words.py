"""Trains the detector's word reader further, on pictures of the base model.

The base model's people are softer than drawn ones, and a network that has only seen drawings mistakes its women for
men. So the part of the detector that reads class words also sees the base model's pictures, with the words that their
captions ask for; everything else in it stays as it is.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ....core.toyworld.detector import DetectorNetwork, ToyDetector
from ....core.toyworld.identity_encoder import face_crops
from ....core.toyworld.sizes import TOY_WORLD
from ....core.toyworld.vae import ToyVAE
from ....core.toyworld.vocabulary import CLASS_WORDS, tokenize
from ...step_random import StepRandom
from ..world import sample_scene
from .augmentation import augment, jitter
from .cached_tensors import cached
from .drawn_latents import draw_latents
from .train_base import BaseModel
from .train_detector import Drawn, drawn_scenes, words_loss
from .train_network import Settings, train

PICTURES = 1_536
BATCH = 64
HELD_BACK = 0.15
"""Share of the generated pictures that only measure."""
_FIRST_SCENE = 6_000_000_007


@dataclass(frozen=True)
class Faces:
    """Heads found in generated pictures: pictures `(n, 3, h, w)` in [0, 1], boxes `(n, 4)`, words `(n,)` int64."""

    pictures: Tensor
    boxes: Tensor
    words: Tensor


def teach_words(
    network: DetectorNetwork, base: BaseModel, vae: ToyVAE, settings: Settings
) -> tuple[list[float], dict[str, float]]:
    """Train the word reader, in place, on as many generated heads as drawn ones.

    Returns:
        The losses, and how often the word was right of generated heads that were held back, before and after.
    """
    faces = generated_faces(network, base, vae, settings)
    held_back = int(len(faces.words) * HELD_BACK)
    before = share_right(network, faces, held_back)
    network.requires_grad_(False)
    network.face.requires_grad_(True)
    drawn = drawn_scenes(2_000, settings.seed + 11, settings)

    def loss(random: StepRandom) -> Tensor:
        chosen = torch.from_numpy(random.numpy.integers(held_back, len(faces.words), settings.batch))
        boxes = jitter(faces.boxes[chosen], random)
        logits = network.words(_crops(network, faces.pictures[chosen], boxes))
        return cross_entropy(logits, faces.words[chosen]) + _drawn_loss(network, drawn, settings, random)

    history = train("words", network, loss, settings)
    network.eval().requires_grad_(False)
    return history, {
        "generated": float(held_back),
        "word_right_generated_before": before,
        "word_right_generated": share_right(network, faces, held_back),
    }


def _drawn_loss(network: DetectorNetwork, drawn: Drawn, settings: Settings, random: StepRandom) -> Tensor:
    chosen = np.sort(random.numpy.choice(len(drawn.pictures), settings.batch, replace=False))
    pixels = augment(torch.from_numpy(drawn.pictures[chosen]).permute(0, 3, 1, 2).float() / 255, random)
    words, heads = torch.from_numpy(drawn.words[chosen]), torch.from_numpy(drawn.heads[chosen])
    return words_loss(network, pixels, heads, words, random, settings)


@torch.no_grad()
def share_right(network: DetectorNetwork, faces: Faces, count: int) -> float:
    """How often the likeliest word is the caption's, among the first `count` faces."""
    network.eval()
    read = network.words(_crops(network, faces.pictures[:count], faces.boxes[:count])).argmax(dim=1)
    return float((read == faces.words[:count]).float().mean())


def _crops(network: DetectorNetwork, pictures: Tensor, boxes: Tensor) -> Tensor:
    pairs, side = zip(pictures, boxes, strict=True), TOY_WORLD.crop_side
    return torch.cat([face_crops(picture.permute(1, 2, 0), box[None], side) for picture, box in pairs])


def generated_faces(network: DetectorNetwork, base: BaseModel, vae: ToyVAE, settings: Settings) -> Faces:
    """Heads in the base model's pictures with as many people as their captions, which name them from left to right."""
    numbers = range(PICTURES)
    scenes = [sample_scene(_FIRST_SCENE + each, people=1 + each % 2) for each in numbers]
    pictures = generate(base.eval(), vae, [scene.caption for scene in scenes], settings)
    detector = ToyDetector(network.eval())
    rows: list[tuple[Tensor, Tensor, int]] = []
    for scene, picture in zip(scenes, pictures, strict=True):
        found = detector.people(picture.permute(1, 2, 0))
        if len(found) == len(scene.plan.people):
            words = [CLASS_WORDS.index(person.word) for person in scene.plan.people]
            rows += [(picture, each.head, word) for each, word in zip(found, words, strict=True)]
    drawn, boxes, words = zip(*rows, strict=True)
    return Faces(torch.stack(drawn), torch.stack(boxes), torch.tensor(words))


@torch.no_grad()
def generate(base: BaseModel, vae: ToyVAE, captions: list[str], settings: Settings) -> Tensor:
    """Pictures `(n, 3, side, side)` in [0, 1] for captions; kept on disk."""

    def make() -> Tensor:
        random, parts = torch.Generator().manual_seed(settings.seed), []
        for start in range(0, len(captions), BATCH):
            part = captions[start : start + BATCH]
            tokens = torch.tensor([tokenize(caption, TOY_WORLD.text_length) for caption in part])
            parts.append((vae.decode(draw_latents(base, base.text(tokens)[0], random)) / 2 + 0.5).clamp(0, 1))
        return torch.cat(parts)

    return cached(settings.folder, f"generated_{len(captions)}_{settings.seed}", make, base, vae)
