"""The numbers of one story of the toy world whose frames are drawn together (Storynizor, section 3.1)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations

import torch
from torch import Tensor

from ...core.scores.cosines import mean_pairwise_cosine
from ...core.scores.statistics import mean_of_known
from ...core.shapes import Bool, Float
from ...core.toyworld.detector import ToyDetector, box_around
from ...core.toyworld.sizes import TOY_WORLD
from ...headless.studio import Studio
from ..toyworld.probe import Probe
from .auto_masks import LOOKED_AT_STEPS, measure_drawn, measure_maps
from .drawing_modes import DRAWING_MODES, OFF, ON, draw_story
from .identitystory import (
    DRAWN,
    FIRST_FRAME,
    OTHERS,
    SEEDS_PER_STORY,
    Instruments,
    Picture,
    Row,
    Seen,
    anybody,
    drawings,
    drawn_scenes,
    evaluation_settings,
    faces_of,
    look_at_all,
    measure_agreement,
    measure_faces,
    open_instruments,
    stacked,
)
from .layouts import measure_layouts
from .scores import mean_difference, psnr, same_share
from .stories import ToyStory, make_story
from .variants import NARROW_RANK, counted_evaluations

PORTRAITS = 16
"""The number of portraits whose mean is an identity of re-denoising."""
REDENOISED = 20
"""How many stories are re-denoised; the first ones."""
_GROUND = 60 * TOY_WORLD.scale
"""The line on which the toy world's people stand, in pixels."""

Pictures = Mapping[str, Sequence[Picture]]
SeenBy = Mapping[str, Sequence[Mapping[str, Seen]]]


def open_measure() -> Callable[[int], tuple[Row, dict[str, list[Picture]]]]:
    """`measure_story` with the shipped weights."""
    return partial(measure_story, open_instruments(evaluation_settings(portraits=PORTRAITS, rank=NARROW_RANK)))


def measure_story(
    instruments: Instruments, number: int, redenoised: int = REDENOISED
) -> tuple[Row, dict[str, list[Picture]]]:
    """Draw a story in every mode and measure it; the first `redenoised` stories are re-denoised too.

    Returns:
        The numbers, JSON's own types only, None where there is nothing to measure; and the pictures by mode, one per
        frame.
    """
    toy, studio = make_story(number), instruments.studio
    first_seed, first_frame = number * SEEDS_PER_STORY, number * SEEDS_PER_STORY + FIRST_FRAME
    with counted_evaluations(studio) as counts:
        drawn = {mode.name: draw_story(studio, toy.story, mode, first_frame, LOOKED_AT_STEPS) for mode in DRAWING_MODES}
        pictures = {name: each.pictures for name, each in drawn.items()} | drawings(toy)
        seen = {name: look_at_all(instruments, toy, images) for name, images in pictures.items()}
        own = masks_in(seen[ON])
        row = {
            **measure_frames(instruments, toy, pictures, seen),
            "drawn_masks": measure_drawings(studio, toy, pictures[DRAWN], seen[DRAWN], first_frame),
            "running_masks": {str(done): measure_maps(maps, toy.story, own) for done, maps in drawn[ON].maps.items()},
            "layouts": measure_layouts(instruments, toy, first_seed, first_frame) if number < redenoised else None,
        }
    return {**row, "evaluations": sum(counts)}, pictures


def measure_frames(instruments: Instruments, toy: ToyStory, pictures: Pictures, seen: SeenBy) -> Row:
    """What a row says of a story's frames, drawn in every mode, and of the story itself."""
    return {
        "story": toy.number,
        "people": [character.description for character in toy.story.characters],
        "prompts": [frame.prompt for frame in toy.story.frames],
        "faces_wanted": len(toy.people) * len(toy.story.frames),
        **{key: value for key, value in measure_faces(toy, seen).items() if key != "likeness"},
        **measure_looks(instruments.probe, toy, pictures, seen),
        "background": measure_backgrounds(instruments.detector, pictures),
    }


def measure_drawings(
    studio: Studio,
    toy: ToyStory,
    pictures: Sequence[Picture],
    seen: Sequence[Mapping[str, Seen]],
    first_seed: int,
) -> Row:
    """`measure_drawn` of the drawings of a story, whose exact masks are known."""
    names = [character.name for character in toy.story.characters]
    exact = [dict(zip(names, torch.tensor(scene.masks), strict=True)) for scene in drawn_scenes(toy)[DRAWN]]
    return measure_drawn(studio, toy.story, torch.stack(list(pictures)), exact, masks_in(seen), first_seed)


def masks_in(seen: Sequence[Mapping[str, Seen]]) -> list[dict[str, Bool[Tensor, "h w"]]]:
    """The masks of the characters who were found, frame by frame."""
    return [{name: one.mask for name, one in found.items()} for found in seen]


def measure_looks(probe: Probe, toy: ToyStory, pictures: Pictures, seen: SeenBy) -> Row:
    """How alike people look over the frames, how alike two people look, and what the caption asked for."""
    return {
        "clothes": {mode: measure_clothes(probe, toy, images, seen[mode]) for mode, images in pictures.items()},
        "alike": {mode: measure_alike(probe, toy, images, seen[mode]) for mode, images in pictures.items()},
        "leak": {mode: measure_leak(*faces_of(toy, seen[mode])) for mode in pictures} if len(toy.people) == 2 else None,
        "agreement": {
            mode: measure_agreement(probe, toy.plans, images, seen[mode], toy) for mode, images in pictures.items()
        },
    }


