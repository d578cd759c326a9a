"""The numbers of one story of the toy world."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.identity import Discovery, Identity
from ...core.layout import Layout
from ...core.redenoise import to_latent_grid
from ...core.scores.cosines import likeness, mean_cosine_between, mean_pairwise_cosine
from ...core.scores.statistics import mean_of_known
from ...core.shapes import Bool, Float
from ...core.story import Frame
from ...core.toyworld.detector import ToyDetector, load_detector
from ...core.toyworld.identity_encoder import load_identity_encoder
from ...core.toyworld.recogniser import ToyRecogniser
from ...core.toyworld.sizes import TOY_WORLD
from ...headless.detection import toyworld_folder
from ...headless.run_settings import RunSettings, toyworld_settings
from ...headless.studio import Studio, open_studio
from ..toyworld.plan import Plan
from ..toyworld.probe import PERSON, SCENE, Probe, answers_of_person, answers_of_scene, load_probe
from ..toyworld.world import Scene, draw
from .scores import ghost_share, psnr, seam_step
from .stories import ToyStory, make_story, with_others
from .variants import (
    DIRECT,
    FIXED,
    LARGE,
    NARROW,
    TEMPLATE,
    FrameVariants,
    Portraits,
    counted_evaluations,
    draw_variants,
    final_masks,
    make_identities,
    make_portraits,
)

DRAWN, OTHERS = "drawn", "others"
"""Drawings of the frames: with one and the same people throughout, and with other people in every frame."""
SEEDS_PER_STORY = 1000
FIRST_FRAME = 900

Picture = Float[Tensor, "h w 3"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Instruments:
    """What draws, and what measures."""

    studio: Studio
    detector: ToyDetector
    recogniser: ToyRecogniser
    probe: Probe


@dataclass(frozen=True)
class Seen:
    """A character found in a picture: the mask, and the face's vector if there is a head."""

    mask: Bool[Tensor, "h w"]
    face: Float[Tensor, " d"] | None


def evaluation_settings(**changes: Any) -> RunSettings:
    """How the stories are drawn; rank 10, and a fifth of the steps before re-denoising, as in the paper."""
    return toyworld_settings(**{"steps": 25, "start": 5, "rank": 10, "on_missing": "skip", **changes})


def open_instruments(settings: RunSettings) -> Instruments:
    """Load everything, from the folder of the settings' checkpoint."""
    folder = toyworld_folder(settings)
    detector = load_detector(folder)
    studio = open_studio(settings, settings.device, detector)
    return Instruments(studio, detector, ToyRecogniser(detector, load_identity_encoder(folder)), load_probe(folder))


def open_measure() -> Callable[[int], tuple[Row, dict[str, list[Picture]]]]:
    """`measure_story` with the shipped weights."""
    return partial(measure_story, open_instruments(evaluation_settings()))


def measure_story(instruments: Instruments, number: int) -> tuple[Row, dict[str, list[Picture]]]:
    """Draw a story in every variant and measure it.

    Returns:
        The numbers, JSON's own types only, None where there is nothing to measure; and the pictures by variant, one
        per frame.
    """
    toy, studio = make_story(number), instruments.studio
    first_seed = number * SEEDS_PER_STORY
    with counted_evaluations(studio) as counts:
        identities, about = find_identities(instruments, toy, first_seed)
        frames = [
            draw_variants(studio, frame, first_seed + FIRST_FRAME + frame.index, identities)
            for frame in toy.story.frames
        ]
    pictures = {name: [frame.pictures[name] for frame in frames] for name in frames[0].pictures}
    pictures |= drawings(toy)
    seen = {name: look_at_all(instruments, toy, images) for name, images in pictures.items()}
    row = {
        "story": number,
        "people": [character.description for character in toy.story.characters],
        "prompts": [frame.prompt for frame in toy.story.frames],
        "evaluations": sum(counts),
        "faces_wanted": len(toy.people) * len(frames),
        "identity": about,
        **measure_faces(toy, seen),
        "agreement": {
            name: measure_agreement(instruments.probe, toy.plans, images, seen[name], toy)
            for name, images in pictures.items()
        },
        **measure_masks(instruments, frames, seen[TEMPLATE]),
    }
    return row, pictures


def find_identities(
    instruments: Instruments, toy: ToyStory, first_seed: int
) -> tuple[dict[str, dict[str, Identity]], dict[str, float | None]]:
    """The identities of all characters, by source and name; and how they came about, averaged over the characters."""
    studio, identities, described = instruments.studio, {}, []
    for place, (character, person) in enumerate(zip(toy.story.characters, toy.people, strict=True)):
        portraits = make_portraits(studio, character, person, first_seed + place * studio.settings.portraits)
        made, found = make_identities(studio, character, portraits)
        for source, identity in made.items():
            identities.setdefault(source, {})[character.name] = identity
        described.append(describe_identities(instruments, portraits, found))
    return identities, {key: mean_of_known([one[key] for one in described]) for key in described[0]}


