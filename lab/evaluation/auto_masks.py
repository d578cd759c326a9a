"""Automatic masks against exact ones: how well the base model's attention says where people are."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.attention_layout import attention_layout
from ...core.automask import TokenMaps, character_labels, subject_masks
from ...core.layout import Layout
from ...core.map_reader import STEADY
from ...core.scores.statistics import mean_of_known
from ...core.shapes import Bool, Float
from ...core.story import Frame, Story
from ...core.toyworld.detector import mask_overlap
from ...core.toyworld.sizes import TOY_WORLD
from ...headless.shared_frames import encode_together, new_reader, positions_of
from ...headless.studio import Studio
from ...headless.unet_attention import hooked_attention
from .drawing_modes import frames_noise, plan_of

LOOKED_AT_NOISE = (1, 5, 10, 15, 20, 24)
"""After how many of 25 steps a sampling is as noisy as the drawings that are looked at."""
LOOKED_AT_STEPS = (2, 5, 10, 15, 20, 25)
"""After how many steps the running masks of a sampling are looked at."""
"""Decay of the maps that a layout is made of, as the node Layout from Attention has it."""

Masks = Mapping[str, Bool[Tensor, "h w"]]
"""Where everybody is in a frame, by name."""
Maps = Float[Tensor, "n s gh gw"]
"""Token maps of s characters in n frames, on the attention's own grid."""


@torch.no_grad()
def maps_of_noised(
    studio: Studio, story: Story, pictures: Float[Tensor, "n h w 3"], first_seed: int
) -> tuple[dict[int, Maps], Maps]:
    """The token maps of given pictures of a story's frames, at every noise level of a sampling but pure noise.

    Each level is one call of the UNet with the captions: the pictures' latents with the noise that is left after so
    many steps.

    Returns:
        The maps after 1, 2, ... steps' levels, each by itself; and their running average, as a layout has it.
    """
    plan, count = plan_of(studio, cfg=1), len(story.frames)
    reader = new_reader(positions_of(studio.pipe, story), count, decay=0.0)
    denoiser, noise = (
        plan.denoiser(*encode_together(studio.pipe, story.frames)),
        frames_noise(studio, story, first_seed),
    )
    latents = studio.pipe.vae.network.encode(2 * pictures.movedim(-1, 1) - 1) * studio.pipe.vae.config.scaling_factor
    found, steady = {}, None
    with hooked_attention(studio.pipe.unet, cross_attention=reader.read):
        for done, sigma in enumerate(plan.sigmas()[1:-1].tolist(), start=1):
            reader.begin_call(denoiser.prompts, sigma)
            denoiser(latents + sigma * noise, sigma)
            assert reader.maps is not None
            grid = reader.maps.grid
            steady = TokenMaps(grid, STEADY) if steady is None else steady
            steady.next_step()
            found[done] = _now(reader.maps)
            steady.add(found[done].flatten(2), grid)
    assert steady is not None
    return found, _now(steady)


def _now(maps: TokenMaps) -> Maps:
    now = maps.maps(maps.grid)
    assert now is not None
    return now


def measure_maps(maps: Maps, story: Story, true: Sequence[Masks]) -> dict[str, float | None]:
    """Intersection over union of the masks that Otsu's threshold cuts out of maps with the true ones.

    Args:
        maps: The maps of all the story's characters in its frames.
        story: Whose.
        true: For every frame the masks of those to count, exclusive, at the picture's size.

    Returns:
        Means over people and frames. `grid`: of the masks that attention uses, on its own grid, on which a true mask
        has the cells it covers by more than half. `picture`: of those of `attention_layout`, ungrown.
    """
    labels = character_labels(maps, subject_masks(maps.flatten(0, 1)).unflatten(0, maps.shape[:2]))
    names = [character.name for character in story.characters]
    grid, picture = [], []
    for frame, own_maps, own_labels, masks in zip(story.frames, maps, labels, true, strict=True):
        size = (TOY_WORLD.picture_side, TOY_WORLD.picture_side)
        layout = layout_of(frame, dict(zip(names, own_maps, strict=True)), size)
        for name, mask in masks.items():
            cells = on_grid(mask, (maps.shape[2], maps.shape[3])) > 0.5
            grid.append(mask_overlap(own_labels == names.index(name), cells))
            picture.append(mask_overlap(layout.masks[layout.names.index(name)], mask))
    return {"grid": mean_of_known(grid), "picture": mean_of_known(picture)}


def layout_of(
    frame: Frame, maps: Mapping[str, Float[Tensor, "gh gw"]], size: tuple[int, int], dilate_px: int = 0
) -> Layout:
    """What Layout from Attention makes of a frame's maps; whom they do not show has an empty mask."""
    names = [character.name for character in frame.cast]
    own = {name: maps[name] for name in names}
    return attention_layout(own, names, size, frame.label, method="otsu", dilate_px=dilate_px, skip_missing=True)


def on_grid(mask: Bool[Tensor, "h w"], grid: tuple[int, int]) -> Float[Tensor, "gh gw"]:
    """How much of every cell a mask covers."""
    return F.interpolate(mask.float()[None, None], grid, mode="area")[0, 0]


def best_of_grid(mask: Bool[Tensor, "h w"], grid: tuple[int, int]) -> float:
    """The overlap with a mask that is left when it is known on a grid alone, to the share of every cell."""
    cells = on_grid(mask, grid)[None, None]
    again = F.interpolate(cells, tuple(mask.shape), mode="bilinear")[0, 0]
    return mask_overlap(again > 0.5, mask)


def measure_found(true: Sequence[Masks], found: Sequence[Masks]) -> float | None:
    """The same for masks found in another way; a character who was not found has no overlap."""
    overlaps = [
        mask_overlap(other[name], mask) if name in other else 0.0
        for masks, other in zip(true, found, strict=True)
        for name, mask in masks.items()
    ]
    return mean_of_known(overlaps)


def measure_drawn(
    studio: Studio,
    story: Story,
    pictures: Float[Tensor, "n h w 3"],
    exact: Sequence[Masks],
    found: Sequence[Masks],
    first_seed: int,
) -> dict[str, Any]:
    """Masks of drawn scenes: attention's at every level of noise, the detector's, and the best a grid allows."""
    levels, steady = maps_of_noised(studio, story, pictures, first_seed)
    grid = (steady.shape[2], steady.shape[3])
    kept = {str(done): levels[done] for done in LOOKED_AT_NOISE if done in levels}
    return {
        "levels": {done: measure_maps(maps, story, exact) for done, maps in kept.items()},
        "steady": measure_maps(steady, story, exact),
        "detector": measure_found(exact, found),
        "best": mean_of_known([best_of_grid(mask, grid) for masks in exact for mask in masks.values()]),
        "grid": list(grid),
    }
