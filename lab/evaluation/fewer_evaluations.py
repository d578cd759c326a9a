"""Ways to draw a story with fewer evaluations of the networks, measured against the way of IdentityStory.

The templates of all but the few steps are the same pictures, as are the starting noises of all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...core.guidance import OWN, SHARED, TEMPLATES
from ...core.identity import Identity, discover_identity, largest_usable_rank
from ...core.identity_discovery import identity_movement
from ...core.layout import Layout
from ...core.scores.statistics import mean_of_known
from ...core.shapes import Float
from ...headless.studio import Studio
from ..toyworld.probe import PERSON, SCENE
from .identitystory import (
    DRAWN,
    FIRST_FRAME,
    SEEDS_PER_STORY,
    Instruments,
    Picture,
    Row,
    evaluation_settings,
    final_cells,
    in_pixels,
    largest_change,
    look_at_all,
    measure_agreement,
    measure_faces,
    open_instruments,
    seam_against,
)
from .identitystory import drawings as reference_drawings
from .markdown import Rows, about, at, cell, difference, table
from .scores import psnr
from .stories import ToyStory, make_story
from .variants import TEMPLATE, Portraits, counted_cells, counted_evaluations, make_portraits, silent

FEW_PORTRAITS, REGION = "until settled", "region"
WAYS: Mapping[str, Mapping[str, Any]] = {
    OWN: {},
    SHARED: {"guidance": SHARED},
    TEMPLATES: {"guidance": TEMPLATES},
    FEW_PORTRAITS: {},
    REGION: {"region": True},
    "8 steps": {"steps": 8, "start": 0.2},
    "4 steps": {"steps": 4, "start": 0.2},
}
"""The settings of each way, where they differ from those of the evaluation."""
DRAWINGS = (TEMPLATE, *WAYS)
BATCH, TOLERANCE = 8, 0.01
"""Portraits drawn at a time, and how little the last of them may move the identity to be the last."""
_LABELS = {
    TEMPLATE: "the template",
    OWN: "as in the paper: 25 steps, 64 portraits, own unconditional",
    SHARED: "one unconditional for all characters of a frame",
    TEMPLATES: "the template's unconditional",
    FEW_PORTRAITS: f"portraits until {BATCH} more move the identity by less than {TOLERANCE}",
    REGION: "a region around each mask, in place of the whole picture",
    "8 steps": "8 steps",
    "4 steps": "4 steps",
}


@dataclass(frozen=True)
class DrawnFrame:
    """A frame drawn in one way: the template and the finished frame, decoded and not."""

    template: Picture
    picture: Picture
    template_latent: Float[Tensor, "1 c lh lw"]
    latent: Float[Tensor, "1 c lh lw"]
    layout: Layout


def open_measure() -> Callable[[int], tuple[Row, dict[str, list[Picture]]]]:
    """`measure_story` with the shipped weights."""
    return partial(measure_story, open_instruments(evaluation_settings()))


def measure_story(instruments: Instruments, number: int) -> tuple[Row, dict[str, list[Picture]]]:
    """Draw a story's frames in every way and measure them.

    Returns:
        The numbers, JSON's own types only, None where there is nothing to measure; and the pictures by way, one per
        frame.
    """
    toy, counts, whole, edges = make_story(number), dict[str, int](), dict[str, float](), dict[str, Row]()
    with counted_evaluations(instruments.studio) as of_portraits:
        identities, portraits = find_identities(instruments.studio, toy)
    pictures: dict[str, list[Picture]] = {}
    for way, changes in WAYS.items():
        studio = replace(instruments.studio, settings=replace(instruments.studio.settings, **changes))
        found = identities[FEW_PORTRAITS if way == FEW_PORTRAITS else OWN]
        with counted_evaluations(studio) as evaluations, counted_cells(studio) as cells:
            frames = draw_frames(studio, toy, found)
        counts[way], whole[way] = sum(evaluations), sum(cells) / frames[0].latent[0, 0].numel()
        edges[way] = measure_edges(studio, frames)
        if way == OWN:
            pictures[TEMPLATE] = [frame.template for frame in frames]
        pictures[way] = [frame.picture for frame in frames]
    pictures |= reference_drawings(toy)
    seen = {name: look_at_all(instruments, toy, images) for name, images in pictures.items()}
    row = {
        "story": number,
        "people": [character.description for character in toy.story.characters],
        "prompts": [frame.prompt for frame in toy.story.frames],
        "evaluations": sum(of_portraits) + sum(counts.values()),
        "evaluations_by_way": counts,
        "whole_pictures_by_way": whole,
        "edges": edges,
        "portraits": portraits,
        "moved": [
            1 - float(torch.nn.functional.cosine_similarity(found.embedding, few.embedding, dim=0))
            for found, few in zip(identities[OWN].values(), identities[FEW_PORTRAITS].values(), strict=True)
        ],
        "faces_wanted": len(toy.people) * len(toy.plans),
        **measure_faces(toy, seen),
        "agreement": {
            name: measure_agreement(instruments.probe, toy.plans, images, seen[name], toy)
            for name, images in pictures.items()
        },
    }
    return row, pictures


def find_identities(studio: Studio, toy: ToyStory) -> tuple[dict[str, dict[str, Identity]], dict[str, list[int]]]:
    """Every character's identity from all portraits and from the first ones, and from how many, by the ways' names."""
    identities: dict[str, dict[str, Identity]] = {OWN: {}, FEW_PORTRAITS: {}}
    used: dict[str, list[int]] = {OWN: [], FEW_PORTRAITS: []}
    first_seed = toy.number * SEEDS_PER_STORY
    for place, (character, person) in enumerate(zip(toy.story.characters, toy.people, strict=True)):
        drawn = make_portraits(studio, character, person, first_seed + place * studio.settings.portraits)
        for way, count in ((OWN, len(drawn.embeddings)), (FEW_PORTRAITS, settled_after(studio, drawn))):
            chosen = studio.settings
            rows = drawn.embeddings[:count]
            rank = min(chosen.rank, largest_usable_rank(count, rows.shape[1], chosen.keep_ratio, chosen.rounds))
            found = discover_identity(rows, rank, chosen.keep_ratio, chosen.rounds)
            identities[way][character.name] = studio.identity(character, found.embedding, {})
            used[way].append(count)
    return identities, used


def settled_after(studio: Studio, portraits: Portraits) -> int:
    """After how many portraits, drawn in batches, the identity has settled; all of them if it never does."""
    chosen, total = studio.settings, len(portraits.embeddings)
    for count in range(2 * BATCH, total, BATCH):
        rows = portraits.embeddings[:count]
        if identity_movement(rows, BATCH, chosen.rank, chosen.keep_ratio, chosen.rounds) < TOLERANCE:
            return count
    return total


def draw_frames(studio: Studio, toy: ToyStory, identities: Mapping[str, Identity]) -> list[DrawnFrame]:
    """The frames of a story."""
    frames = []
    for frame in toy.story.frames:
        cache = studio.sample_frame(frame, toy.number * SEEDS_PER_STORY + FIRST_FRAME + frame.index, silent)
        template = studio.picture(cache.final)
        layout = studio.find(frame, template, None)
        latent = studio.put_in(frame, cache, layout, identities, silent)
        frames.append(DrawnFrame(template, studio.picture(latent), cache.final, latent, layout))
    return frames


def measure_edges(studio: Studio, frames: Sequence[DrawnFrame]) -> dict[str, float | None]:
    """What changed outside the final masks, and the seams along them, averaged over frames that show somebody."""
    changes, likenesses, seams = [], [], []
    for frame in frames:
        if not frame.layout.masks.any():
            continue
        cells = final_cells(studio.settings, frame.layout, frame.latent.shape[-2:])
        pasted = in_pixels(cells)
        changes.append(largest_change(frame.latent, frame.template_latent, cells))
        likenesses.append(psnr(frame.picture, frame.template, ~pasted))
        seams.append(seam_against(frame.picture, frame.template, pasted))
    return {
        "latent_difference": max(changes, default=None),
        "psnr": mean_of_known(likenesses),
        "seam": mean_of_known(seams),
    }


def make_tables(rows: Rows) -> str:
    """All tables, as Markdown."""
    return "\n\n".join(part(rows) for part in (about, _cost_table, _face_table, _edge_table, _agreement_table))


def _cost_table(rows: Rows) -> str:
    lines = []
    for way in WAYS:
        drawn = way if way == FEW_PORTRAITS else OWN
        costs = [
            [row[key][way] / len(row["prompts"]) for row in rows]
            for key in ("evaluations_by_way", "whole_pictures_by_way")
        ]
        costs.append([count for row in rows for count in row["portraits"][drawn]])
        lines.append((_LABELS[way], *(f"{sum(each) / len(each):.1f}" for each in costs)))
    return table(("**Cost**", "evaluations a frame", "in whole pictures, by cells", "portraits a character"), lines)


def _face_table(rows: Rows) -> str:
    names = (TEMPLATE, *WAYS, DRAWN)
    lines = [
        (
            _LABELS.get(name, f"*{name}*"),
            cell(rows, at("face_sim", name)),
            difference(rows, at("face_sim", name), at("face_sim", OWN)) if name in WAYS and name != OWN else "",
        )
        for name in names
    ]
    return table(("**Face-Sim**", "mean", "minus the paper's"), lines)


def _edge_table(rows: Rows) -> str:
    lines = []
    for way in WAYS:
        largest = max((row["edges"][way]["latent_difference"] or 0.0 for row in rows), default=0.0)
        psnrs, seams = at("edges", way, "psnr"), at("edges", way, "seam")
        change = "" if way == OWN else difference(rows, seams, at("edges", OWN, "seam"), digits=2)
        lines.append((_LABELS[way], f"{largest:g}", cell(rows, psnrs, digits=1), cell(rows, seams, digits=2), change))
    titles = (
        "latent, largest difference",
        "picture, PSNR in dB (100 where equal)",
        "seam, levels of 255",
        "seam minus the paper's",
    )
    return table(("**Outside the final masks, and along them**", *titles), lines)


def _agreement_table(rows: Rows) -> str:
    lines = [
        (
            name,
            *(cell(rows, at("agreement", way, name), 100, 1) for way in DRAWINGS),
            *(
                difference(rows, at("agreement", way, name), at("agreement", OWN, name), scale=100, digits=1)
                for way in (TEMPLATES, REGION, "8 steps")
            ),
        )
        for name in ("scene", *SCENE, "person", *PERSON)
    ]
    titles = (*DRAWINGS, "template's − own", "region − own", "8 steps − own")
    return table(("**As the caption says, %**", *titles), lines)
