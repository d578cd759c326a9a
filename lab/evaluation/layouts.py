"""Re-denoising end to end with two layouts of the same templates: the detector's, and the attention's own."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...core.identity import Identity
from ...core.latent_cache import NoisyLatentCache
from ...core.layout import Layout
from ...core.map_reader import STEADY
from ...core.redenoise import scaled_kernel
from ...core.scores.statistics import mean_of_known
from ...core.shapes import Float
from ...core.story import Frame, Story
from ...core.toyworld.detector import mask_overlap
from ...headless.sampling import CONDITIONAL, UNCONDITIONAL
from ...headless.shared_frames import new_reader, positions_of
from ...headless.studio import Studio
from ...headless.unet_attention import hooked_attention
from .auto_masks import layout_of
from .identitystory import (
    Instruments,
    Picture,
    anybody,
    face_sim,
    final_cells,
    in_pixels,
    look_at_all,
    measure_agreement,
)
from .scores import HIGHEST_PSNR, ghost_share, psnr
from .stories import ToyStory
from .variants import TEMPLATE, FrameVariants, make_portraits, silent

DETECTOR, ATTENTION = "detector", "attention"
LAYOUTS = (DETECTOR, ATTENTION)


def template_and_maps(
    studio: Studio, story: Story, frame: Frame, seed: int
) -> tuple[NoisyLatentCache, dict[str, Float[Tensor, "gh gw"]]]:
    """A frame's template, and its characters' maps as Noisy Latent Cache keeps them, by name."""
    place = story.frames.index(frame)
    positions = [[of_frames[place]] for of_frames in positions_of(studio.pipe, story)]
    reader = new_reader(positions, 1, STEADY)
    prompts = (CONDITIONAL,) if studio.settings.cfg == 1 else (UNCONDITIONAL, CONDITIONAL)
    reader.begin_call(prompts, level=0.0)

    def begin(what: str, done: int, total: int) -> None:
        reader.begin_call(prompts, done)

    with hooked_attention(studio.pipe.unet, cross_attention=reader.read):
        cache = studio.sample_frame(frame, seed, begin)
    maps = None if reader.maps is None else reader.maps.maps(reader.maps.grid)
    assert maps is not None
    names = [character.name for character in story.characters]
    return cache, dict(zip(names, maps[0], strict=True))


def find_layouts(studio: Studio, frame: Frame, picture: Picture, maps: Mapping[str, Tensor]) -> dict[str, Layout]:
    """Both layouts of a template, grown alike."""
    settings = studio.settings
    size = (settings.height, settings.width)
    own = layout_of(frame, maps, size, round(scaled_kernel(settings.dilate, *size)))
    return {DETECTOR: studio.find(frame, picture, None), ATTENTION: own}


def mean_identities(studio: Studio, toy: ToyStory, first_seed: int) -> dict[str, Identity]:
    """The identity of every character: the mean of their portraits."""
    found = {}
    for place, (character, person) in enumerate(zip(toy.story.characters, toy.people, strict=True)):
        portraits = make_portraits(studio, character, person, first_seed + place * studio.settings.portraits)
        found[character.name] = studio.identity(character, portraits.embeddings.mean(dim=0), {})
    return found


def measure_layouts(instruments: Instruments, toy: ToyStory, first_seed: int, first_frame: int) -> dict[str, Any]:
    """Draw a story's templates, re-denoise them with both layouts, and measure all three."""
    studio, identities = instruments.studio, mean_identities(instruments.studio, toy, first_seed)
    frames = [_redraw(studio, toy.story, frame, first_frame + frame.index, identities) for frame in toy.story.frames]
    pictures = {source: [variants[source].pictures[source] for variants in frames] for source in LAYOUTS}
    pictures[TEMPLATE] = [variants[DETECTOR].pictures[TEMPLATE] for variants in frames]
    seen = {source: look_at_all(instruments, toy, images) for source, images in pictures.items()}
    result: dict[str, Any] = {
        "face_sim": {source: face_sim(toy, found) for source, found in seen.items()},
        "agreement": {
            source: measure_agreement(instruments.probe, toy.plans, images, seen[source], toy)
            for source, images in pictures.items()
        },
    }
    overlaps = [
        mask_overlap(one, other)
        for variants in frames
        for one, other in zip(variants[DETECTOR].layout.masks, variants[ATTENTION].layout.masks, strict=True)
        if one.any()
    ]
    result["overlap"] = mean_of_known(overlaps)
    for source in LAYOUTS:
        result[source] = _measure_edges(instruments, [variants[source] for variants in frames], source)
    return result


def _redraw(
    studio: Studio, story: Story, frame: Frame, seed: int, identities: Mapping[str, Identity]
) -> dict[str, FrameVariants]:
    """By layout: the template, the re-denoised frame, the latter's layout."""
    cache, maps = template_and_maps(studio, story, frame, seed)
    template = studio.picture(cache.final)
    found = {}
    for source, layout in find_layouts(studio, frame, template, maps).items():
        again = studio.put_in(frame, cache, layout, identities, silent)
        pictures = {TEMPLATE: template, source: studio.picture(again)}
        found[source] = FrameVariants(pictures, {TEMPLATE: cache.final}, layout)
    return found


def _measure_edges(instruments: Instruments, frames: Sequence[FrameVariants], source: str) -> dict[str, float | None]:
    """How much a layout's final masks cover, and how the picture changes outside them.

    Returns:
        `psnr`: of the background outside them, against the template, over the frames in which it is not the very same.
        `covered`: the share of the picture inside them. `ghost`: how much of the template's people is left.
    """
    background, covered, ghosts = [], [], []
    for frame in frames:
        if not frame.layout.masks.any():
            continue  # nobody was found, nothing was drawn again
        inside = in_pixels(final_cells(instruments.studio.settings, frame.layout, frame.latents[TEMPLATE].shape[-2:]))
        found = psnr(frame.pictures[source], frame.pictures[TEMPLATE], ~inside)
        background.append(None if found == HIGHEST_PSNR else found)
        covered.append(float(inside.float().mean()))
        old, new = (anybody(instruments.detector, frame.pictures[name]) for name in (TEMPLATE, source))
        ghosts.append(ghost_share(frame.pictures[source], frame.pictures[TEMPLATE], new, old))
    return {"psnr": mean_of_known(background), "covered": mean_of_known(covered), "ghost": mean_of_known(ghosts)}
