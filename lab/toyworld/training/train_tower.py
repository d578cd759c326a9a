"""The identity encoder of the identity generator: a vision tower that learns to tell people apart.

It learns by NT-Xent (Chen et al. 2020, arXiv:2002.05709) among people whose captions are the same, so that its
embeddings have a geometry for the SVD to filter. A recipe may add VICReg's terms, which spread the embeddings over all
directions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, normalize, relu
from transformers import CLIPVisionConfig, CLIPVisionModel

from ....core.photomaker import FuseModule, look_at
from ....core.shapes import Float
from ....core.toyworld.sizes import TOY_WORLD
from ....core.toyworld.vocabulary import CLASS_WORDS, HAIR_COLOURS
from ...step_random import StepRandom
from ..people import Person, sample_person
from ..world import draw, portrait_plan
from .recipes import RECIPE
from .rendered_scenes import to_pixels
from .train_network import Settings, train

TEMPERATURE = 0.1


class IdEncoder(nn.Module):
    """The vision tower with its two projections, and the fuse module; keys as in PhotoMaker v1's `id_encoder`."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.side, width = TOY_WORLD.picture_side, TOY_WORLD.text_width
        sizes: Mapping[str, Any] = RECIPE.tower
        tower = CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=self.side, projection_dim=width // 2))
        self.vision_model = getattr(tower, "vision_model", tower)
        self.visual_projection = nn.Linear(sizes["hidden_size"], width // 2, bias=False)
        self.visual_projection_2 = nn.Linear(sizes["hidden_size"], width - width // 2, bias=False)
        self.fuse_module = FuseModule(width)

    def embed(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Embeddings, as wide as the text's, of pictures of the world's size in [-1, 1]."""
        seen = look_at(((pixels + 1) / 2).permute(0, 2, 3, 1), self.side)
        pooled = self.vision_model(seen).pooler_output
        return torch.cat([self.visual_projection(pooled), self.visual_projection_2(pooled)], dim=-1)


def train_tower(settings: Settings) -> tuple[IdEncoder, list[float]]:
    """Two portraits of a person agree, portraits of people with the same caption do not."""
    encoder, spread = IdEncoder(settings.seed).to(settings.device), RECIPE.spread
    encoder.fuse_module.requires_grad_(False)

    def loss(random: StepRandom) -> Tensor:
        people = similar_people(settings.batch, random.numpy)
        drawn = portraits_of((*people, *people), random.numpy)
        with settings.autocast():
            embeddings = encoder.embed(augment_portraits(to_pixels(drawn).to(settings.device), random)).float()
        units = normalize(embeddings, dim=-1)
        likeness = units @ units.T / TEMPERATURE
        likeness = likeness.masked_fill(torch.eye(len(drawn), dtype=torch.bool, device=likeness.device), -1e4)
        partner = torch.arange(len(drawn), device=likeness.device).roll(len(people))
        value = cross_entropy(likeness, partner)
        return value + spread * spread_loss(embeddings) if spread else value

    return encoder, train("tower", encoder, loss, settings)


def spread_loss(embeddings: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """How far embeddings are from equally strong, uncorrelated directions.

    The variance and covariance terms of VICReg (Bardes et al. 2022, arXiv:2105.04906, equations 1 to 4), of the
    embeddings scaled to length sqrt(d), so that their scale does not matter; an even spread has a deviation of 1.
    """
    scaled = normalize(embeddings, dim=-1) * embeddings.shape[1] ** 0.5
    centred = scaled - scaled.mean(dim=0)
    covariance = centred.T @ centred / (len(centred) - 1)
    deviations = (covariance.diagonal() + 1e-4).sqrt()
    correlated = covariance - torch.diag(covariance.diagonal())
    return relu(1 - deviations).mean() + correlated.square().sum() / embeddings.shape[1]


@torch.no_grad()
def measure_tower(encoder: IdEncoder, people: int = 400, seed: int = 3_000_017) -> dict[str, float]:
    """The spectrum of the embeddings of portraits of people never shown in training, one portrait each.

    Returns:
        The share of the variance that the ten strongest directions hold, and how many directions there are in effect:
        the exponential of the entropy of the variances' shares (Roy and Vetterli 2007).
    """
    random = np.random.default_rng(seed)
    looks = [sample_person(random, held_out=True) for _ in range(people)]
    encoder = encoder.eval().cpu()
    pictures = to_pixels(portraits_of(looks, random))
    embeddings = torch.cat([encoder.embed(part) for part in pictures.split(50)])
    strengths = torch.linalg.svdvals(embeddings - embeddings.mean(dim=0)).square()
    shares = strengths / strengths.sum()
    entropy = -(shares * shares.clamp(min=1e-12).log()).sum()
    return {"variance_of_ten": float(shares[:10].sum()), "directions": float(entropy.exp())}


def augment_portraits(pixels: Tensor, random: StepRandom) -> Tensor:
    """Portraits as a generator draws them: a little blurred and noisy, brighter or darker."""
    n, _, high, wide = pixels.shape
    share = torch.from_numpy(random.numpy.random((n, 1, 1, 1)).astype(np.float32)).to(pixels.device)
    small = interpolate(pixels, scale_factor=0.5, mode="area")
    blurred = interpolate(small, size=(high, wide), mode="bilinear", align_corners=False)
    light = torch.from_numpy(random.numpy.uniform(0.9, 1.1, (n, 1, 1, 1)).astype(np.float32)).to(pixels.device)
    noise = random.normal(*pixels.shape).to(pixels.device) * 0.05
    return ((pixels + 0.8 * share * (blurred - pixels)) * light + noise).clamp(-1, 1)


def portraits_of(people: Sequence[Person], random: np.random.Generator) -> np.ndarray:
    """A portrait `(n, side, side, 3)` uint8 of each."""
    return np.stack([draw(portrait_plan(person), random).image for person in people])


def similar_people(count: int, random: np.random.Generator, held_out: bool = False) -> list[Person]:
    """People of whom half share a caption with the first."""
    words = {"word": str(random.choice(CLASS_WORDS)), "hair": str(random.choice(HAIR_COLOURS))}
    same = [sample_person(random, held_out, **words) for _ in range(count // 2)]
    return same + [sample_person(random, held_out) for _ in range(count - len(same))]
