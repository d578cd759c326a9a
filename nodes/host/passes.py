"""Running the two passes on the host: everything is checked before the first UNet call."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ...core.guidance import OWN, SHARED, TEMPLATES
from ...core.latent_cache import LatentRecorder, NoisyLatentCache
from ...core.layout import Layout
from ...core.quoting import quote, quote_all
from ...core.redenoise import ProgressiveMasks, first_step, scaled_kernel
from ...core.region import Region, regions_around
from ..types import Cast, Conditioning
from .guiders import RecordingGuider, RedenoiseGuider
from .latents import check_latents, downscale_ratio, is_picture_of, recipe_of
from .regions import cells_per_step, check_regional
from .token_maps import attach_reader

UNREPLAYABLE_SAMPLERS = ("dpm_adaptive",)
"""Samplers whose steps depend on the picture, so that no cached trajectory fits them."""


def sampler_name_of(sampler: Any) -> str:
    """What a SAMPLER is called, for messages and for refusing it."""
    function = getattr(sampler, "sampler_function", None)
    name = getattr(function, "__name__", type(sampler).__name__)
    return name.removeprefix("sample_").removesuffix("_function")  # the host's dpm_adaptive is dpm_adaptive_function


def check_sampler(name: str) -> None:
    """Refuse by name the samplers that cannot be replayed."""
    if name in UNREPLAYABLE_SAMPLERS:
        raise ValueError(
            f"The sampler {quote(name)} chooses its steps from the picture, so its noisy latents cannot be "
            "re-denoised. Use any other sampler, such as euler."
        )


def schedule(model: Any, sampler_name: str, scheduler: str, steps: int, denoise: float) -> Tensor:
    """The stock KSampler's sigmas, on the CPU."""
    sampler = comfy.samplers.KSampler(
        model,
        steps=steps,
        device=torch.device("cpu"),
        sampler=sampler_name,
        scheduler=scheduler,
        denoise=denoise,
        model_options=model.model_options,
    )
    return sampler.sigmas


def sample_template(
    model: Any,
    positive: Conditioning,
    negative: Conditioning,
    samples: Tensor,
    noise_mask: Tensor | None,
    *,
    noise: Tensor,
    seed: int,
    cfg: float,
    sampler: Any,
    sampler_name: str,
    sigmas: Tensor,
    keep_from_step: int | float,
    dtype: torch.dtype,
    keep_maps: bool = False,
    keep_unconditional: bool = False,
) -> NoisyLatentCache:
    """Sample one frame as the stock KSampler does, and keep every model call.

    `samples` is what `frame_latent` gives; `noise_mask` the LATENT's, if it has one. With `keep_maps` the cache also
    gets the characters' attention maps; the positive must say where it names them (Encode Frame). With
    `keep_unconditional` it gets the unconditional predictions, for a second pass that is guided by them.
    """
    check_sampler(sampler_name)
    if keep_unconditional and (math.isclose(cfg, 1.0) or not negative):
        raise ValueError(
            f"Noisy Latent Cache: cfg is {cfg:g} {'without' if not negative else 'with'} a negative prompt, so that no "
            "unconditional prediction is made. Switch keep_unconditional off."
        )
    check_guidance("Noisy Latent Cache", negative, cfg, sampler_name)
    steps = len(sigmas) - 1
    if steps < 1:
        raise ValueError("The schedule has no steps: denoise is 0, or the SIGMAS are empty.")
    rises = (sigmas[1:] > sigmas[:-1]).nonzero().flatten().tolist()
    if rises:
        before, after = float(sigmas[rises[0]]), float(sigmas[rises[0] + 1])
        raise ValueError(
            f"The SIGMAS rise from {before:.4g} to {after:.4g} at step {rises[0]}; re-denoising needs a schedule that "
            "only falls."
        )
    kept_from = steps - 1 if keep_from_step >= steps else first_step(keep_from_step, steps, "keep_from_step")
    recorder = LatentRecorder(keep_from=float(sigmas[kept_from]), dtype=dtype)
    guider = RecordingGuider(model, recorder, keep_unconditional)
    guider.inner_set_conds({"positive": positive, "negative": negative} if negative else {"positive": positive})
    guider.set_cfg(cfg)
    reader = attach_reader(guider, len(samples)) if keep_maps else None
    kept_sigmas = _own(sigmas)  # before sampling: some solvers write into theirs
    final = _sample(guider, model, noise, samples, sampler, sigmas.clone(), noise_mask, seed, recorder.begin_step)
    return NoisyLatentCache(
        calls=recorder.calls_of(kept_sigmas),
        sigmas=kept_sigmas,
        noise=_own(noise),
        initial=_own(samples),
        final=final,
        noise_mask=None if noise_mask is None else _own(noise_mask),
        recipe=recipe_of(model, sampler_name, seed, cfg, sampler),
        maps=None if reader is None else reader.of_one_frame(),
    )


