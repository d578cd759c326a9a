"""The identity-preserving generator, in the form of PhotoMaker (Li et al. 2024): vision tower, fuse module and LoRA.

Two stages. The tower first learns to tell people apart whose captions are the same (NT-Xent, Chen et al. 2020), so that
its embeddings have a geometry for the SVD to filter. Then tower, fuse module and LoRA learn to draw the person of some
portraits into a scene: the class word's text embedding is replaced by its fusion with the portraits' mean embedding.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, normalize
from transformers import CLIPVisionConfig, CLIPVisionModel

from ....core.photomaker import FuseModule, look_at
from ....core.toyworld.models import LATENT_RATIO, PICTURE_SIDE, TEXT_LENGTH, TEXT_WIDTH
from ....core.toyworld.vae import ToyVAE
from ....core.toyworld.vocabulary import CLASS_WORDS, HAIR_COLOURS, tokenize, vocabulary
from ...step_random import StepRandom
from ..people import Person, sample_person
from ..plan import Plan
from ..world import draw, portrait_plan, sample_plan
from .cached_tensors import read_cached, write_cached
from .rendered_scenes import to_pixels
from .train_base import BaseModel, Diffusion
from .train_network import Settings, train

TOWER = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 8,
    "image_size": PICTURE_SIDE,
    "hidden_act": "quick_gelu",
    "projection_dim": TEXT_WIDTH // 2,
}
RANK = 32
TEMPERATURE = 0.1
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
PEOPLE = 12_000
"""Identities that are drawn once for the second stage."""


class IdEncoder(nn.Module):
    """The vision tower with its two projections, and the fuse module; keys as in PhotoMaker v1's `id_encoder`."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        tower = CLIPVisionModel(CLIPVisionConfig(**TOWER))
        self.vision_model = getattr(tower, "vision_model", tower)
        half = TEXT_WIDTH // 2
        self.visual_projection = nn.Linear(TOWER["hidden_size"], half, bias=False)
        self.visual_projection_2 = nn.Linear(TOWER["hidden_size"], TEXT_WIDTH - half, bias=False)
        self.fuse_module = FuseModule(TEXT_WIDTH)

    def embed(self, pixels: Tensor) -> Tensor:
        """Embeddings `(n, 128)` of pictures `(n, 3, 64, 64)` in [-1, 1]."""
        seen = look_at(((pixels + 1) / 2).permute(0, 2, 3, 1), PICTURE_SIDE)
        pooled = self.vision_model(seen).pooler_output
        return torch.cat([self.visual_projection(pooled), self.visual_projection_2(pooled)], dim=-1)


def augment_portraits(pixels: Tensor, random: StepRandom) -> Tensor:
    """Portraits as a generator draws them: a little blurred and noisy, brighter or darker."""
    n, _, high, wide = pixels.shape
    share = torch.from_numpy(random.numpy.random((n, 1, 1, 1)).astype(np.float32)).to(pixels.device)
    small = interpolate(pixels, scale_factor=0.5, mode="area")
    blurred = interpolate(small, size=(high, wide), mode="bilinear", align_corners=False)
    light = torch.from_numpy(random.numpy.uniform(0.9, 1.1, (n, 1, 1, 1)).astype(np.float32)).to(pixels.device)
    noise = random.normal(*pixels.shape).to(pixels.device) * 0.05
    return ((pixels + 0.8 * share * (blurred - pixels)) * light + noise).clamp(-1, 1)


def portrait(person: Person, random: np.random.Generator) -> np.ndarray:
    return draw(portrait_plan(person), random).image


def train_tower(settings: Settings) -> tuple[IdEncoder, list[float]]:
    """Stage one: two portraits of a person agree, portraits of people with the same caption do not."""
    encoder = IdEncoder(settings.seed).to(settings.device)
    encoder.fuse_module.requires_grad_(False)

    def loss(random: StepRandom) -> Tensor:
        people = similar_people(settings.batch, random.numpy)
        drawn = np.stack([portrait(person, random.numpy) for person in (*people, *people)])
        embeddings = normalize(encoder.embed(augment_portraits(to_pixels(drawn).to(settings.device), random)), dim=-1)
        likeness = embeddings @ embeddings.T / TEMPERATURE
        likeness = likeness.masked_fill(torch.eye(len(drawn), dtype=torch.bool, device=likeness.device), -1e4)
        partner = torch.arange(len(drawn), device=likeness.device).roll(len(people))
        return cross_entropy(likeness, partner)

    return encoder, train("tower", encoder, loss, settings)


