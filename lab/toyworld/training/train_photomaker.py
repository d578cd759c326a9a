"""The identity-preserving generator, in the form of PhotoMaker (Li et al. 2024): vision tower, fuse module and LoRA.

The tower comes from `train_tower` and stays as it is: trained further here, it made all people alike, as nothing holds
them apart until the UNet has learnt to look at them. Fuse module and LoRA learn to draw the person of some portraits
into a scene: the class word's text embedding is replaced by its fusion with the portraits' mean embedding.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from ....core.photomaker import FuseModule, split_file
from ....core.quoting import printable
from ....core.shapes import Float
from ....core.toyworld.identity_encoder import IdentityEncoder, face_crops
from ....core.toyworld.models import load_weights, weights_file
from ....core.toyworld.sizes import TOY_WORLD
from ....core.toyworld.vae import ToyVAE
from ....core.toyworld.vocabulary import CLASS_WORDS, tokenize, vocabulary
from ...step_random import StepRandom
from ..plan import Plan
from ..world import draw, portrait_plan, sample_plan
from .cached_tensors import cached
from .recipes import RECIPE
from .rendered_scenes import to_pixels
from .train_base import BaseModel, Diffusion
from .train_network import Settings, train
from .train_tower import IdEncoder, augment_portraits

VIEWS = 3
"""How often each portrait is embedded, each time augmented anew."""
_CHUNK = 64


@dataclass(frozen=True)
class Examples:
    """A row per scene: latent, caption, whom to draw, where, and how they look.

    Args:
        latents: `(n, channels, h, w)`.
        tokens: `(n, t)` int64.
        positions: `(n,)` int64: where the class word of the person stands.
        masks: `(n, 1, h, w)`: the share of each cell that the person covers.
        heads: `(n, 4)` float32: the person's head in the scene, in pixels.
        portraits: `(n, k, side, side, 3)` uint8.
        portrait_heads: `(n, k, 4)` float32.
    """

    latents: Tensor
    tokens: Tensor
    positions: Tensor
    masks: Tensor
    heads: Tensor
    portraits: Tensor
    portrait_heads: Tensor


def draw_examples(vae: ToyVAE, settings: Settings, count: int) -> Examples:
    """Draw scenes, each with portraits of one of its people, from fresh draws of the world; kept on disk."""
    name = f"examples_{count}_{settings.seed}"
    return Examples(**cached(settings.folder, name, partial(_draw, vae, settings, count), vae.encoder))


def _draw(vae: ToyVAE, settings: Settings, count: int) -> dict[str, Tensor]:
    """The columns of `Examples`."""
    with ProcessPoolExecutor() as pool:
        chunks = pool.map(partial(_chunk, count, settings.seed), range(0, count, _CHUNK))
        columns = zip(*chunks, strict=True)
    pictures, tokens, positions, masks, heads, portraits, portrait_heads = map(np.concatenate, columns)
    with torch.no_grad():
        parts = np.array_split(pictures, max(1, count // 64))
        latents = torch.cat([vae.encode(to_pixels(part).to(settings.device)).cpu() for part in parts])
    masks = torch.from_numpy(masks).float().unsqueeze(1)
    return {
        "latents": latents,
        "tokens": torch.from_numpy(tokens),
        "positions": torch.from_numpy(positions),
        "masks": interpolate(masks, scale_factor=1 / TOY_WORLD.latent_ratio, mode="area"),
        "heads": torch.from_numpy(heads),
        "portraits": torch.from_numpy(portraits),
        "portrait_heads": torch.from_numpy(portrait_heads),
    }


def _chunk(count: int, seed: int, start: int) -> list[np.ndarray]:
    """The columns of the examples from `start` on."""
    random = np.random.default_rng([seed, 77, start])
    rows = [_example(random) for _ in range(min(_CHUNK, count - start))]
    return [np.stack(column) for column in zip(*rows, strict=True)]


def _example(random: np.random.Generator) -> tuple[np.ndarray, ...]:
    plan: Plan = sample_plan(random, people=int(random.choice((1, 2, 3), p=(0.45, 0.45, 0.1))))
    if random.random() < RECIPE.portraits:
        plan = portrait_plan(plan.people[0])
    who = int(random.integers(len(plan.people)))
    bare = tuple(flag and number != who for number, flag in enumerate(plan.names_clothes))
    scene = draw(replace(plan, names_clothes=bare if random.random() < 0.7 else plan.names_clothes), random)
    tokens = np.asarray(tokenize(scene.caption, TOY_WORLD.text_length), np.int64)
    seen = [draw(portrait_plan(plan.people[who]), random) for _ in range(RECIPE.portraits_each)]
    portraits, heads = np.stack([each.image for each in seen]), np.concatenate([each.face_boxes for each in seen])
    position = np.asarray(class_positions(tokens)[who])
    return scene.image, tokens, position, scene.masks[who], scene.face_boxes[who], portraits, heads


def class_positions(tokens: np.ndarray) -> np.ndarray:
    """Where the class words stand among the tokens `(t,)` of a caption, from left to right."""
    return np.flatnonzero(np.isin(tokens, [vocabulary().index(word) for word in CLASS_WORDS]))


class Adapter(nn.Module):
    """What is trained: the encoder's fuse module, and the LoRA inside the otherwise frozen base model.

    The fuse module begins with leaving the class word nearly as it is, so that training takes nothing from the text.
    """

    def __init__(self, base: BaseModel, encoder: IdEncoder) -> None:
        super().__init__()
        base.requires_grad_(False)
        rank, layers = RECIPE.lora_rank, list(RECIPE.lora_layers)
        base.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=layers, init_lora_weights=True))
        self.base = base
        self.encoder = encoder.requires_grad_(False)
        self._begin(encoder.fuse_module.requires_grad_(True))

    @torch.no_grad()
    def _begin(self, fuse: FuseModule) -> None:
        for part in (fuse.mlp1, fuse.mlp2):
            nn.init.zeros_(part.fc2.weight)
            nn.init.zeros_(part.fc2.bias)
        last = next(each for name, each in self.base.text.named_modules() if name.endswith("final_layer_norm"))
        fuse.layer_norm.load_state_dict(last.state_dict())

    def context(self, tokens: Tensor, positions: Tensor, identities: Tensor, kept: Tensor | None = None) -> Tensor:
        """Text embeddings `(n, t, d)` with the class words fused with identities `(n, d)`, where `kept` `(n,)` says."""
        context = self.base.text(tokens)[0].float()
        rows = torch.arange(len(tokens), device=tokens.device)
        words = context[rows, positions]
        fused = self.encoder.fuse_module.fuse_fn(words, identities.float())
        if kept is not None:
            fused = torch.where(kept[:, None], fused, words)
        return context.index_put((rows, positions), fused)

    def identities(self, portraits: Float[Tensor, "n k 3 h w"]) -> Float[Tensor, "n d"]:
        """The mean embedding of each person's portraits in [-1, 1]."""
        return self.encoder.embed(portraits.flatten(0, 1)).unflatten(0, portraits.shape[:2]).mean(dim=1)


