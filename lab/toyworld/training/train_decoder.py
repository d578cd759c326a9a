"""Trains the VAE's decoder further, on latents as the base model leaves them.

The VAE has seen latents of drawings only. A base model's latents are a little wrong in every cell, and where cells do
not fit, blocks show. So the decoder also learns to draw a scene from what the base model makes of its noisy latents, in
a few steps of DDIM, whose latents are as sharp, and as wrong, as those of a sampling. The encoder stays as it is, and
with it what all other networks were trained on.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ....core.toyworld.sizes import TOY_WORLD
from ....core.toyworld.vae import ToyVAE
from ....core.toyworld.vocabulary import tokenize
from ...step_random import StepRandom
from ..world import sample_scene
from .recipes import RECIPE
from .rendered_scenes import scenes, to_pixels
from .train_base import PICTURES, BaseModel, Diffusion, encode
from .train_network import Settings, train
from .train_vae import LATENT_NOISE, drawing_loss

STRONGEST = 1.0
"""Latents are noisy up to this sigma: with more noise, the base model draws another picture."""
STEPS = 3


def train_decoder(vae: ToyVAE, base: BaseModel, settings: Settings) -> list[float]:
    """Train the decoder in place: half of a batch is the base model's, half are drawings' own latents.

    Raises:
        ValueError: If a batch has fewer than two rows.
    """
    if settings.batch < 2:
        raise ValueError(f"batch is {settings.batch}; it must be 2 or more: half of it is drawn by the base model.")
    pictures, tokens = scenes(PICTURES, settings.seed + 2, settings.folder)
    latents, ids = encode(vae, pictures, settings), torch.from_numpy(tokens.astype(np.int64))
    vae.encoder.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    base.requires_grad_(False).to(settings.device)
    scales = RECIPE.edge_scales

    def loss(random: StepRandom) -> Tensor:
        chosen = np.sort(random.numpy.choice(len(pictures), settings.batch, replace=False))
        clean = latents[chosen].float().to(settings.device)
        given = clean + LATENT_NOISE * random.normal(*clean.shape).to(settings.device)
        guessed = slice(settings.batch // 2)
        words = ids[chosen][guessed].to(settings.device)
        given[guessed] = redrawn(base, clean[guessed], words, random, settings)
        with settings.autocast():
            drawn = vae.decode(given).float()
        return drawing_loss(drawn, to_pixels(pictures[chosen]).to(settings.device), scales)

    return train("decoder", vae.to(settings.device), loss, settings)


@torch.no_grad()
def redrawn(base: BaseModel, clean: Tensor, words: Tensor, random: StepRandom, settings: Settings) -> Tensor:
    """What the base model makes of latents that get noise, up to `STRONGEST`, in `STEPS` steps without guidance."""
    diffusion = Diffusion(settings.device)
    weak_enough = int((diffusion.sigmas <= STRONGEST).sum())
    first = torch.from_numpy(random.numpy.integers(0, weak_enough, len(clean))).to(settings.device)
    noise, found = random.normal(*clean.shape).to(settings.device), clean
    for step in range(STEPS):
        timesteps = first * (STEPS - step) // STEPS
        noisy, _ = diffusion.noisy_and_target(found, noise, timesteps)
        with settings.autocast():
            v = base.predict_from(noisy, timesteps, words).float()
        a, b = (kept[timesteps].view(-1, 1, 1, 1) for kept in (diffusion.signal, diffusion.noise))
        found, noise = diffusion.clean(noisy, v, timesteps), b * noisy + a * v
    return found


@torch.no_grad()
def measure_redrawn(vae: ToyVAE, base: BaseModel, settings: Settings, count: int = 200) -> float:
    """Mean PSNR in dB of pictures never trained on, decoded from what the base model makes of them; on the CPU."""
    numbers = range(9_100_000_000, 9_100_000_000 + count)
    held_out = [sample_scene(number, held_out=True) for number in numbers]
    pixels = to_pixels(np.stack([scene.image for scene in held_out]))
    words = torch.tensor([tokenize(scene.caption, TOY_WORLD.text_length) for scene in held_out])
    base, vae, on_cpu = base.cpu(), vae.cpu(), replace(settings, device="cpu")
    scores = []
    for start in range(0, count, 50):
        rows = slice(start, start + 50)
        given = redrawn(base, vae.encode(pixels[rows]), words[rows], StepRandom.of(0, 0, start), on_cpu)
        wrong = (vae.decode(given).clamp(-1, 1) - pixels[rows]) ** 2
        scores.append(10 * torch.log10(4 / wrong.mean((1, 2, 3))))
    return round(float(torch.cat(scores).mean()), 2)
