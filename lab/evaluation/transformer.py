"""The numbers of one story of the toy world, drawn by its diffusion transformer.

Its identity generator is the same network, to which a picture of the character is shown as reference: one of the
portraits that the transformer drew (the first, or the one nearest to the discovered identity), or a drawing of one real
person. What discovers is the identity encoder of the UNet's identity generator, which knows nothing of the transformer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ...core.character_mentions import Character
from ...core.frame_sharing import Sharing
from ...core.identity import discover_identity, nearest_portraits
from ...core.latent_cache import NoisyLatentCache
from ...core.layout import Layout
from ...core.reference_words import with_reference
from ...core.scores.cosines import mean_cosine_between
from ...core.scores.statistics import mean_of_known
from ...core.shapes import Float
from ...core.story import Appearance, Frame
from ...headless.flow_sampling import (
    FlowPlan,
    FlowPrompt,
    TransformerPipeline,
    load_transformer_pipeline,
    sample_frames_together,
)
from ...headless.sampling import decode, redenoise, sample, sample_template, starting_noise
from ...headless.shared_frames import new_sharing, positions_of
from ...headless.studio import Studio
from ..toyworld.people import Person
from ..toyworld.probe import PERSON, SCENE
from ..toyworld.world import draw, portrait_plan
from .drawing_modes import ON, frames_noise
from .identitystory import (
    DRAWN,
    FIRST_FRAME,
    OTHERS,
    SEEDS_PER_STORY,
    Instruments,
    Picture,
    Row,
    Seen,
    drawings,
    evaluation_settings,
    faces_of,
    final_cells,
    largest_change,
    look_at_all,
    measure_agreement,
    measure_faces,
    open_instruments,
)
from .markdown import Rows, about, at, cell, difference, table
from .stories import ToyStory, make_story
from .variants import NARROW_RANK, TEMPLATE

PORTRAITS = 16
CFG = 3.0
REFERENCE_SIDE = 144
"""Pixels: what Reference Conditioning makes of a square portrait for 0.02 megapixels."""
FIRST, DISCOVERED, TRUE = "first portrait", "discovered", "true"
SOURCES = (FIRST, DISCOVERED, TRUE)
"""Which picture of a character is shown: of those that the transformer drew, or a drawing of one real person."""
VARIANTS = (TEMPLATE, *SOURCES, ON)
MADE_WITH = {"cfg": CFG, "portraits": PORTRAITS, "rank": NARROW_RANK, "side": REFERENCE_SIDE, "drawn": list(VARIANTS)}
"""What the numbers depend on besides the weights, and the settings of the toy world's evaluation."""
_LABELS = {
    TEMPLATE: "the transformer alone (the template)",
    FIRST: "re-denoised, the first portrait as reference",
    DISCOVERED: "re-denoised, the discovered portrait as reference",
    TRUE: "re-denoised, a drawing of the true person as reference",
    ON: "frames that see each other's people (AMSA)",
    DRAWN: "*drawn, one person throughout*",
    OTHERS: "*drawn, anybody the caption fits*",
}
_PAIRS = ((FIRST, TEMPLATE), (DISCOVERED, TEMPLATE), (DISCOVERED, FIRST), (TRUE, DISCOVERED), (ON, TEMPLATE))


