"""How rank and rounds of Identity Discovery act on the people drawn (IdentityStory, figures 2b and 8a).

As there, every identity is drawn in 15 pictures by the identity generator alone, and their faces are compared. All
identities of a character come from the same portraits, and are drawn from the same noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from torch import Tensor

from ...core.identity import Identity, discover_identity
from ...core.scores.cosines import mean_pairwise_cosine
from ...core.shapes import Float
from ...core.story import Story
from ...core.toyworld.vocabulary import PLACES
from ...headless.sampling import decode
from ...headless.studio import Studio
from ..toyworld.captions import caption_of
from ..toyworld.world import sample_plan
from .drawing_modes import frames_noise
from .identitystory import (
    FIRST_FRAME,
    SEEDS_PER_STORY,
    Instruments,
    Picture,
    Row,
    evaluation_settings,
    faces_on,
    look,
    open_instruments,
    stacked,
)
from .markdown import Rows, at, cell, difference, table
from .stories import FRAMES, ToyStory, make_story
from .variants import NARROW_RANK, counted_evaluations, draw_directly, make_portraits

PICTURES = 15
STEPS = 10
"""Of these pictures; fewer than a story's, as they are many."""
RANKS = (NARROW_RANK, 10)
ROUNDS = (1, 2, 3, 4)
MEAN, TRUE = "mean", "true"
DISCOVERED = {f"rank {rank}, {rounds}": (rank, rounds) for rank in RANKS for rounds in ROUNDS}
"""By name: rank and rounds."""
REPORTED = f"rank {RANKS[-1]}, 3"
SOURCES = (MEAN, *DISCOVERED, TRUE)
_SEED = 3  # together with a story's number; `identitystory.drawn_scenes` and `training` have 1 and 2


def open_measure() -> Callable[[int], tuple[Row, dict[str, list[Picture]]]]:
    """`measure_story` with the shipped weights."""
    return partial(measure_story, open_instruments(evaluation_settings(steps=STEPS)))


def measure_story(instruments: Instruments, number: int) -> tuple[Row, dict[str, list[Picture]]]:
    """Draw the first character of a story with the identity of every source.

    Returns:
        The numbers, JSON's own types only, None where there is nothing to measure; and the first pictures by source.
    """
    toy, studio, first_seed = make_story(number), instruments.studio, number * SEEDS_PER_STORY
    character, alone = toy.story.characters[0], scenes_of(toy)
    with counted_evaluations(studio) as counts:
        portraits = make_portraits(studio, character, toy.people[0], first_seed)
        found = {
            name: discover_identity(portraits.embeddings, rank, studio.settings.keep_ratio, rounds)
            for name, (rank, rounds) in DISCOVERED.items()
        }
        embeddings = {name: each.embedding for name, each in found.items()}
        embeddings |= {MEAN: portraits.embeddings.mean(dim=0), TRUE: portraits.true_embeddings.mean(dim=0)}
        pictures = {
            name: draw_scenes(studio, alone, studio.identity(character, embeddings[name], {}), first_seed + FIRST_FRAME)
            for name in SOURCES
        }
    faces = {name: faces_in(instruments, alone, drawn) for name, drawn in pictures.items()}
    portrait_faces = faces_on(instruments, portraits)
    row = {
        "story": number,
        "people": [character.description],
        "evaluations": sum(counts),
        "face_sim": {name: mean_pairwise_cosine(stacked(each)) for name, each in faces.items()},
        "faces": {name: sum(face is not None for face in each) for name, each in faces.items()},
        "kept": {MEAN: len(portraits.embeddings)} | {name: len(each.kept) for name, each in found.items()},
        "energy": {name: each.rounds[0].energy for name, each in found.items()},
        "cohesion": {MEAN: found[REPORTED].cohesion_before}
        | {name: each.cohesion_after for name, each in found.items()},
        "faces_kept": {MEAN: mean_pairwise_cosine(stacked(portrait_faces))}
        | {
            name: mean_pairwise_cosine(stacked([portrait_faces[place] for place in each.kept]))
            for name, each in found.items()
        },
    }
    return row, {name: drawn[:FRAMES] for name, drawn in pictures.items()}


def scenes_of(toy: ToyStory) -> Story:
    """The first character of a story alone, at one place after the other."""
    random, first, character = np.random.default_rng([toy.number, _SEED]), toy.plans[0], toy.story.characters[0]
    plans = [
        replace(
            sample_plan(random, held_out=True, people=1),
            people=first.people[:1],
            place=PLACES[picture % len(PLACES)],
            names_clothes=first.names_clothes[:1],
            names_hair=(True,),
        )
        for picture in range(PICTURES)
    ]
    told = {"name": character.name, "word": character.word, "description": character.description}
    return Story.parse({"characters": [told], "frames": [caption_of(plan, random) for plan in plans]})


def draw_scenes(studio: Studio, story: Story, identity: Identity, first_seed: int) -> list[Picture]:
    """All frames as one batch, by the identity generator alone."""
    noise = frames_noise(studio, story, first_seed)
    return list(decode(studio.pipe, draw_directly(studio, story.frames, noise, first_seed, {identity.name: identity})))


def faces_in(instruments: Instruments, story: Story, pictures: Sequence[Picture]) -> list[Float[Tensor, " d"] | None]:
    """The face of the story's only character in every picture; None where there is none."""
    seen = [look(instruments, frame, picture) for frame, picture in zip(story.frames, pictures, strict=True)]
    return [next((one.face for one in found.values()), None) for found in seen]


def make_tables(rows: Rows) -> str:
    """The table, as Markdown."""
    pictures = sum(len(row["faces"]) for row in rows) * PICTURES
    evaluations = sum(row["evaluations"] for row in rows)
    lines = []
    for name in SOURCES:
        found = sum(row["faces"][name] for row in rows)
        kept = "" if name == TRUE else f"{rows[0]['kept'][name]}"
        gain = "" if name == MEAN else difference(rows, at("face_sim", name), at("face_sim", MEAN))
        cells = [cell(rows, at(key, name)) if name != TRUE else "" for key in ("cohesion", "faces_kept")]
        energy = cell(rows, at("energy", name)) if name in DISCOVERED else ""
        counted = f"{found} of {PICTURES * len(rows)}"
        lines.append((_label(name), kept, energy, *cells, counted, cell(rows, at("face_sim", name)), gain))
    titles = (
        "**Identity from**", "portraits kept", "energy in the leading directions, first round",
        "likeness of their embeddings", "likeness of their faces", "faces found", "Face-Sim of 15 pictures",
        "minus the mean's",
    )  # fmt: skip
    return (
        f"{len(rows)} stories of {PICTURES} pictures of one person, drawn with each of {len(SOURCES)} identities in "
        f"{STEPS} steps, {pictures:,} in all; {evaluations:,} UNet evaluations. Means over people, with 95 % bootstrap "
        "intervals; differences are taken person by person.\n\n" + table(titles, lines)
    )


def _label(name: str) -> str:
    if name in DISCOVERED:
        rank, rounds = DISCOVERED[name]
        return f"discovery, rank {rank}, {rounds} {'rounds' if rounds > 1 else 'round'}"
    return {MEAN: "all portraits (0 rounds)", TRUE: "*drawings of one true person*"}[name]
