"""Pictures of a model in training: Euler's method with guidance, in a few steps."""

import torch
from torch import Tensor

from ....core.shapes import Float
from ....core.toyworld.models import noise_levels
from ....core.toyworld.sizes import TOY_WORLD
from ....core.toyworld.vocabulary import tokenize
from .train_base import BaseModel

STEPS = 15
GUIDANCE = 4.0


@torch.no_grad()
def draw_latents(base: BaseModel, context: Float[Tensor, "n t d"], generator: torch.Generator) -> Tensor:
    """Latents `(n, channels, side, side)` for text embeddings; the noise comes from the generator."""
    count = len(context)
    sigmas = noise_levels()
    timesteps = [999 - step * 1000 // STEPS for step in range(STEPS)]
    nothing = base.text(torch.tensor([tokenize("", TOY_WORLD.text_length)]))[0]
    both = torch.cat([nothing.expand(count, -1, -1), context])
    latent = torch.randn(
        count, TOY_WORLD.latent_channels, TOY_WORLD.latent_side, TOY_WORLD.latent_side, generator=generator
    )
    latent = latent * (1 + sigmas[-1] ** 2).sqrt()
    for step, timestep in enumerate(timesteps):
        sigma = sigmas[timestep]
        following = sigmas[timesteps[step + 1]] if step + 1 < STEPS else torch.tensor(0.0)
        signal = 1 / (1 + sigma**2).sqrt()
        noisy = torch.cat([latent * signal] * 2)
        v = base.predict(noisy, torch.full((len(noisy),), timestep), both)
        without, with_text = (signal * noisy - sigma * signal * v).chunk(2)
        clean = without + GUIDANCE * (with_text - without)
        latent = clean + (latent - clean) * following / sigma
    return latent
