"""Text-only portraits of a character, drawn in sub-batches."""

from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ..types import Conditioning


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

    Portrait i starts from the noise of seed + i, so the starting noise does not depend on the batch size.
    """
    latent_format = model.get_model_object("latent_format")
    ratio = getattr(latent_format, "spacial_downscale_ratio", 8)
    shape = (1, latent_format.latent_channels, height // ratio, width // ratio)
    progress = comfy.utils.ProgressBar(count * steps)
    previewer = latent_preview.get_previewer(model.load_device, latent_format)
    images = []
    for first in range(0, count, batch_size):
        comfy.model_management.throw_exception_if_processing_interrupted()
        size = min(batch_size, count - first)
        noises = [comfy.sample.prepare_noise(torch.zeros(shape), (seed + first + i) % 2**64) for i in range(size)]

        def report(step: int, x0: Tensor, x: Tensor, total: int, done: int = first, size: int = size) -> None:
            image = previewer.decode_latent_to_preview_image("JPEG", x0) if previewer else None
            progress.update_absolute(done * steps + (step + 1) * size, count * steps, image)

        samples = comfy.sample.sample(
            model,
            torch.cat(noises),
            steps,
            cfg,
            sampler_name,
            scheduler,
            positive,
            negative,
            torch.zeros((size, *shape[1:])),
            callback=report,
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=(seed + first) % 2**64,
        )
        images.append(vae.decode(samples))
    return torch.cat(images)