def describe_identities(
    instruments: Instruments, portraits: Portraits, found: Mapping[str, Discovery]
) -> dict[str, float | None]:
    """How alike the portraits are, all of them and those kept, in both encoders' eyes; and discovered against mean."""
    wide, narrow = found["discovered"], found[NARROW]
    mean, faces = portraits.embeddings.mean(dim=0, keepdim=True), faces_on(instruments, portraits)
    return {
        "cohesion_all": wide.cohesion_before,
        "cohesion_kept": wide.cohesion_after,
        "cohesion_narrow": narrow.cohesion_after,
        "cohesion_true": mean_pairwise_cosine(portraits.true_embeddings),
        "discovered_and_mean": mean_cosine_between(wide.embedding[None], mean),
        "narrow_and_mean": mean_cosine_between(narrow.embedding[None], mean),
        "energy": wide.rounds[0].energy,
        "energy_narrow": narrow.rounds[0].energy,
        "faces_all": likeness(faces).mean,
        "faces_kept": likeness([faces[position] for position in wide.kept]).mean,
        "faces_narrow": likeness([faces[position] for position in narrow.kept]).mean,
    }


def faces_on(instruments: Instruments, portraits: Portraits) -> list[Float[Tensor, " d"] | None]:
    """The face on every portrait that the base model drew."""
    faces = []
    for picture in portraits.pictures:
        people = instruments.detector.people(picture)
        faces.append(instruments.recogniser.embedding_of(picture, people[0].mask) if people else None)
    return faces


def drawings(toy: ToyStory) -> dict[str, list[Picture]]:
    """The frames as the world draws them: what the measures give for pictures without fault."""
    return {
        name: [torch.tensor(scene.image).float() / 255 for scene in scenes]
        for name, scenes in drawn_scenes(toy).items()
    }


def drawn_scenes(toy: ToyStory) -> dict[str, list[Scene]]:
    """The scenes of `drawings`; the people of a plan are in the order of the story's characters."""
    random = np.random.default_rng([toy.number, 1])
    same = [draw(plan, random) for plan in toy.plans]
    return {DRAWN: same, OTHERS: [draw(with_others(plan, random), random) for plan in toy.plans]}


def look(instruments: Instruments, frame: Frame, picture: Picture) -> dict[str, Seen]:
    """The characters of the cast who are found in a picture, by name, by the same rules for every variant."""
    exact = replace(instruments.studio, settings=replace(instruments.studio.settings, dilate=0))
    layout = exact.find(frame, picture, None)
    return {
        name: Seen(mask, instruments.recogniser.embedding_of(picture, mask))
        for name, mask in zip(layout.names, layout.masks, strict=True)
        if mask.any()
    }


def anybody(detector: ToyDetector, picture: Picture) -> Bool[Tensor, "h w"]:
    """Where any person is in a picture."""
    nobody = torch.zeros(picture.shape[:2], dtype=torch.bool)
    return torch.stack([nobody, *(found.mask for found in detector.people(picture))]).any(dim=0)


def look_at_all(instruments: Instruments, toy: ToyStory, pictures: Sequence[Picture]) -> list[dict[str, Seen]]:
    """Who is found in the pictures of a story's frames."""
    return [look(instruments, frame, picture) for frame, picture in zip(toy.story.frames, pictures, strict=True)]


def faces_of(toy: ToyStory, seen: Sequence[Mapping[str, Seen]]) -> list[list[Float[Tensor, " d"] | None]]:
    """For each of the story's characters, their faces in the frames."""
    names = [character.name for character in toy.story.characters]
    return [[frame[name].face if name in frame else None for frame in seen] for name in names]


def face_sim(toy: ToyStory, seen: Sequence[Mapping[str, Seen]]) -> float | None:
    """Face-Sim, the mean over the people."""
    return mean_of_known([likeness(one).mean for one in faces_of(toy, seen)])


def measure_faces(toy: ToyStory, seen: Mapping[str, Sequence[Mapping[str, Seen]]]) -> Row:
    """Face-Sim, faces found, and likeness to the drawn person; story means over the people."""
    faces = {variant: faces_of(toy, frames) for variant, frames in seen.items()}
    found = {variant: [likeness(one) for one in people] for variant, people in faces.items()}
    true = [stacked(one) for one in faces[DRAWN]]
    to_true = {
        variant: [mean_cosine_between(stacked(own), other) for own, other in zip(people, true, strict=True)]
        for variant, people in faces.items()
        if variant != DRAWN
    }
    return {
        "face_sim": {variant: mean_of_known([one.mean for one in people]) for variant, people in found.items()},
        "faces": {variant: sum(one.faces for one in people) for variant, people in found.items()},
        "likeness": {variant: mean_of_known(people) for variant, people in to_true.items()},
    }


