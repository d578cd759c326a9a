"""How latents look as colours, for the live previews of ComfyUI's samplers."""

import torch
from torch.nn import functional as F

from ....core.toyworld.models import PreviewColours
from ....core.toyworld.vae import ToyVAE
from ..world import sample_scene

SCENES = 32


@torch.no_grad()
def fit_preview_colours(vae: ToyVAE) -> PreviewColours:
    """The least-squares fit of a latent's channels to the mean colours of the pixels it stands for.

    Args:
        vae: On the CPU. The fit is made on drawings and on what this VAE makes of them, so it suits any training.

    Returns:
        Factors `(channels, 3)` and bias `(3,)`, for colours in [-1, 1].
    """
    scenes = [sample_scene(seed).image for seed in range(SCENES)]
    drawn = torch.stack([torch.tensor(image) for image in scenes]).movedim(-1, 1)
    pictures = 2 * (drawn.float() / 255) - 1
    latents = vae.encode(pictures).movedim(1, -1).flatten(0, 2)
    cells = F.avg_pool2d(pictures, vae.ratio).movedim(1, -1).reshape(-1, 3)
    mix = torch.linalg.lstsq(torch.cat([latents, torch.ones(len(latents), 1)], dim=1), cells).solution
    return mix[:-1].tolist(), mix[-1].tolist()