def redenoise(
    model: Any,
    cast: Cast,
    cache: NoisyLatentCache,
    layout: Layout,
    *,
    start: int | float,
    max_kernel: float,
    cfg: float,
    soft_edge: bool,
    guidance: str = OWN,
    region_margin: float | None = None,
) -> NoisyLatentCache:
    """Run the schedule again with the characters' identities (equation 8).

    `start` is a step of the schedule or a share of its steps, see `core.redenoise.first_step`; `guidance` one of
    `core.guidance.GUIDANCE`. With a `region_margin` the MODELs see no more than `regions_of` says. Gives what happened
    as a cache, whose `final` is the finished frame; another pass can go on from it with other characters.
    """
    check_sampler(cache.recipe.sampler_name)
    members, rows = present_members(cast, layout)
    check_fits(model, members, cache, layout)
    for member in members:
        check_guidance(f"{layout.label}: {quote(member.name)}", member.negative, cfg, cache.recipe.sampler_name)
    masks = ProgressiveMasks(layout.masks[rows], cache.steps, start, scaled_kernel(max_kernel, *layout.size))
    if not members:
        return cache
    check_unconditionals(cache, masks, guidance, cfg, layout.label)
    models = drawing_models(model, members)
    regions = None if region_margin is None else regions_of(models, cache, masks, region_margin)
    if regions is not None:
        check_regions(models, members, regions, guidance, layout.label)
    used = model if any(each is model for each in models) else models[0]  # one that draws nobody is not loaded
    guider = RedenoiseGuider(used, cache, masks, members, soft_edge, guidance, regions)
    guider.set_cfg(cfg)
    recipe = cache.recipe
    final = _sample(
        guider, used, cache.noise, cache.initial, recipe.solver, cache.sigmas.clone(), cache.noise_mask, recipe.seed
    )
    return replace(cache, calls=tuple(guider.calls), final=final)


def regions_of(models: Sequence[Any], cache: NoisyLatentCache, masks: ProgressiveMasks, margin: float) -> list[Region]:
    """What each MODEL sees: a region around its mask, by the cells that the MODEL needs (`core.region`)."""
    grid = int(cache.noise.shape[-2]), int(cache.noise.shape[-1])
    by_step = {step: regions_around(masks, grid, step, margin) for step in map(cells_per_step, models)}
    return [by_step[cells_per_step(model)][row] for row, model in enumerate(models)]


def shares_seen(
    model: Any, cast: Cast, cache: NoisyLatentCache, layout: Layout, masks: ProgressiveMasks, margin: float
) -> dict[str, float]:
    """Of the picture's latent cells, the share that each member's region has; `masks` has all rows of the layout."""
    own = {member.name: member.model for member in cast if member.model is not None}
    regions = regions_of([own.get(name, model) for name in layout.names], cache, masks, margin)
    return {name: region.share for name, region in zip(layout.names, regions, strict=True)}


def check_regions(models: Sequence[Any], members: Cast, regions: Sequence[Region], guidance: str, where: str) -> None:
    """Refuse what members who see a region have for the whole picture, and an unconditional shared between regions."""
    if guidance == SHARED:
        raise ValueError(
            f"{where}: guidance is {quote(guidance)}, but with region each character's unconditional prediction is of "
            "their own part of the picture. Choose own, or switch region off."
        )
    for model, member, region in zip(models, members, regions, strict=True):
        if not region.is_everything:
            check_regional(where, member.name, model, (*member.positive, *member.negative))


