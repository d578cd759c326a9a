"""The diffusion transformer: a text encoder and a network of the Flux.1 family, trained together by flow matching.

One network and one training make both the base model and the identity generator: three quarters of every batch are
drawn from the caption alone, the others from the caption and a portrait of one of its people, which the network reads
as reference latents: portraits are learned much sooner than words. Two stages would have needed a second file as large
as the first, since references go through every layer, and the template would have been drawn by another network than
the one that re-draws its people. With a portrait the loss counts most where that person is, as only that part is used
in re-denoising.

The text encoder begins as the UNet's, which tells already which word belongs to which.

Noise and time are those of Esser et al. 2024 (arXiv:2403.03206): latents and noise are mixed linearly, the network is
asked for their difference, and times are logit-normal. The family multiplies latents by 0.36, so the times' middle is
moved by as much: noise is as often stronger than the picture as it is weaker.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ....core.reference_words import with_reference
from ....core.text_search import Span
from ....core.toyworld.flux_layout import to_diffusers
from ....core.toyworld.models import text_encoder_weights
from ....core.toyworld.sizes import TOY_WORLD
from ....core.toyworld.transformer import (
    TIME_LOCATION,
    TRANSFORMER,
    TransformerSizes,
    check_channels,
    to_model_scale,
    transformer_vocabulary,
    transformer_weights,
)
from ....core.toyworld.vocabulary import CLASS_WORDS, tokenize
from ....headless.toy_transformer import new_transformer, predict_velocity
from ...step_random import StepRandom
from ..captions import caption_of, describe
from ..plan import Plan
from ..world import draw, portrait_plan, sample_plan
from .cached_tensors import cached
from .rendered_scenes import to_pixels
from .text_encoder import new_text_encoder
from .train_base import drop_words, load_text_encoder, text_keys
from .train_network import Settings, train
from .train_photomaker import augment_portraits

SCENES = 24_000
HELD_OUT = 512
REFERENCE_SIDES = (96, 144)
"""Pixels: what Reference Conditioning makes of a square portrait for 0.01 and 0.02 megapixels."""
OUTSIDE, INSIDE = 0.25, 3.25
"""What the error of rows with references counts outside the person and on them."""
INSIDE_ALONE = 3.0
"""What the error of rows without references counts on one of the people; outside it counts 1."""
TELLS_CLOTHES = 0.5
"""Share of the people, of one or two in a picture, whose clothes the caption tells."""
_CHUNK, _WAITING = 64, 32
"""Lessons that are drawn at a time, and how many such parts may wait to be encoded."""


@runtime_checkable
class Encoder(Protocol):
    """Any VAE: it makes latents `(n, c, h, w)` of pictures `(n, 3, H, W)` in [-1, 1], by a network."""

    @property
    def encoder(self) -> nn.Module: ...

    def encode(self, pictures: Tensor, /) -> Tensor: ...


class Transformer(nn.Module):
    """The network with its text encoder."""

    def __init__(self, seed: int, sizes: TransformerSizes = TRANSFORMER) -> None:
        super().__init__()
        self.text = new_text_encoder(seed, transformer_vocabulary())
        self.transformer = new_transformer(sizes)
        _begin_with_nothing(self.transformer)
        for entrance in (self.transformer.x_embedder, self.transformer.context_embedder):
            entrance.register_forward_hook(_in_full_precision)
        for layer in self.transformer.modules():
            if isinstance(layer, nn.RMSNorm):
                layer.register_forward_pre_hook(_given_full_precision)

    def velocity(self, noisy: Tensor, times: Tensor, tokens: Tensor, references: Sequence[Tensor] = ()) -> Tensor:
        read = self.text(tokens)
        return predict_velocity(
            self.transformer, noisy, times, read.last_hidden_state, read.pooler_output, references
        ).float()


@dataclass(frozen=True)
class Lessons:
    """Scenes, a row each.

    Args:
        latents: `(n, c, h, w)` float16, as the VAE gives them.
        tokens: `(n, t)`, the caption.
        told: `(n, t)`, the caption with words that refer to the portrait.
        masks: `(n, 1, h, w)`, how much of a cell the person of the portrait covers.
        portraits: Per side in pixels, latents of a portrait of that person.
    """

    latents: Tensor
    tokens: Tensor
    told: Tensor
    masks: Tensor
    portraits: dict[int, Tensor]


def train_dit(
    vae: Encoder,
    settings: Settings,
    scenes: int = SCENES,
    sizes: TransformerSizes = TRANSFORMER,
    words: Path | None = None,
) -> tuple[Transformer, list[float]]:
    """Train both parts; the VAE stays as it is.

    Args:
        vae: Makes the latents.
        settings: How; their `start` is a folder with a folder `transformer` of finished weights.
        scenes: How many are drawn to learn from.
        sizes: Of the transformer.
        words: A folder with the UNet's text encoder, to begin with where there is no `start`.

    Raises:
        ValueError: If the VAE's latents are not of 16 channels, or a batch has fewer than two rows.
    """
    if settings.batch < 2:
        raise ValueError(f"batch is {settings.batch}; it must be 2 or more: a part of it has references.")
    lessons = draw_lessons(vae, settings, scenes)
    model = Transformer(settings.seed, sizes)
    if settings.start is not None:
        load_transformer(model, settings.start / "transformer", sizes)
    elif words is not None:
        begin_with_words(model.text, words)
    model.to(settings.device)
    velocity, alone = settings.compiled(model.velocity), settings.batch * 3 // 4

    def loss(random: StepRandom) -> Tensor:
        rows = torch.from_numpy(random.numpy.choice(len(lessons.latents), settings.batch, replace=False))
        side = int(random.numpy.choice(list(lessons.portraits)))
        with settings.autocast():
            parts = flow_losses(velocity, lessons, rows[:alone], rows[alone:], side, random, settings.device)
        return torch.cat(parts).mean()

    return model.train(), train("transformer", model, loss, settings)


def flow_losses(
    velocity: Callable[..., Tensor],
    lessons: Lessons,
    alone: Tensor,
    shown: Tensor,
    side: int,
    random: StepRandom,
    device: str,
) -> tuple[Tensor, Tensor]:
    """The weighted squared errors of rows without references, and of rows with them.

    Args:
        velocity: `Transformer.velocity`.
        lessons: What is drawn.
        alone: Which of them without references.
        shown: Which with them.
        side: Of the portraits, in pixels.
        random: Gives noise, times and dropped words.
        device: Of the model.
    """
    rows, first = torch.cat([alone, shown]), len(alone)
    clean = to_model_scale(lessons.latents[rows].float()).to(device)
    noise, times = random.normal(*clean.shape).to(device), draw_times(len(rows), random).to(device)
    noisy = clean.lerp(noise, times.view(-1, 1, 1, 1))
    words = [drop_words(tokens, random).to(device) for tokens in (lessons.tokens[alone], lessons.told[shown])]
    portraits = to_model_scale(lessons.portraits[side][shown].float()).to(device)
    found = (
        velocity(noisy[:first], times[:first], words[0]),
        velocity(noisy[first:], times[first:], words[1], [portraits]),
    )
    errors, people = (torch.cat(found) - (noise - clean)) ** 2, lessons.masks[rows].to(device)
    return (
        (1 + (INSIDE_ALONE - 1) * people[:first]) * errors[:first],
        (OUTSIDE + (INSIDE - OUTSIDE) * people[first:]) * errors[first:],
    )


@torch.no_grad()
def begin_with_words(text: nn.Module, folder: Path) -> None:
    """Put the UNet's text encoder in a folder into the transformer's, which knows more words; those stay as they are.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it cannot be read, or has other tensors.
    """
    state, (loaded, known) = text.state_dict(), text_encoder_weights(folder)
    for key, stored in zip(state, text_keys(state), strict=True):
        part = state[key][:known] if "token_embedding" in key else state[key]
        part.copy_(loaded[stored])


def load_transformer(model: Transformer, folder: Path, sizes: TransformerSizes = TRANSFORMER) -> None:
    """Put the weights of a finished training into a model.

    Args:
        model: Of these sizes.
        folder: The folder `transformer` of a folder of weights.
        sizes: What the file must have.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If one cannot be read, or has other tensors.
    """
    model.transformer.load_state_dict(to_diffusers(transformer_weights(folder, sizes), sizes.layers()))
    load_text_encoder(model.text, folder)


def draw_times(count: int, random: StepRandom) -> Tensor:
    """Times between 0, the picture, and 1, the noise."""
    return torch.sigmoid(random.normal(count) + TIME_LOCATION)


def draw_lessons(vae: Encoder, settings: Settings, count: int = SCENES, held_out: bool = False) -> Lessons:
    """Draw scenes of at least one person, each with portraits of one of them; kept on disk."""
    name = f"transformer_lessons_{count}_{settings.seed}_{held_out:d}"
    return Lessons(**cached(settings.folder, name, partial(_draw, vae, settings, count, held_out), vae.encoder))


def _draw(vae: Encoder, settings: Settings, count: int, held_out: bool) -> dict[str, Any]:
    """The columns of `Lessons`."""
    columns: dict[str, list[Tensor]] = {}
    starts, drawer = range(0, count, _CHUNK), partial(_chunk, count, settings.seed, held_out)
    with ProcessPoolExecutor() as pool:
        for first in range(0, len(starts), _WAITING):
            some = starts[first : first + _WAITING]
            for start, drawn in zip(some, pool.map(drawer, some), strict=True):
                for name, part in _as_latents(vae, drawn, settings, start).items():
                    columns.setdefault(name, []).append(part)
    joined: dict[str, Any] = {name: torch.cat(parts) for name, parts in columns.items()}
    joined["portraits"] = {side: joined.pop(f"portraits {side}") for side in REFERENCE_SIDES}
    return joined


def _as_latents(vae: Encoder, drawn: Sequence[np.ndarray], settings: Settings, start: int) -> dict[str, Tensor]:
    """What `Lessons` holds, of some that were drawn."""
    pictures, tokens, told, masks, portraits = drawn
    latents = _encode(vae, to_pixels(pictures), settings.device)
    covered = interpolate(torch.from_numpy(masks).float().unsqueeze(1), size=latents.shape[-2:], mode="area")
    parts = {"latents": latents, "masks": covered.half()}
    parts |= {"tokens": torch.from_numpy(tokens), "told": torch.from_numpy(told)}
    random = StepRandom.of(settings.seed, 0, start)
    for number, side in enumerate(REFERENCE_SIDES):
        seen = augment_portraits(to_pixels(portraits[:, number]), random)
        small = interpolate(seen, size=(side, side), mode="area")
        parts[f"portraits {side}"] = _encode(vae, small, settings.device)
    return parts


@torch.no_grad()
def measure_dit(model: Transformer, vae: Encoder, settings: Settings, count: int = HELD_OUT) -> dict[str, float]:
    """Errors on people whose looks training never showed: without a reference, with it, and with a stranger's.

    The last two differ as far as the network looks at the reference.
    """
    lessons = draw_lessons(vae, settings, count, held_out=True)
    side = REFERENCE_SIDES[-1]
    strangers = replace(lessons, portraits={side: lessons.portraits[side].roll(1, dims=0)})
    model.eval()
    sums = torch.zeros(3)
    for start in range(0, count, 64):
        rows = torch.arange(start, min(start + 64, count))
        parts = []
        for known in (lessons, strangers):
            random = StepRandom.of(settings.seed, 1, start)
            both = flow_losses(model.velocity, known, rows, rows, side, random, settings.device)
            parts += [each.mean() for each in both]
        sums += torch.stack([parts[0], parts[1], parts[3]]).cpu() * len(rows)
    names = ("error", "error_with_reference", "error_with_a_strangers_reference")
    return {name: round(float(each) / count, 5) for name, each in zip(names, sums, strict=True)}


def _chunk(count: int, seed: int, held_out: bool, start: int) -> list[np.ndarray]:
    """The columns of the lessons from `start` on."""
    random = np.random.default_rng([seed, 78, held_out, start])
    rows = [_lesson(random, held_out) for _ in range(min(_CHUNK, count - start))]
    return [np.stack(column) for column in zip(*rows, strict=True)]


def _lesson(random: np.random.Generator, held_out: bool) -> tuple[np.ndarray, ...]:
    """A picture, its caption's tokens, those that refer to a portrait, who is shown where, and portraits of them.

    Captions tell what people wear more often than the world's own do; those with a portrait, which shows it, seldom.
    """
    while True:
        plan = sample_plan(random, held_out, people=int(random.choice((1, 2, 3), p=(0.5, 0.4, 0.1))))
        dressed = tuple(bool(random.random() < TELLS_CLOTHES) and len(plan.people) < 3 for _ in plan.people)
        plan = replace(plan, names_clothes=dressed)
        if random.random() < 0.1:
            plan = portrait_plan(plan.people[0], plan.names_hair[0], dressed[0])
        who = int(random.integers(len(plan.people)))
        less = tuple(
            told and (number != who or random.random() < 0.3) for number, told in enumerate(plan.names_clothes)
        )
        scene, shown, words = draw(plan, random), replace(plan, names_clothes=less), transformer_vocabulary()
        try:
            tokens, told = (
                np.asarray(tokenize(text, TOY_WORLD.text_length, words), np.int64)
                for text in (scene.caption, _referring(caption_of(shown, random), shown, who))
            )
        except ValueError:  # a caption so long that the words for the portrait do not fit
            continue
        portraits = [draw(portrait_plan(plan.people[who]), random).image for _ in REFERENCE_SIDES]
        return scene.image, tokens, told, scene.masks[who], np.stack(portraits)


def _referring(caption: str, plan: Plan, who: int) -> str:
    """The caption as Reference Conditioning would write it."""
    person = describe(plan.people[who], plan.names_hair[who], plan.names_clothes[who])
    return with_reference(caption, _class_words(caption)[who], person, 1)


def _class_words(caption: str) -> list[Span]:
    """Where the class words of a caption are; captions name people from left to right."""
    spans, start = [], 0
    for word in caption.replace(",", " ").split(" "):
        if word in CLASS_WORDS:
            spans.append((start, start + len(word)))
        start += len(word) + 1
    return spans


@torch.no_grad()
def _encode(vae: Encoder, pixels: Tensor, device: str) -> Tensor:
    latents = vae.encode(pixels.to(device)).half().cpu()
    check_channels(latents.shape[1])
    return latents


def _begin_with_nothing(transformer: Any) -> None:
    """Let every block pass on what it gets, and the network predict 0 (adaLN-zero, Peebles and Xie 2023)."""
    for name, layer in transformer.named_modules():
        if name == "proj_out" or (isinstance(layer, nn.Linear) and "norm" in name):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


def _in_full_precision(_layer: nn.Module, _given: Any, found: Tensor) -> Tensor:
    """What enters the blocks stays float32, and with it the time, which has more digits than bfloat16."""
    return found.float()


def _given_full_precision(_layer: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
    """Queries and keys are brought to length in float32, as are the norms' own weights."""
    return (given[0].float(),)
