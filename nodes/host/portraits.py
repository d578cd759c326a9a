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
    progress = _Progress(model, count, steps)
    images = []
    for first in range(0, count, batch_size):
        comfy.model_management.throw_exception_if_processing_interrupted()
        seeds = [(seed + i) % 2**64 for i in range(first, min(first + batch_size, count))]
        noise = torch.cat([comfy.sample.prepare_noise(torch.zeros(shape), each) for each in seeds])
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
        images.append(vae.decode(samples))
    return torch.cat(images)


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