def check_guidance(where: str, negative: Conditioning, cfg: float, sampler_name: str) -> None:
    """Refuse guidance without a negative prompt, which would push away from nothing at all."""
    if negative or (math.isclose(cfg, 1.0) and not sampler_name.endswith("_cfg_pp")):
        return
    raise ValueError(
        f"{where}: there is no negative prompt, and a guidance scale of {cfg:g} with the sampler {quote(sampler_name)} "
        "needs one: connect one, or set cfg to 1 and use a sampler without cfg_pp in its name."
    )


def check_unconditionals(
    cache: NoisyLatentCache, masks: ProgressiveMasks, guidance: str, cfg: float, where: str
) -> None:
    """Refuse guidance by the template's unconditional predictions where the cache has none."""
    if guidance != TEMPLATES or math.isclose(cfg, 1.0):
        return
    if any(call.unconditional is None for call in cache.calls if cache.step_of_call(call) >= masks.start):
        raise ValueError(
            f"{where}: guidance is {quote(guidance)}, but the cache has no unconditional predictions. Switch "
            "keep_unconditional on in Noisy Latent Cache, or choose own or shared."
        )


def drawing_models(model: Any, members: Cast) -> list[Any]:
    """The MODEL that draws each member: their own, if they have one."""
    return [model if member.model is None else member.model for member in members]


def check_fits(model: Any, members: Cast, cache: NoisyLatentCache, layout: Layout) -> None:
    """The MODELs that draw the members, the cache and the layout must belong together; says which two values differ."""
    models = drawing_models(model, members) or [model]
    owners = [member.name for member in members] or [""]
    for each, owner in zip(models, owners, strict=True):
        whose = "the identity generator" if each is model else f"the MODEL of {quote(owner)}"
        check_latents(each, cache.recipe, layout.label, whose)
    ratio, cells = downscale_ratio(models[0]), (cache.noise.shape[-2], cache.noise.shape[-1])
    if not is_picture_of(layout.size, cells, ratio):
        raise ValueError(
            f"{layout.label}: the masks are {layout.size[1]}x{layout.size[0]}, but the cached picture is "
            f"{cells[1] * ratio}x{cells[0] * ratio}. Make the layout from the picture that this cache decodes to."
        )


def present_members(cast: Cast, layout: Layout) -> tuple[Cast, list[int]]:
    """The members to re-denoise and the rows of their masks; characters with an empty mask stay as they were drawn."""
    by_name = {member.name: member for member in cast}
    rows = [row for row, mask in enumerate(layout.masks) if mask.any()]
    missing = [layout.names[row] for row in rows if layout.names[row] not in by_name]
    if missing:
        known = quote_all(by_name) or "nobody"
        raise ValueError(
            f"{layout.label}: the layout shows {quote(missing[0])}, but the cast has {known}. Add a Cast node with "
            "this character's identity, rename the identity (Load Identity), or leave them as drawn with a black mask "
            "(Layout from Masks)."
        )
    absent = [name for name in by_name if name not in layout.names]
    if absent:
        raise ValueError(
            f"{layout.label}: the cast has {quote(absent[0])}, but the layout shows "
            f"{quote_all(layout.names) or 'nobody'}. Connect the same STORY_FRAME to the layout and to Identity "
            "Conditioning, or rename the identity."
        )
    return tuple(by_name[layout.names[row]] for row in rows), rows


def _sample(
    guider: Any,
    model: Any,
    noise: Tensor,
    latent: Tensor,
    sampler: Any,
    sigmas: Tensor,
    mask: Tensor | None,
    seed: int,
    on_step: Callable[[int], None] = lambda step: None,
) -> Tensor:
    """One run of the host's sampler; float32 on the CPU. `on_step` hears every step that the sampler reports."""
    show = latent_preview.prepare_callback(model, len(sigmas) - 1)

    def callback(step: int, x0: Tensor, x: Tensor, total: int) -> None:
        on_step(step)
        show(step, x0, x, total)

    result = guider.sample(
        noise,
        latent,
        sampler,
        sigmas,
        denoise_mask=mask,
        callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    return result.to("cpu", torch.float32)


def _own(tensor: Tensor) -> Tensor:
    """A copy on the CPU that no other node writes into."""
    return tensor.detach().to("cpu", copy=True)