@dataclass(frozen=True)
class Artist:
    """What draws.

    Args:
        pipe: The transformer.
        studio: The toy world's other networks, and how to draw.
    """

    pipe: TransformerPipeline
    studio: Studio

    def plan(self) -> FlowPlan:
        return FlowPlan(self.pipe, "euler", "simple", self.studio.settings.steps, CFG)

    def prompts(self, texts: Sequence[str]) -> FlowPrompt:
        """A row per text."""
        return FlowPrompt.of_rows([self.pipe.encode_prompt(text) for text in texts])

    def pictures(self, latents: Float[Tensor, "n c lh lw"]) -> list[Picture]:
        return list(decode(self.studio.pipe, latents))

    def portraits(self, character: Character, first_seed: int) -> Float[Tensor, "n h w 3"]:
        """Text-only portraits; the nth starts from the noise of seed + n - 1."""
        settings, ratio = self.studio.settings, self.studio.pipe.vae_scale_factor
        side, count = settings.portrait_side // ratio, settings.portraits
        seeds, channels = [first_seed + n for n in range(count)], self.studio.pipe.vae.config.latent_channels
        noise = starting_noise(seeds, channels, side, side)
        text, plan = settings.portrait_template.replace("{character}", character.description), self.plan()
        denoiser = plan.denoiser(self.prompts([text] * count), self.prompts([""] * count))
        latents = sample(plan.solver(plan.sampler, plan.sigmas(), first_seed), denoiser, noise, plan.levels())
        return decode(self.studio.pipe, plan.to_vae_scale(latents))

    def template(self, frame: Frame, seed: int) -> NoisyLatentCache:
        """The frame with everything re-denoising needs."""
        settings, ratio = self.studio.settings, self.studio.pipe.vae_scale_factor
        channels = self.studio.pipe.vae.config.latent_channels
        noise = starting_noise([seed], channels, settings.height // ratio, settings.width // ratio)
        return sample_template(self.plan(), self.prompts([frame.prompt]), self.prompts([frame.negative]), noise, seed)

    def put_in(
        self, frame: Frame, cache: NoisyLatentCache, layout: Layout, references: Mapping[str, Picture]
    ) -> Float[Tensor, "1 c lh lw"]:
        """The frame's latent, with everybody in their mask drawn after their reference picture."""
        negative, settings = self.prompts([frame.negative]), self.studio.settings
        prompts = {
            each.character.name: (self._referring(frame, each, references[each.character.name]), negative)
            for each in frame.appearances
        }
        return redenoise(
            self.plan(), cache, layout, prompts, start=settings.start, max_kernel=settings.max_kernel,
            soft_edge=settings.soft_edge,
        )  # fmt: skip

    def together(self, toy: ToyStory, first_seed: int, strength: float = 1.0) -> list[Picture]:
        """All frames as one batch, with shared attention."""
        frames, positions = toy.story.frames, positions_of(self.pipe, toy.story)
        prompts = (self.prompts([each.prompt for each in frames]), self.prompts([each.negative for each in frames]))
        shared = new_sharing(Sharing(strength=strength), positions, len(frames))
        noise = frames_noise(self.studio, toy.story, first_seed)
        return self.pictures(sample_frames_together(self.plan(), prompts, noise, first_seed, shared))

    @torch.no_grad()
    def _referring(self, frame: Frame, appearance: Appearance, picture: Picture) -> FlowPrompt:
        """The frame's prompt as Reference Conditioning writes it, with the picture."""
        told = with_reference(frame.prompt, appearance.class_word, appearance.character.description, 1)
        pixels = interpolate(picture.movedim(-1, 0)[None], size=(REFERENCE_SIDE, REFERENCE_SIDE), mode="area")
        reference = self.studio.pipe.vae.encode(pixels * 2 - 1).latent_dist.mode()
        return self.pipe.encode_prompt(told, [reference])


def open_measure() -> Callable[[int], tuple[Row, dict[str, list[Picture]]]]:
    """`measure_story` with the shipped weights."""
    instruments = open_instruments(evaluation_settings(portraits=PORTRAITS, rank=NARROW_RANK))
    return partial(measure_story, instruments, Artist(load_transformer_pipeline(), instruments.studio))


def measure_story(instruments: Instruments, artist: Artist, number: int) -> tuple[Row, dict[str, list[Picture]]]:
    """Draw a story in every variant and measure it.

    Returns:
        The numbers, JSON's own types only, None where there is nothing to measure; and the pictures by variant, one
        per frame.
    """
    toy, first_seed = make_story(number), number * SEEDS_PER_STORY
    with counted_evaluations(artist.pipe) as counts:
        references = find_references(artist, toy, first_seed)
        pictures: dict[str, list[Picture]] = {name: [] for name in VARIANTS}
        outside: list[float] = []
        for frame in toy.story.frames:
            cache = artist.template(frame, first_seed + FIRST_FRAME + frame.index)
            (template,) = artist.pictures(cache.final)
            pictures[TEMPLATE].append(template)
            layout = instruments.studio.find(frame, template, None)
            cells = final_cells(instruments.studio.settings, layout, cache.final.shape[-2:])
            for source in SOURCES:
                latent = artist.put_in(frame, cache, layout, references[source])
                pictures[source] += artist.pictures(latent)
                outside.append(largest_change(latent, cache.final, cells))
        pictures[ON] = artist.together(toy, first_seed + FIRST_FRAME)
    pictures |= drawings(toy)
    seen = {name: look_at_all(instruments, toy, images) for name, images in pictures.items()}
    row = {
        "story": number,
        "people": [character.description for character in toy.story.characters],
        "evaluations": sum(counts),
        "faces_wanted": len(toy.people) * len(toy.plans),
        "outside": max(outside),
        **measure_faces(toy, seen),
        "to_reference": {
            source: measure_to_reference(instruments, toy, references[source], seen[source]) for source in SOURCES
        },
        "agreement": {
            name: measure_agreement(instruments.probe, toy.plans, images, seen[name], toy)
            for name, images in pictures.items()
        },
    }
    return row, pictures


@contextmanager
def counted_evaluations(pipe: TransformerPipeline) -> Iterator[list[int]]:
    """Inside, the list gets the number of samples of every call of the transformer."""
    counts: list[int] = []

    def count(_module: object, _arguments: object, named: Mapping[str, Tensor]) -> None:
        counts.append(len(named["hidden_states"]))

    hook = pipe.transformer.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield counts
    finally:
        hook.remove()


def find_references(artist: Artist, toy: ToyStory, first_seed: int) -> dict[str, dict[str, Picture]]:
    """The reference picture of every character, by source and name."""
    found: dict[str, dict[str, Picture]] = {source: {} for source in SOURCES}
    settings = artist.studio.settings
    for place, (character, person) in enumerate(zip(toy.story.characters, toy.people, strict=True)):
        portraits = artist.portraits(character, first_seed + place * settings.portraits)
        embeddings = artist.studio.photomaker.embed(portraits)
        identity = discover_identity(embeddings, settings.rank, settings.keep_ratio, settings.rounds).embedding
        (nearest,), _ = nearest_portraits(embeddings, identity, 1)
        found[FIRST][character.name], found[DISCOVERED][character.name] = portraits[0], portraits[nearest]
        found[TRUE][character.name] = _true_portrait(person, first_seed + place)
    return found


def _true_portrait(person: Person, seed: int) -> Picture:
    return torch.tensor(draw(portrait_plan(person), np.random.default_rng(seed)).image).float() / 255


def measure_to_reference(
    instruments: Instruments, toy: ToyStory, references: Mapping[str, Picture], seen: Sequence[Mapping[str, Seen]]
) -> float | None:
    """How like the faces on the frames are to the face on the reference picture; the mean over the people."""
    likeness = []
    for character, faces in zip(toy.story.characters, faces_of(toy, seen), strict=True):
        picture = references[character.name]
        people = instruments.detector.people(picture)
        known = [face for face in faces if face is not None]
        own = instruments.recogniser.embedding_of(picture, people[0].mask) if people else None
        if own is not None and known:
            likeness.append(mean_cosine_between(torch.stack(known), own[None]))
    return mean_of_known(likeness)


def make_tables(rows: Rows) -> str:
    """All tables, as Markdown."""
    outside = max(row["outside"] for row in rows)
    head = about(rows).replace("UNet evaluations", "evaluations of the transformer")
    sentence = f"Outside the final masks, latents differ from the template's by {outside:g} at most."
    return "\n\n".join((f"{head} {sentence}", _face_table(rows), _pair_table(rows), _agreement_table(rows)))


def _face_table(rows: Rows) -> str:
    wanted = sum(row["faces_wanted"] for row in rows)
    lines = []
    for name, label in _LABELS.items():
        found = f"{sum(row['faces'][name] for row in rows)} of {wanted}"
        likeness = "" if name == DRAWN else cell(rows, at("likeness", name))
        reference = cell(rows, at("to_reference", name)) if name in SOURCES else ""
        lines.append((label, cell(rows, at("face_sim", name)), found, reference, likeness))
    titles = ("**Faces**", "Face-Sim", "faces found", "likeness to the reference", "likeness to the true person")
    return table(titles, lines)


def _pair_table(rows: Rows) -> str:
    lines = [
        (f"{_LABELS[name]} − {_LABELS[other]}", difference(rows, at("face_sim", name), at("face_sim", other)))
        for name, other in _PAIRS
    ]
    return table(("**Differences**", "Face-Sim"), lines)


def _agreement_table(rows: Rows) -> str:
    shown = (TEMPLATE, DISCOVERED, ON, DRAWN)
    lines = []
    for name in ("scene", *SCENE, "person", *PERSON):
        cells = [cell(rows, at("agreement", variant, name), 100, 1) for variant in shown]
        for one, other in ((DISCOVERED, TEMPLATE), (ON, TEMPLATE)):
            both = at("agreement", one, name), at("agreement", other, name)
            cells.append(difference(rows, *both, scale=100, digits=1))
        lines.append((name, *cells))
    titles = ("template", "re-denoised", "AMSA", "*drawn*", "re-denoised − template", "AMSA − template")
    return table(("**As the caption says, %**", *titles), lines)