def train_photomaker(
    base: BaseModel,
    encoder: IdEncoder,
    examples: Examples,
    settings: Settings,
    judge: "FaceJudge | None" = None,
) -> tuple[Adapter, list[float]]:
    """Train by the error of v, which counts most inside the person's mask, as only that is used in re-denoising.

    Some identities and captions are left out; the judge, if there is one, adds its loss.
    """
    device = settings.device
    adapter = Adapter(base, encoder)
    _start(adapter, settings)
    adapter.to(device)
    diffusion = Diffusion(device)
    predict, seen = settings.compiled(base.predict), embed_portraits(adapter, examples, settings)

    def loss(random: StepRandom) -> Tensor:
        rows = torch.from_numpy(random.numpy.choice(len(examples.latents), settings.batch, replace=False))
        tokens, kept = left_out(examples.tokens[rows], random, settings)
        timesteps = (1000 * torch.from_numpy(random.numpy.random(settings.batch)) ** RECIPE.noisier).long().to(device)
        clean = examples.latents[rows].to(device)
        noisy, target = diffusion.noisy_and_target(clean, random.normal(*clean.shape).to(device), timesteps)
        identities = drawn_together(_some_views(seen[rows.to(device)], random), random)
        with settings.autocast():
            context = adapter.context(tokens.to(device), examples.positions[rows].to(device), identities, kept)
            found = predict(noisy, timesteps, context).float()
        value = ((0.25 + 3 * examples.masks[rows].to(device)) * (found - target) ** 2).mean()
        if judge is not None:
            clean = diffusion.clean(noisy, found, timesteps)
            counts = kept & (diffusion.sigmas[timesteps] < RECIPE.likeness_below)
            value = value + RECIPE.likeness * judge.unlikeness(clean, rows, counts)
        return value

    return adapter, train("photomaker", adapter, loss, settings)


def left_out(tokens: Tensor, random: StepRandom, settings: Settings) -> tuple[Tensor, Tensor]:
    """Captions of which some are left out, and which identities are kept: none of those, nor some others."""
    chance = torch.from_numpy(random.numpy.random((2, len(tokens))))
    silent = chance[0] < RECIPE.text_dropout
    nothing = torch.tensor(tokenize("", TOY_WORLD.text_length))
    kept = ~silent & (chance[1] >= RECIPE.identity_dropout)
    return torch.where(silent[:, None], nothing, tokens), kept.to(settings.device)


