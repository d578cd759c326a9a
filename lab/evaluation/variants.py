"""The variants of drawing a story that are compared with each other, on the same starting noise."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...core.character_mentions import Character
from ...core.identity import Discovery, Identity, discover_identity
from ...core.layout import Layout
from ...core.redenoise import ProgressiveMasks, scaled_kernel
from ...core.shapes import Bool, Float
from ...core.story import Frame
from ...headless.identity_generator import identity_generator
from ...headless.prompts import Prompt, encode_prompt, word_position
from ...headless.run_settings import RunSettings
from ...headless.sampling import SamplingPlan, from_model_scale, sample
from ...headless.solvers import Solver
from ...headless.studio import Studio
from ..toyworld.people import Person
from ..toyworld.world import draw, portrait_plan

NARROW = "narrow"
"""The discovery again, with so few directions that it has something to filter."""
NARROW_RANK = 3
SOURCES = ("mean", "discovered", NARROW, "true")
"""Where an identity comes from: all portraits, the discoveries, or drawings of one real person of the world."""
FIXED = "fixed"
"""The discovered identity, in masks that do not grow."""
LARGE = "large"
"""The same in masks that are from the first as large as growing ones are in the end."""
DIRECT = "direct"
"""The discovered identity, drawn from noise with no template."""
TEMPLATE = "template"
VARIANTS = (TEMPLATE, *SOURCES, FIXED, LARGE, DIRECT)


def silent(what: str, done: int, total: int) -> None:
    """A report that does nothing."""


@dataclass(frozen=True)
class Portraits:
    """What identities are made of.

    Args:
        pictures: By the base model, from the description alone.
        embeddings: The embeddings of these pictures.
        true_embeddings: The embeddings of as many drawings of one person who fits the description.
    """

    pictures: Float[Tensor, "m h w 3"]
    embeddings: Float[Tensor, "m d"]
    true_embeddings: Float[Tensor, "m d"]


@dataclass(frozen=True)
class FrameVariants:
    """One frame, drawn in every variant.

    Args:
        pictures: By name, in the order of `VARIANTS`.
        latents: By name, as the pictures.
        layout: The template's layout.
    """

    pictures: dict[str, Float[Tensor, "h w 3"]]
    latents: dict[str, Float[Tensor, "1 c lh lw"]]
    layout: Layout


@contextmanager
def counted_evaluations(studio: Studio) -> Iterator[list[int]]:
    """Inside, the list gets the number of samples of every call of the UNet."""
    with _counted(studio, len) as counts:
        yield counts


@contextmanager
def counted_cells(studio: Studio) -> Iterator[list[int]]:
    """Inside, the list gets the number of latent cells of all samples of every call of the UNet."""
    with _counted(studio, lambda latents: len(latents) * latents.shape[-2] * latents.shape[-1]) as counts:
        yield counts


@contextmanager
def _counted(studio: Studio, count: Callable[[Tensor], int]) -> Iterator[list[int]]:
    counts: list[int] = []
    hook = studio.pipe.unet.register_forward_pre_hook(lambda module, arguments: counts.append(count(arguments[0])))
    try:
        yield counts
    finally:
        hook.remove()


def make_portraits(studio: Studio, character: Character, person: Person, first_seed: int) -> Portraits:
    """Text-only portraits of a character, and drawn ones of a person."""
    pictures = torch.cat(list(studio.draw_portraits(character, first_seed, silent)))
    random = np.random.default_rng(first_seed)
    drawn = np.stack([draw(portrait_plan(person), random).image for _ in range(len(pictures))])
    embed = studio.photomaker.embed
    return Portraits(pictures, embed(pictures), embed(torch.from_numpy(drawn).float() / 255))


def make_identities(
    studio: Studio, character: Character, portraits: Portraits
) -> tuple[dict[str, Identity], dict[str, Discovery]]:
    """The identity of every source, and how the discovered ones came about."""
    settings = studio.settings
    found = {
        source: discover_identity(portraits.embeddings, rank, settings.keep_ratio, settings.rounds)
        for source, rank in (("discovered", settings.rank), (NARROW, NARROW_RANK))
    }
    embeddings = {source: discovery.embedding for source, discovery in found.items()}
    embeddings |= {"mean": portraits.embeddings.mean(dim=0), "true": portraits.true_embeddings.mean(dim=0)}
    return {source: studio.identity(character, embeddings[source], {}) for source in SOURCES}, found


def draw_variants(
    studio: Studio, frame: Frame, seed: int, identities: Mapping[str, Mapping[str, Identity]]
) -> FrameVariants:
    """Draw a frame in every variant.

    Args:
        studio: Its settings say how; characters who are not found in the template stay as they were drawn.
        frame: What to show.
        seed: The seed of the starting noise of all variants.
        identities: By source, then by the character's name.
    """
    cache = studio.sample_frame(frame, seed, silent)
    layout = studio.find(frame, studio.picture(cache.final), None)
    latents = {TEMPLATE: cache.final}
    for source in SOURCES:
        latents[source] = studio.put_in(frame, cache, layout, identities[source], silent)
    still = replace(studio, settings=replace(studio.settings, max_kernel=0))
    for name, masks in ((FIXED, layout.masks), (LARGE, final_masks(studio.settings, layout))):
        fixed = replace(layout, masks=masks)
        latents[name] = still.put_in(frame, cache, fixed, identities["discovered"], silent)
    latents[DIRECT] = draw_directly(studio, [frame], cache.noise, cache.recipe.seed, identities["discovered"])
    return FrameVariants({name: studio.picture(latent) for name, latent in latents.items()}, latents, layout)


def final_masks(settings: RunSettings, layout: Layout, grown: bool = True) -> Bool[Tensor, "s h w"]:
    """The characters' masks at the last step; `grown` False: with masks that do not grow."""
    kernel = scaled_kernel(settings.max_kernel if grown else 0, *layout.size)
    return ProgressiveMasks(layout.masks, settings.steps, settings.start, kernel).at(settings.steps - 1)


def draw_directly(
    studio: Studio,
    frames: Sequence[Frame],
    noise: Float[Tensor, "n c h w"],
    seed: int,
    identities: Mapping[str, Identity],
) -> Float[Tensor, "n c h w"]:
    """Frames by the identity generator alone, as one batch, with everybody's class word merged with their identity.

    Args:
        studio: Its settings say how.
        frames: What to show.
        noise: What each begins with.
        seed: Of the noise that a sampler draws on its way.
        identities: By the character's name.
    """
    pipe, settings = studio.pipe, studio.settings
    positive = Prompt.joined([_merged(studio, frame, identities) for frame in frames])
    negative = Prompt.joined([encode_prompt(pipe, frame.negative, frame.label) for frame in frames])
    plan = SamplingPlan(pipe, settings.sampler, settings.scheduler, settings.steps, settings.cfg)
    solver = Solver(plan.sampler, plan.sigmas(), seed)
    with identity_generator(pipe, studio.photomaker):
        latents = sample(solver, plan.denoiser(positive, negative), noise, plan.levels())
    return from_model_scale(pipe, latents)


def _merged(studio: Studio, frame: Frame, identities: Mapping[str, Identity]) -> Prompt:
    prompt = encode_prompt(studio.pipe, frame.prompt, frame.label)
    for each in frame.appearances:
        position = word_position(studio.pipe, frame.prompt, each.class_word, frame.label)
        prompt = studio.photomaker.fuse(prompt, position, identities[each.character.name].embedding)
    return prompt