def stacked(vectors: Sequence[Tensor | None]) -> Float[Tensor, "n d"]:
    """The vectors that are known, as rows."""
    known = [vector for vector in vectors if vector is not None]
    return torch.stack(known) if known else torch.zeros(0, 1)


def measure_agreement(
    probe: Probe, plans: Sequence[Plan], images: Sequence[Picture], seen: Sequence[Mapping[str, Seen]], toy: ToyStory
) -> dict[str, float | None]:
    """The share of a story's frames (and people) in which each attribute is as the caption says.

    A character who is not found agrees in nothing. Clothes count only where the caption mentions them.
    """
    right: dict[str, list[float | None]] = {name: [] for name in (*SCENE, *PERSON)}
    for plan, image, found in zip(plans, images, seen, strict=True):
        true, read = answers_of_scene(plan), probe.read_scene(image)
        for name in SCENE:
            right[name].append(float(read[name] == true[name]))
        for place, character in enumerate(toy.story.characters):
            true = answers_of_person(plan.people[place], plan.poses[place])
            one = found.get(character.name)
            read = probe.read_person(image, one.mask) if one else {}
            for name in PERSON:
                if name != "clothes" or plan.names_clothes[place]:
                    right[name].append(float(read.get(name) == true[name]))
    shares = {name: mean_of_known(values) for name, values in right.items()}
    return shares | {
        "scene": mean_of_known([shares[name] for name in SCENE]),
        "person": mean_of_known([shares[name] for name in PERSON]),
    }


def measure_masks(instruments: Instruments, frames: Sequence[FrameVariants], seen: Sequence[Mapping[str, Seen]]) -> Row:
    """The background outside the final masks, and the edges of masks that grow and of masks that do not."""
    background, edges = [], {"discovered": [], FIXED: [], LARGE: []}
    for frame, people in zip(frames, seen, strict=True):
        if not frame.layout.masks.any():
            continue  # nobody was found, nothing was drawn again
        old_figure = torch.stack([one.mask for one in people.values()]).any(dim=0) if people else None
        settings, grid = instruments.studio.settings, frame.latents[TEMPLATE].shape[-2:]
        background.append(_background(frame, final_cells(settings, frame.layout, grid, grown=True)))
        for name, measured in edges.items():
            cells = final_cells(settings, frame.layout, grid, grown=name != FIXED)
            measured.append(_edges(instruments.detector, frame, name, cells, old_figure))
    largest = max((one["latent_difference"] for one in background), default=None)
    return {
        "background": {**_means(background), "latent_difference": largest},
        "edges": {name: _means(values) for name, values in edges.items()},
    }


def final_cells(
    settings: RunSettings, layout: Layout, grid: Sequence[int], grown: bool = True
) -> Bool[Tensor, "lh lw"]:
    """The cells of a latent of some height and width that belong to a character at the last step."""
    return to_latent_grid(final_masks(settings, layout, grown), grid[0], grid[1]).any(dim=0)[0]


def in_pixels(cells: Bool[Tensor, "lh lw"]) -> Bool[Tensor, "h w"]:
    """The pixels of latent cells."""
    return cells.repeat_interleave(TOY_WORLD.latent_ratio, dim=0).repeat_interleave(TOY_WORLD.latent_ratio, dim=1)


def largest_change(latent: Tensor, template: Tensor, cells: Bool[Tensor, "lh lw"]) -> float:
    """How far a latent is from the template's outside some cells."""
    return float(((latent - template).abs().amax(dim=(0, 1)) * ~cells).max())


def seam_against(picture: Picture, template: Picture, pasted: Bool[Tensor, "h w"]) -> float | None:
    """How much sharper the picture is than the template across the edge of what was pasted, in levels of 255."""
    steps = seam_step(picture, pasted), seam_step(template, pasted)
    return None if None in steps else 255 * (steps[0] - steps[1])  # pyright: ignore


def _background(frame: FrameVariants, cells: Bool[Tensor, "lh lw"]) -> dict[str, Any]:
    outside, template = ~in_pixels(cells), frame.pictures[TEMPLATE]
    return {
        "latent_difference": largest_change(frame.latents["discovered"], frame.latents[TEMPLATE], cells),
        "psnr": psnr(frame.pictures["discovered"], template, outside),
        "psnr_direct": psnr(frame.pictures[DIRECT], template, outside),
        "covered": float(cells.float().mean()),
    }


def _edges(
    detector: ToyDetector,
    frame: FrameVariants,
    name: str,
    cells: Bool[Tensor, "lh lw"],
    old_figure: Bool[Tensor, "h w"] | None,
) -> dict[str, float | None]:
    picture, template = frame.pictures[name], frame.pictures[TEMPLATE]
    ghost = None if old_figure is None else ghost_share(picture, template, anybody(detector, picture), old_figure)
    return {"ghost": ghost, "seam": seam_against(picture, template, in_pixels(cells))}


def _means(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    return {key: mean_of_known([row[key] for row in rows]) for key in rows[0]} if rows else {}
