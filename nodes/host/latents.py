"""What two models must share to work on one latent, and the LATENT of one picture."""

from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.sample
import torch
from torch import Tensor

from ...core.latent_cache import Recipe


def model_family(model: Any) -> str:
    """The host's name for a MODEL's architecture, such as SDXL or SD15."""
    return type(model.model.model_config).__name__


def latent_space(model: Any) -> str:
    """The host's name for the latents of a MODEL's VAE: Z-Image's are called Flux as Flux.1's are."""
    return type(model.get_model_object("latent_format")).__name__


def noise_kind(model: Any) -> str:
    """How a MODEL's noise is mixed in: by flow matching x = (1 - sigma) x0 + sigma noise, else x = x0 + sigma noise."""
    sampling = model.get_model_object("model_sampling")
    if not isinstance(sampling, comfy.model_sampling.CONST):
        return "diffusion"
    scale = getattr(sampling, "noise_scale", 1.0)
    return "flow matching" if scale == 1 else f"flow matching with noise of size {scale:g}"


def sigma_range(model: Any) -> tuple[float, float] | None:
    """The smallest and largest noise level; None for flow matching, where a level means the same whatever the shift."""
    sampling = model.get_model_object("model_sampling")
    if isinstance(sampling, comfy.model_sampling.CONST):
        return None
    return float(sampling.sigma_min), float(sampling.sigma_max)


def downscale_ratio(model: Any) -> int:
    """Pixels per latent cell, along each side."""
    return getattr(model.get_model_object("latent_format"), "spacial_downscale_ratio", 8)


def recipe_of(model: Any, sampler_name: str, seed: int, cfg: float, sampler: Any) -> Recipe:
    """What makes a cache, as its second pass compares it with another MODEL."""
    family, space, noise = model_family(model), latent_space(model), noise_kind(model)
    return Recipe(family, space, noise, sigma_range(model), sampler_name, seed, cfg, sampler)


def check_latents(model: Any, recipe: Recipe, where: str, whose: str) -> None:
    """Refuse a MODEL that cannot take over the latents of a cache.

    Args:
        model: The MODEL.
        recipe: What made the cache.
        where: The frame, for the message.
        whose: What the message calls the MODEL.

    Raises:
        ValueError: If the latents, the kind of noise or the noise levels differ; the message names both.
    """
    if (latent_space(model), noise_kind(model)) != (recipe.latent_space, recipe.noise_kind):
        raise ValueError(
            f"{where}: Progressive-Mask Re-denoise cannot continue a cache of {recipe.model_family} "
            f"({recipe.latent_space} latents, {recipe.noise_kind}) with {whose}, which is {model_family(model)} "
            f"({latent_space(model)} latents, {noise_kind(model)}): use two models with the same VAE and the same kind "
            "of noise."
        )
    here, cached = sigma_range(model), recipe.sigma_range
    if here is None or cached is None:
        return
    if any(abs(a - b) > 1e-3 * abs(b) for a, b in zip(here, cached, strict=True)):
        raise ValueError(
            f"{where}: the cache's model has noise levels {_range(cached)}, {whose} {_range(here)}. Patch both MODELs "
            "alike (ModelSamplingDiscrete, zsnr)."
        )


def is_picture_of(size: tuple[int, int], cells: tuple[int, int], ratio: int) -> bool:
    """Whether a latent of so many cells decodes to a picture of this size (height, width).

    A VAE's ratio is a power of two, and its pictures are whole cells. Stable Cascade's 42 is not one: its pictures
    come from a second stage, and what is left at the edges is less than a cell.
    """
    if ratio & (ratio - 1) == 0:
        return size == tuple(side * ratio for side in cells)
    return tuple(side // ratio for side in size) == cells


def frame_latent(model: Any, latent: dict[str, Any]) -> Tensor:
    """The LATENT's tensor in the form that the model draws: `(1, c, h, w)`, or `(1, c, 1, h, w)` for video models.

    Raises:
        ValueError: If it is not one picture, or another model's.
    """
    samples = latent["samples"]
    if getattr(samples, "is_nested", False) or samples.ndim not in (4, 5):
        raise ValueError(
            "The LATENT is not a picture's (batch, channels, height, width), nor a video's of one moment (batch, "
            "channels, 1, height, width)."
        )
    if samples.shape[0] != 1:
        raise ValueError(
            f"The LATENT holds a batch of {samples.shape[0]} pictures. A cache is one frame: set batch_size to 1; "
            "the lists of Story Frames run this node once per frame."
        )
    samples = comfy.sample.fix_empty_latent_channels(model, samples, latent.get("downscale_ratio_spacial"))
    if samples.ndim == 5 and samples.shape[2] != 1:
        raise ValueError(
            f"The LATENT holds {samples.shape[2]} moments of a video, and a frame of a story is one picture: set "
            "length to 1."
        )
    latent_format, family = model.get_model_object("latent_format"), model_family(model)
    if samples.ndim != latent_format.latent_dimensions + 2:
        raise ValueError(
            f"The LATENT is a video's, and {family} draws pictures: use Empty Latent Image, or the empty latent node "
            "of this model's family."
        )
    if samples.shape[1] != latent_format.latent_channels:
        raise ValueError(
            f"The LATENT has {samples.shape[1]} channels, and {family} draws {latent_format.latent_channels}: encode "
            "the picture with this model's own VAE."
        )
    return samples


def as_latent(samples: Tensor) -> dict[str, Any]:
    """A LATENT where and as the host wants its intermediates."""
    management = comfy.model_management
    dtype = management.intermediate_dtype() if hasattr(management, "intermediate_dtype") else torch.float32  # 0.18
    return {"samples": samples.to(management.intermediate_device(), dtype, copy=True)}


def _range(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.4g} to {pair[1]:.4g}"
