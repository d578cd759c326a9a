"""Running the two passes on the host: everything is checked before the first UNet call."""

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ...core.latent_cache import LatentRecorder, NoisyLatentCache, Recipe
from ...core.layout import Layout
from ...core.quoting import quote, quote_all
from ...core.redenoise import ProgressiveMasks, scaled_kernel
from ..types import Cast, Conditioning
from .guiders import RecordingGuider, RedenoiseGuider
from .token_maps import attach_reader

UNREPLAYABLE_SAMPLERS = ("dpm_adaptive",)
"""Samplers whose steps depend on the picture, so that no cached trajectory fits them."""


def model_family(model: Any) -> str:
    """The host's name for a MODEL's architecture, such as SDXL or SD15."""
    return type(model.model.model_config).__name__


def sigma_range(model: Any) -> tuple[float, float]:
    sampling = model.get_model_object("model_sampling")
    return float(sampling.sigma_min), float(sampling.sigma_max)


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


def frame_latent(model: Any, latent: dict[str, Any]) -> Tensor:
    """The LATENT's tensor with the model's channels; refuses what is not one picture."""
    samples = latent["samples"]
    if getattr(samples, "is_nested", False) or samples.ndim != 4:
        raise ValueError(
            "The LATENT is not a picture's (batch, channels, height, width); video models are not supported."
        )
    if samples.shape[0] != 1:
        raise ValueError(
            f"The LATENT holds a batch of {samples.shape[0]} pictures. A cache is one frame: set batch_size to 1; "
            "the lists of Story Frames run this node once per frame."
        )
    samples = comfy.sample.fix_empty_latent_channels(model, samples, latent.get("downscale_ratio_spacial"))
    if samples.ndim != 4:
        raise ValueError(f"{model_family(model)} is not an image model of the kind this pack supports (SD1.5, SDXL).")
    return samples


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
    keep_from_step: int,
    dtype: torch.dtype,
    keep_maps: bool = False,
) -> NoisyLatentCache:
    """Sample one frame as the stock KSampler does, and keep every model call.

    `samples` is what `frame_latent` gives; `noise_mask` the LATENT's, if it has one. With `keep_maps` the cache also
    gets the characters' attention maps; the positive must say where it names them (Encode Frame).
    """
    check_sampler(sampler_name)
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
    recorder = LatentRecorder(keep_from=float(sigmas[min(keep_from_step, steps - 1)]), dtype=dtype)
    guider = RecordingGuider(model, recorder)
    guider.set_conds(positive, negative)
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
        recipe=Recipe(model_family(model), sigma_range(model), sampler_name, seed, cfg, sampler),
        maps=None if reader is None else reader.of_one_frame(),
    )


def redenoise(
    model: Any,
    cast: Cast,
    cache: NoisyLatentCache,
    layout: Layout,
    *,
    start: int,
    max_kernel: float,
    cfg: float,
    soft_edge: bool,
) -> Tensor:
    """Run the schedule again with the characters' identities (equation 8)."""
    check_fits(model, cache, layout)
    check_sampler(cache.recipe.sampler_name)
    members, rows = present_members(cast, layout)
    masks = ProgressiveMasks(layout.masks[rows], cache.steps, start, scaled_kernel(max_kernel, *layout.size))
    if not members:
        return cache.final
    guider = RedenoiseGuider(model, cache, masks, members, soft_edge)
    guider.set_cfg(cfg)
    recipe = cache.recipe
    return _sample(
        guider, model, cache.noise, cache.initial, recipe.solver, cache.sigmas.clone(), cache.noise_mask, recipe.seed
    )


def check_fits(model: Any, cache: NoisyLatentCache, layout: Layout) -> None:
    """The identity generator, the cache and the layout must belong together; says which two values differ."""
    recipe = cache.recipe
    if model_family(model) != recipe.model_family:
        raise ValueError(
            f"{layout.label}: the cache was made with a {recipe.model_family} model, but the identity generator is "
            f"{model_family(model)}. Use checkpoints of one family for both passes."
        )
    here = sigma_range(model)
    if any(abs(a - b) > 1e-3 * abs(b) for a, b in zip(here, recipe.sigma_range, strict=True)):
        raise ValueError(
            f"{layout.label}: the cache's model has noise levels {_range(recipe.sigma_range)}, the identity generator "
            f"{_range(here)}. Patch both MODELs alike (ModelSamplingDiscrete, zsnr)."
        )
    ratio = getattr(model.get_model_object("latent_format"), "spacial_downscale_ratio", 8)
    height, width = cache.noise.shape[-2] * ratio, cache.noise.shape[-1] * ratio
    if layout.size != (height, width):
        raise ValueError(
            f"{layout.label}: the masks are {layout.size[1]}x{layout.size[0]}, but the cached picture is "
            f"{width}x{height}. Make the layout from the picture that this cache decodes to."
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


def _range(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.4g} to {pair[1]:.4g}"


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


def as_latent(samples: Tensor) -> dict[str, Any]:
    """A LATENT where and as the host wants its intermediates."""
    management = comfy.model_management
    dtype = management.intermediate_dtype() if hasattr(management, "intermediate_dtype") else torch.float32  # 0.18
    return {"samples": samples.to(management.intermediate_device(), dtype, copy=True)}
