"""Training the toy VAE: from the principal components of patches to what convolutions can add."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss, pixel_unshuffle

from ....core.toyworld.sizes import TOY_WORLD
from ....core.toyworld.vae import ToyVAE
from ...step_random import StepRandom
from ..world import sample_scene
from .recipes import RECIPE
from .rendered_scenes import to_pixels
from .starting_weights import start_from_weights
from .train_detector import Drawn, drawn_scenes
from .train_network import Settings, train

LATENT_NOISE = 0.03
"""Deviation of the noise put on latents in training, so that the decoder forgives a generator's small errors."""
EDGE_WEIGHT = 0.5
SPREAD_WEIGHT = 1e-5
SAMPLE = 2_000


def train_vae(settings: Settings) -> tuple[ToyVAE, list[float]]:
    """Train on rendered scenes and on squares around heads: `drawing_loss`."""
    torch.manual_seed(settings.seed)
    drawn = drawn_scenes(RECIPE.vae_pictures, settings.seed + 1, settings)
    vae = ToyVAE()
    start_at_principal_components(vae, to_pixels(drawn.pictures[:SAMPLE]))
    start_from_weights(vae, "vae", settings)
    vae.to(settings.device)

    def loss(random: StepRandom) -> Tensor:
        chosen = np.sort(random.numpy.choice(len(drawn.pictures), settings.batch, replace=False))
        heads = head_squares(drawn, settings.batch * RECIPE.head_crops, random.numpy)
        parts = (to_pixels(drawn.pictures[chosen]), heads)
        count = sum(part.shape[0] * part[0].numel() for part in parts)
        values = [_part_loss(vae, part.to(settings.device), random, settings) * part.numel() / count for part in parts]
        return torch.stack(values).sum()

    history = train("vae", vae, loss, settings)
    normalise_latents(vae, to_pixels(drawn.pictures[:SAMPLE]).to(settings.device))
    return vae.eval(), history


def _part_loss(vae: ToyVAE, pixels: Tensor, random: StepRandom, settings: Settings) -> Tensor:
    with settings.autocast():
        latents = vae.encode(pixels).float()
        noise = random.normal(*latents.shape).to(pixels.device)
        drawn = vae.decode(latents + LATENT_NOISE * noise).float()
    scales = RECIPE.edge_scales
    return drawing_loss(drawn, pixels, scales) + SPREAD_WEIGHT * latents.square().mean()


def drawing_loss(drawn: Tensor, pixels: Tensor, scales: Sequence[int]) -> Tensor:
    """Absolute and squared error of pictures `(n, 3, h, w)`, and the absolute error of their edges.

    An edge is the difference of two pixels that lie so far apart as one of `scales` says; its weight is shared evenly.
    """
    value = l1_loss(drawn, pixels) + mse_loss(drawn, pixels)
    for step in scales:
        for axis in (-1, -2):
            value = value + EDGE_WEIGHT / len(scales) * l1_loss(_edges(drawn, axis, step), _edges(pixels, axis, step))
    return value


def _edges(pictures: Tensor, axis: int, step: int) -> Tensor:
    length = pictures.shape[axis] - step
    return pictures.narrow(axis, step, length) - pictures.narrow(axis, 0, length)


def head_squares(drawn: Drawn, count: int, random: np.random.Generator) -> Tensor:
    """Squares `(count, 3, side / 2, side / 2)` in [-1, 1] around heads of people in scenes, not quite in the middle."""
    scenes, people = np.nonzero(drawn.words)
    side = drawn.pictures.shape[1]
    half, parts = side // 2, []
    for place in random.integers(len(scenes), size=count):
        box = drawn.heads[scenes[place], people[place]]
        middle = (box[:2] + box[2:]) / 2 + random.uniform(-half / 4, half / 4, 2)
        x, y = np.clip(np.round(middle - half / 2), 0, side - half).astype(int)
        parts.append(drawn.pictures[scenes[place], y : y + half, x : x + half])
    return to_pixels(np.stack(parts))


@torch.no_grad()
def start_at_principal_components(vae: ToyVAE, pixels: Tensor) -> None:
    """Set the linear maps to the whitened principal components of the pictures' patches."""
    patches = pixel_unshuffle(pixels, vae.ratio).permute(0, 2, 3, 1).flatten(0, 2)
    mean, kept = patches.mean(dim=0), TOY_WORLD.latent_channels
    strength, directions = torch.linalg.eigh(torch.cov(patches.T))
    strength, directions = strength.flip(0)[:kept], directions.flip(1)[:, :kept]
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
    numbers = range(9_000_000_000, 9_000_000_000 + count)
    drawn_anew = np.stack([sample_scene(number, held_out=True).image for number in numbers])
    pixels = to_pixels(drawn_anew)
    drawn = torch.cat([vae.cpu().decode(vae.encode(part)).clamp(-1, 1) for part in pixels.split(50)])
    scores = 10 * torch.log10(4 / ((drawn - pixels) ** 2).mean((1, 2, 3)))
    return {"psnr_db": round(float(scores.mean()), 2), "pictures": count}
