"""One denoising task of training: noisy latents, a noise level per group, prompts, and what the UNet should predict."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...core.shapes import Float, Int
from ...headless.prompts import Prompt, encode_prompts
from ...headless.sampling import added_conditions, prediction_type
from ...headless.schedules import training_levels
from ..step_random import StepRandom


@dataclass(frozen=True)
class DenoisingTask:
    """The inputs of one call of the UNet, and what it should predict.

    All frames of a group have one noise level, as in sampling.
    """

    noisy: Float[Tensor, "n c h w"]
    timesteps: Int[Tensor, " n"]
    target: Float[Tensor, "n c h w"]
    prompt: Prompt

    @torch.no_grad()
    def with_captions(self, pipe: Any, captions: Sequence[str], labels: Sequence[str]) -> "DenoisingTask":
        """The same task with other prompts."""
        prompt = encode_prompts(pipe, captions, labels)
        return replace(self, prompt=prompt.to(self.noisy.device, pipe.unet.dtype))

    def predict(self, pipe: Any) -> Float[Tensor, "n c h w"]:
        """What the pipeline's UNet predicts, float32."""
        return pipe.unet(
            self.noisy.to(pipe.unet.dtype),
            self.timesteps,
            encoder_hidden_states=self.prompt.embeddings,
            added_cond_kwargs=added_conditions(pipe, self.prompt.pooled, self.noisy),
        ).sample.float()


@torch.no_grad()
def make_task(
    pipe: Any,
    pictures: Float[Tensor, "n h w 3"],
    captions: Sequence[str],
    labels: Sequence[str],
    frames: int,
    random: StepRandom,
) -> DenoisingTask:
    """Make a task of pictures; every `frames` of them are a group.

    Args:
        pipe: Whose VAE, text encoder and schedule are used; it predicts noise or v.
        pictures: In [0, 1].
        captions: One per picture; empty ones are left out.
        labels: What messages call each picture.
        frames: Pictures per group.
        random: Draws noise and noise levels.
    """
    device = pipe.unet.device
    levels = training_levels(pipe.scheduler.config).to(device)
    latents = encode_pictures(pipe, pictures)
    drawn = random.numpy.integers(0, len(levels), len(pictures) // frames)
    timesteps = torch.from_numpy(drawn.repeat(frames)).to(device)
    noise = random.normal(*latents.shape).to(latents)
    signal = (1 + levels[timesteps].square()).rsqrt().view(-1, 1, 1, 1)
    spread = levels[timesteps].view(-1, 1, 1, 1) * signal
    epsilon = prediction_type(pipe.scheduler.config) == "epsilon"
    return DenoisingTask(
        noisy=signal * latents + spread * noise,
        timesteps=timesteps,
        target=noise if epsilon else signal * noise - spread * latents,
        prompt=encode_prompts(pipe, captions, labels).to(device, pipe.unet.dtype),
    )


def encode_pictures(pipe: Any, pictures: Float[Tensor, "n h w 3"]) -> Float[Tensor, "n c lh lw"]:
    """Latents in the scale the UNet works in, float32: the means of the VAE's distributions.

    In the VAE's own precision even where mixed precision is on: SDXL's overflows in half precision.
    """
    pixels = pictures.movedim(-1, 1).to(pipe.vae.device, pipe.vae.dtype) * 2 - 1
    with torch.autocast(pipe.vae.device.type, enabled=False):
        return pipe.vae.encode(pixels).latent_dist.mode().float() * pipe.vae.config.scaling_factor