def measure_clothes(
    probe: Probe, toy: ToyStory, pictures: Sequence[Picture], seen: Sequence[Mapping[str, Seen]]
) -> dict[str, float | None]:
    """The share of pairs of frames in which the probe reads the same colour of a character's clothes.

    Returns:
        `all`: the mean over all characters; `told`: over those whose clothes the caption mentions; `untold`: over the
        others. Files of rows have these names.
    """
    shares: dict[str, list[float | None]] = {"all": [], "told": [], "untold": []}
    for place, character in enumerate(toy.story.characters):
        share = same_share(read_of(probe, character.name, "clothes", pictures, seen))
        shares["all"].append(share)
        shares["told" if toy.plans[0].names_clothes[place] else "untold"].append(share)
    return {name: mean_of_known(values) for name, values in shares.items()}


def read_of(
    probe: Probe, name: str, attribute: str, pictures: Sequence[Picture], seen: Sequence[Mapping[str, Seen]]
) -> list[str | None]:
    """What the probe reads of a character in every frame; None where they were not found."""
    return [
        probe.read_person(picture, found[name].mask)[attribute] if name in found else None
        for picture, found in zip(pictures, seen, strict=True)
    ]


def measure_alike(
    probe: Probe, toy: ToyStory, pictures: Sequence[Picture], seen: Sequence[Mapping[str, Seen]]
) -> float | None:
    """The mean cosine of the figures of every two frames, in `figure_features`; the mean over the people."""
    alike = []
    for character in toy.story.characters:
        figures = [
            figure_features(probe, picture, found[character.name].mask)
            for picture, found in zip(pictures, seen, strict=True)
            if character.name in found
        ]
        alike.append(mean_pairwise_cosine(stacked(figures)))
    return mean_of_known(alike)


@torch.no_grad()
def figure_features(
    probe: Probe, picture: Float[Tensor, "h w 3"], mask: Bool[Tensor, "h w"]
) -> Float[Tensor, " features"]:
    """What the probe sees in a figure before its last layer; the probe never learned who somebody is.

    Figures are cut out along their masks and put in the middle of an empty grey picture, so that neither background
    nor place counts. What the probe reads of people (class word, hair, pose, clothes) does, poses too: figures of one
    person in other poses are not all alike.
    """
    left, top, right, bottom = box_around(mask).int().tolist()
    height, width = bottom - top, right - left
    row, column = max(_GROUND - height, 0), (TOY_WORLD.picture_side - width) // 2
    place = (slice(row, row + height), slice(column, column + width))
    cut = mask[top:bottom, left:right].float()
    alone, where = torch.full_like(picture, 0.5), torch.zeros_like(mask, dtype=picture.dtype)
    where[place] = cut
    alone[place] = torch.lerp(torch.tensor(0.5), picture[top:bottom, left:right], cut[..., None])
    given = torch.cat([alone.movedim(-1, 0), where[None]])[None] * 2 - 1
    return probe.layers[:-1](given)[0]


def measure_leak(
    one: Sequence[Float[Tensor, " d"] | None], other: Sequence[Float[Tensor, " d"] | None]
) -> dict[str, float | None]:
    """How alike the faces of two different people are.

    Returns:
        The mean cosine where both are in one frame, and that of one person's faces with the other's in other frames.
    """
    pairs = [
        (first == second, float(torch.cosine_similarity(a, b, dim=0)))
        for first, a in enumerate(one)
        for second, b in enumerate(other)
        if a is not None and b is not None
    ]
    return {
        "same_frame": mean_of_known([cosine for together, cosine in pairs if together]),
        "other_frames": mean_of_known([cosine for together, cosine in pairs if not together]),
    }


def measure_backgrounds(detector: ToyDetector, pictures: Pictures) -> dict[str, dict[str, float | None]]:
    """How much backgrounds differ between a story's frames, and between a mode and frames drawn by themselves.

    Only pixels count in which the detector sees nobody in either picture.

    Returns:
        For every mode: `diversity`, the mean absolute difference of every two frames; `change` and `psnr`, the mean
        absolute difference from the same frame drawn by itself and the PSNR against it (not for drawings, nor for
        those frames themselves).
    """
    empty = {mode: [~anybody(detector, image) for image in images] for mode, images in pictures.items()}
    found = {}
    for mode, images in pictures.items():
        found[mode] = {"diversity": diversity(images, empty[mode])}
        if mode not in (OFF, DRAWN, OTHERS):
            where = [here & there for here, there in zip(empty[mode], empty[OFF], strict=True)]
            pairs = list(zip(images, pictures[OFF], where, strict=True))
            found[mode]["change"] = mean_of_known([mean_difference(*pair) for pair in pairs])
            found[mode]["psnr"] = mean_of_known([psnr(*pair) for pair in pairs])
    return found


def diversity(pictures: Sequence[Picture], empty: Sequence[Bool[Tensor, "h w"]]) -> float | None:
    """The mean absolute difference of every two pictures where both are empty."""
    return mean_of_known([
        mean_difference(pictures[a], pictures[b], empty[a] & empty[b])
        for a, b in combinations(range(len(pictures)), 2)
    ])  # fmt: skip
