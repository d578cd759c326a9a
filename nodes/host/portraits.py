"""Text-only portraits of a character, drawn in sub-batches."""

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ...core.quoting import quote
from ..types import Conditioning
from .latents import downscale_ratio, model_family


def draw_portraits(
    model: Any, clip: Any, vae: Any, description: str, template: str, negative: str, **settings: Any
) -> Tensor:
    """Portraits of somebody from words alone; `settings` are those of `sample_portraits`.

    Args:
        model: The base model.
        clip: Its text encoder.
        vae: Its VAE.
        description: What they look like.
        template: The prompt, with `{character}` where the description goes.
        negative: The negative prompt.
        settings: Number, size, seed and sampling.

    Raises:
        ValueError: If the template has no place for the description, or the VAE is another model's.
    """
    check_template(template)
    positive, negative_cond = (
        clip.encode_from_tokens_scheduled(clip.tokenize(text))
        for text in (template.replace("{character}", description), negative)
    )
    return sample_portraits(model, vae, positive, negative_cond, **settings)


def check_template(template: str) -> None:
    """Refuse a portrait prompt in which the description has no place."""
    if "{character}" not in template:
        raise ValueError(
            f"The portrait template {quote(template)} has no {{character}} for the description to go into."
        )


def sample_portraits(
    model: Any,
    vae: Any,
    positive: Conditioning,
    negative: Conditioning,
    *,
    count: int,
    batch_size: int,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    width: int,
    height: int,
) -> Tensor:
    """Portraits `(count, height, width, 3)`.

    Portrait i starts from the noise of seed + i, so the starting noise does not depend on the batch size. Video models
    draw videos of one moment, whose pictures are given.
    """
    check_vae(model, vae)
    channels, ratio = model.get_model_object("latent_format").latent_channels, downscale_ratio(model)
    empty = comfy.sample.fix_empty_latent_channels(model, torch.zeros(1, channels, height // ratio, width // ratio))
    progress = _Progress(model, count, steps)
    images = []
    for first in range(0, count, batch_size):
        comfy.model_management.throw_exception_if_processing_interrupted()
        seeds = [(seed + i) % 2**64 for i in range(first, min(first + batch_size, count))]
        noise = torch.cat([comfy.sample.prepare_noise(empty, each) for each in seeds])
        samples = comfy.sample.sample(
            model,
            noise,
            steps,
            cfg,
            sampler_name,
            scheduler,
            positive,
            negative,
            torch.zeros_like(noise),
            callback=progress.callback(first, len(seeds)),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seeds[0],
        )
        decoded = vae.decode(samples)
        images.append(decoded.flatten(0, 1) if decoded.ndim == 5 else decoded)  # a video of one moment is a picture
    return torch.cat(images)


def check_vae(model: Any, vae: Any) -> None:
    """Refuse a VAE that cannot read the MODEL's latents, before the portraits are drawn.

    Raises:
        ValueError: If it reads another number of channels; the message names both.
    """
    drawn, read = model.get_model_object("latent_format").latent_channels, getattr(vae, "latent_channels", None)
    if read not in (None, drawn):
        raise ValueError(
            f"Character Portraits: {model_family(model)} draws latents of {drawn} channels, but the VAE reads {read}: "
            "connect the VAE of this model."
        )


class _Progress:
    """One progress bar, with previews, over the steps of all sub-batches."""

    def __init__(self, model: Any, count: int, steps: int) -> None:
        self.steps = steps
        self.total = count * steps
        self.bar = comfy.utils.ProgressBar(self.total)
        self.previewer = latent_preview.get_previewer(model.load_device, model.get_model_object("latent_format"))

    def callback(self, first: int, size: int) -> Callable[[int, Tensor, Tensor, int], None]:
        """The sampler's callback for the `size` portraits from `first` on."""

        def report(step: int, x0: Tensor, x: Tensor, total: int) -> None:
            preview = self.previewer.decode_latent_to_preview_image("JPEG", x0) if self.previewer else None
            self.bar.update_absolute(first * self.steps + (step + 1) * size, self.total, preview)

        return report
