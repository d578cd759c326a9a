"""Training the toy VAE: from the principal components of patches to what convolutions can add."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss, pixel_unshuffle

from ....core.toyworld.models import LATENT_CHANNELS, LATENT_RATIO
from ....core.toyworld.vae import PATCH_WIDTH, ToyVAE
from ...step_random import StepRandom
from ..world import sample_scene
from .rendered_scenes import scenes, to_pixels
from .train_network import Settings, train

PICTURES = 20_000
LATENT_NOISE = 0.03
"""Deviation of the noise put on latents in training, so that the decoder forgives a generator's small errors."""
EDGE_WEIGHT = 0.5
SPREAD_WEIGHT = 1e-5
SAMPLE = 2_000


def train_vae(settings: Settings) -> tuple[ToyVAE, list[float]]:
    """Train on rendered scenes: absolute and squared error, and the absolute error of the edges."""
    torch.manual_seed(settings.seed)
    pictures, _ = scenes(PICTURES, settings.seed + 1, settings.folder)
    vae = ToyVAE()
    start_at_principal_components(vae, to_pixels(pictures[:SAMPLE]))
    vae.to(settings.device)

    def loss(random: StepRandom) -> Tensor:
        chosen = pictures[np.sort(random.numpy.choice(len(pictures), settings.batch, replace=False))]
        pixels = to_pixels(chosen).to(settings.device)
        with torch.autocast(settings.device, torch.bfloat16):
            latents = vae.encode(pixels).float()
            noise = random.normal(*latents.shape).to(pixels.device)
            drawn = vae.decode(latents + LATENT_NOISE * noise).float()
        value = l1_loss(drawn, pixels) + mse_loss(drawn, pixels) + SPREAD_WEIGHT * latents.square().mean()
        for axis in (-1, -2):
            value = value + EDGE_WEIGHT * l1_loss(drawn.diff(dim=axis), pixels.diff(dim=axis))
        return value

    history = train("vae", vae, loss, settings)
    normalise_latents(vae, to_pixels(pictures[:SAMPLE]).to(settings.device))
    return vae.eval(), history


@torch.no_grad()
def start_at_principal_components(vae: ToyVAE, pixels: Tensor) -> None:
    """Set the linear maps to the whitened principal components of the pictures' patches."""
    patches = pixel_unshuffle(pixels, LATENT_RATIO).permute(0, 2, 3, 1).reshape(-1, PATCH_WIDTH)
    mean = patches.mean(dim=0)
    strength, directions = torch.linalg.eigh(torch.cov(patches.T))
    strength, directions = strength.flip(0)[:LATENT_CHANNELS], directions.flip(1)[:, :LATENT_CHANNELS]
    inward = (directions / strength.sqrt()).T
    vae.encoder.linear.weight.copy_(inward[:, :, None, None])
    vae.encoder.linear.bias.copy_(-inward @ mean)  # pyright: ignore[reportOptionalMemberAccess]
    vae.decoder.linear.weight.copy_((directions * strength.sqrt())[:, :, None, None])
    vae.decoder.linear.bias.copy_(mean)  # pyright: ignore[reportOptionalMemberAccess]


@torch.no_grad()
def normalise_latents(vae: ToyVAE, pixels: Tensor) -> None:
    """Bring every latent channel to mean 0 and deviation 1 without changing what is decoded inside the picture.

    Beyond the picture's edge the decoder's convolutions see zeros, which now stand for the channel's mean.
    """
    latents = torch.cat([vae.encode(pixels[start : start + 50]) for start in range(0, len(pixels), 50)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    state = vae.state_dict()  # shares memory with the parameters
    for layer in ("encoder.linear", "encoder.leave"):
        state[f"{layer}.weight"] /= deviation.view(-1, 1, 1, 1)
        state[f"{layer}.bias"] /= deviation
    state["encoder.linear.bias"] -= mean / deviation
    for layer in ("decoder.linear", "decoder.enter"):
        state[f"{layer}.bias"] += (state[f"{layer}.weight"].sum((2, 3)) * mean).sum(1)
        state[f"{layer}.weight"] *= deviation.view(1, -1, 1, 1)


@torch.no_grad()
def measure_vae(vae: ToyVAE, count: int = 500) -> dict[str, float]:
    """Mean peak signal-to-noise ratio, in dB, of pictures never trained on after encoding and decoding."""
    drawn_anew = np.stack([sample_scene(9_000_000_000 + seed, held_out=True).image for seed in range(count)])
    pixels = to_pixels(drawn_anew)
    drawn = torch.cat([vae.cpu().decode(vae.encode(part)).clamp(-1, 1) for part in pixels.split(50)])
    scores = 10 * torch.log10(4 / ((drawn - pixels) ** 2).mean((1, 2, 3)))
    return {"psnr_db": round(float(scores.mean()), 2), "pictures": count}