def similar_people(count: int, random: np.random.Generator, held_out: bool = False) -> list[Person]:
    """People of whom half share a caption with the first."""
    words = {"word": str(random.choice(CLASS_WORDS)), "hair": str(random.choice(HAIR_COLOURS))}
    same = [sample_person(random, held_out, **words) for _ in range(count // 2)]
    return same + [sample_person(random, held_out) for _ in range(count - len(same))]


@dataclass(frozen=True)
class Examples:
    """What stage two learns from, a row per scene: latent, caption, whom to draw, where, and how they look."""

    latents: Tensor
    tokens: Tensor
    positions: Tensor
    masks: Tensor
    portraits: Tensor


def draw_examples(vae: ToyVAE, settings: Settings, count: int = PEOPLE) -> Examples:
    """Draw scenes, each with four portraits of one of its people, from fresh draws of the world; kept on disk."""
    path = settings.folder / f"lessons_{count}_{settings.seed}.pt"
    if path.is_file():
        return Examples(**read_cached(path))
    random = np.random.default_rng([settings.seed, 77])
    rows = [_example(random) for _ in range(count)]
    pictures, tokens, positions, masks, portraits = (np.stack(column) for column in zip(*rows, strict=True))
    with torch.no_grad():
        latents = torch.cat([
            vae.encode(to_pixels(pictures[start : start + 64]).to(settings.device)).cpu()
            for start in range(0, count, 64)
        ])  # fmt: skip
    small = interpolate(torch.from_numpy(masks).float().unsqueeze(1), scale_factor=1 / LATENT_RATIO, mode="area")
    examples = Examples(
        latents, torch.from_numpy(tokens), torch.from_numpy(positions), small, torch.from_numpy(portraits)
    )
    write_cached(path, examples.__dict__)
    return examples


def _example(random: np.random.Generator) -> tuple[np.ndarray, ...]:
    plan: Plan = sample_plan(random, people=int(random.choice((1, 2, 3), p=(0.45, 0.45, 0.1))))
    if random.random() < 0.1:
        plan = portrait_plan(plan.people[0])
    who = int(random.integers(len(plan.people)))
    bare = tuple(flag and number != who for number, flag in enumerate(plan.names_clothes))
    scene = draw(replace(plan, names_clothes=bare if random.random() < 0.7 else plan.names_clothes), random)
    tokens = np.asarray(tokenize(scene.caption, TEXT_LENGTH), np.int64)
    classes = [vocabulary().index(word) for word in CLASS_WORDS]
    position = np.asarray(np.flatnonzero(np.isin(tokens, classes))[who])
    faces = np.stack([portrait(plan.people[who], random) for _ in range(4)])
    return scene.image, tokens, position, scene.masks[who], faces


class Adapter(nn.Module):
    """What stage two trains: the encoder, and the LoRA inside the otherwise frozen base model."""

    def __init__(self, base: BaseModel, encoder: IdEncoder) -> None:
        super().__init__()
        base.requires_grad_(False)
        base.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=ATTENTION, init_lora_weights=True))
        self.base = base
        self.encoder = encoder.requires_grad_(True)

    def context(self, tokens: Tensor, positions: Tensor, portraits: Tensor) -> Tensor:
        """Text embeddings `(n, t, d)` with the class words fused; portraits `(n, k, 3, h, w)` are averaged over k."""
        text = self.base.text(tokens)[0]
        identity = self.encoder.embed(portraits.flatten(0, 1)).unflatten(0, portraits.shape[:2]).mean(dim=1)
        rows = torch.arange(len(tokens), device=tokens.device)
        fused = self.encoder.fuse_module.fuse_fn(text[rows, positions].float(), identity.float())
        context = text.float().clone()
        context[rows, positions] = fused
        return context


def train_photomaker(
    base: BaseModel, encoder: IdEncoder, examples: Examples, settings: Settings
) -> tuple[Adapter, list[float]]:
    """Stage two. The error inside the person's mask counts most, as only that part is used in re-denoising."""
    adapter = Adapter(base, encoder).to(settings.device)
    diffusion = Diffusion(settings.device)
    device = settings.device

    def loss(random: StepRandom) -> Tensor:
        chosen = random.numpy.choice(len(examples.latents), settings.batch, replace=False)
        rows = torch.from_numpy(chosen)
        count = int(random.numpy.integers(1, 5))
        portraits = to_pixels(
            examples.portraits[rows][:, :count].numpy().reshape(-1, PICTURE_SIDE, PICTURE_SIDE, 3)
        ).to(device)
        portraits = augment_portraits(portraits, random).unflatten(0, (len(rows), count))
        timesteps = torch.from_numpy(random.numpy.integers(0, 1000, settings.batch)).to(device)
        clean = examples.latents[rows].to(device)
        noisy, target = diffusion.noisy_and_target(clean, random.normal(*clean.shape).to(device), timesteps)
        with torch.autocast(device, torch.bfloat16):
            context = adapter.context(examples.tokens[rows].to(device), examples.positions[rows].to(device), portraits)
            found = adapter.base.predict(noisy, timesteps, context)
        weight = 0.25 + 3 * examples.masks[rows].to(device)
        return (weight * (found.float() - target) ** 2).mean()

    return adapter, train("photomaker", adapter, loss, settings)


def photomaker_file(adapter: Adapter) -> dict[str, Tensor]:
    """The weights as one flat file: `id_encoder.` and `lora_weights.unet.` in front of the names."""
    state = {f"id_encoder.{key}": value for key, value in adapter.encoder.state_dict().items()}
    lora = get_peft_model_state_dict(adapter.base.unet)
    return state | {f"lora_weights.unet.{key}": value for key, value in lora.items()}