@torch.no_grad()
def embed_portraits(adapter: Adapter, examples: Examples, settings: Settings) -> Float[Tensor, "n k v d"]:
    """What the tower says of each portrait, augmented in `VIEWS` ways; on the settings' device."""
    views = []
    for number in range(VIEWS):
        parts = examples.portraits.flatten(0, 1).split(_CHUNK)
        embedded = []
        for place, part in enumerate(parts):
            random = StepRandom.of(settings.seed, number, place)
            pixels = augment_portraits(to_pixels(part.numpy()).to(settings.device), random)
            embedded.append(adapter.encoder.embed(pixels))
        views.append(torch.cat(embedded))
    return torch.stack(views, dim=1).unflatten(0, examples.portraits.shape[:2])


def _some_views(seen: Float[Tensor, "n k v d"], random: StepRandom) -> Float[Tensor, "n d"]:
    """The mean embedding of one or more portraits of each person."""
    count = int(random.numpy.integers(1, 1 + seen.shape[1]))
    return seen[:, :count, int(random.numpy.integers(seen.shape[2]))].mean(dim=1)


def drawn_together(identities: Float[Tensor, "n d"], random: StepRandom) -> Float[Tensor, "n d"]:
    """Half of a batch's identities, drawn some way towards the mean of three others'.

    What discovery finds is a mean over portraits of several people: shorter than one person's, and between them.
    """
    others = torch.stack([identities.roll(shift, 0) for shift in (1, 2, 3)]).mean(dim=0)
    chance = torch.from_numpy(random.numpy.random((2, len(identities), 1))).to(identities)
    return torch.lerp(identities, others, RECIPE.blend * chance[0] * (chance[1] < 0.5))


class FaceJudge:
    """Says how unlike the drawn faces are to the people they should show, by the toy world's recogniser.

    Args:
        vae: What decodes the latents.
        recogniser: The network whose features count; both are frozen, and where the training is.
        examples: Whose people they are.
    """

    def __init__(self, vae: ToyVAE, recogniser: IdentityEncoder, examples: Examples) -> None:
        self.vae, self.heads = vae.requires_grad_(False).eval(), examples.heads
        self.recogniser = recogniser.requires_grad_(False).eval()
        self.people = self._features(examples)

    @torch.no_grad()
    def _features(self, examples: Examples) -> Float[Tensor, "n d"]:
        """Unit vectors: the mean of what the recogniser says of each person's portraits."""
        kinds, device = [], next(self.recogniser.parameters()).device
        for number in range(examples.portraits.shape[1]):
            boxes = examples.portrait_heads[:, number]
            parts = zip(examples.portraits[:, number].split(64), boxes.split(64), strict=True)
            kinds.append(torch.cat([self.recogniser.embed(part.float() / 255, box) for part, box in parts]))
        return normalize(torch.stack(kinds).mean(dim=0), dim=-1).to(device)

    def unlikeness(self, latents: Float[Tensor, "n c h w"], rows: Tensor, counts: Tensor) -> Float[Tensor, ""]:
        """The sum of 1 - cosine over the latents that count `(n,)` bool, by the number of all."""
        places = counts.cpu().nonzero()[:, 0]
        if not len(places):
            return latents.new_zeros(())
        pictures = (self.vae.decode(latents[places]) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        boxes, side = self.heads[rows[places]].to(latents), TOY_WORLD.crop_side
        crops = [face_crops(picture, box[None], side) for picture, box in zip(pictures, boxes, strict=True)]
        features = self.recogniser(torch.cat(crops))
        return (1 - (features * self.people[rows[places]]).sum(dim=-1)).sum() / len(latents)


def _start(adapter: Adapter, settings: Settings) -> None:
    """Begin with the weights of the settings' `start` folder, if there is one."""
    if settings.start is None:
        return
    name = printable(str(weights_file("photomaker", settings.start)))
    encoder, lora = split_file(load_weights("photomaker", settings.start), name)
    adapter.encoder.load_state_dict(encoder)
    set_peft_model_state_dict(adapter.base.unet, {key.removeprefix("unet."): value for key, value in lora.items()})


def photomaker_file(adapter: Adapter) -> dict[str, Tensor]:
    """The weights as one flat file: `id_encoder.` and `lora_weights.unet.` in front of the names."""
    state = {f"id_encoder.{key}": value for key, value in adapter.encoder.state_dict().items()}
    lora = get_peft_model_state_dict(adapter.base.unet)
    return state | {f"lora_weights.unet.{key}": value for key, value in lora.items()}
