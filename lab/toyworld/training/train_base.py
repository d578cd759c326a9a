"""The base model: a text encoder and a text-conditional UNet, trained together to predict v."""

from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ....core.toyworld.models import load_weights, noise_levels, text_encoder_weights
from ....core.toyworld.sizes import TOY_WORLD
from ....core.toyworld.vae import ToyVAE
from ....core.toyworld.vocabulary import UNKNOWN, vocabulary
from ...step_random import StepRandom
from .cached_tensors import cached
from .rendered_scenes import scenes, to_pixels
from .text_encoder import new_text_encoder
from .train_network import Settings, train

PICTURES = 24_000
NO_TEXT = 0.1
"""Share of captions left out, for guidance."""
UNKNOWN_WORD = 0.03
"""Share of captions in which one word is made unknown."""


class BaseModel(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.text = new_text_encoder(seed)
        self.unet = UNet2DConditionModel(**TOY_WORLD.unet)

    def predict(self, noisy: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        return self.unet(noisy, timesteps, context).sample

    def predict_from(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        return self.predict(noisy, timesteps, self.text(tokens)[0])


class Diffusion:
    """Adding noise, and what the network is asked for: v = a noise - b latent (Salimans and Ho 2022)."""

    def __init__(self, device: str) -> None:
        self.sigmas = noise_levels().to(device)
        self.signal = 1 / (1 + self.sigmas**2).sqrt()
        self.noise = self.sigmas * self.signal

    def noisy_and_target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        a, b = (kept[timesteps].view(-1, 1, 1, 1) for kept in (self.signal, self.noise))
        return a * latents + b * noise, a * noise - b * latents

    def clean(self, noisy: Tensor, v: Tensor, timesteps: Tensor) -> Tensor:
        """The clean latents that noisy ones and a prediction of v come from."""
        a, b = (kept[timesteps].view(-1, 1, 1, 1) for kept in (self.signal, self.noise))
        return a * noisy - b * v


def train_base(vae: ToyVAE, settings: Settings) -> tuple[BaseModel, list[float]]:
    model = BaseModel(settings.seed) if settings.start is None else load_base(settings.start, settings.seed)
    model.requires_grad_(True).to(settings.device)
    pictures, tokens = scenes(PICTURES, settings.seed + 2, settings.folder)
    latents = encode(vae, pictures, settings)
    diffusion = Diffusion(settings.device)
    ids = torch.from_numpy(tokens.astype(np.int64))
    predict = settings.compiled(model.predict_from)

    def loss(random: StepRandom) -> Tensor:
        chosen = torch.from_numpy(random.numpy.choice(len(latents), settings.batch, replace=False))
        words = drop_words(ids[chosen], random).to(settings.device)
        clean = latents[chosen].to(settings.device, torch.float32)
        timesteps = torch.from_numpy(random.numpy.integers(0, 1000, settings.batch)).to(settings.device)
        noise = random.normal(*clean.shape).to(settings.device)
        noisy, target = diffusion.noisy_and_target(clean, noise, timesteps)
        with settings.autocast():
            found = predict(noisy, timesteps, words)
        return mse_loss(found.float(), target)

    return model.train(), train("base", model, loss, settings)


def drop_words(words: Tensor, random: StepRandom) -> Tensor:
    """Leave out some captions and make single words of others unknown."""
    words = words.clone()
    start, end, unknown = 0, 1, vocabulary().index(UNKNOWN)
    for row in words:
        chance = random.numpy.random()
        if chance < NO_TEXT:
            row[:] = end
            row[0] = start
        elif chance < NO_TEXT + UNKNOWN_WORD:
            length = int((row != end).sum())
            row[int(random.numpy.integers(1, length))] = unknown
    return words


@torch.no_grad()
def encode(vae: ToyVAE, pictures: np.ndarray, settings: Settings, name: str = "latents") -> Tensor:
    """Latents of all pictures, float16 on the CPU; kept on disk."""

    def make() -> Tensor:
        latents = []
        for start in range(0, len(pictures), 64):
            with settings.autocast():
                mean = vae.encode(to_pixels(pictures[start : start + 64]).to(settings.device))
            latents.append(mean.half().cpu())
        return torch.cat(latents)

    return cached(settings.folder, f"{name}_{len(pictures)}_{settings.seed}", make, vae.encoder)


def load_base(folder: Path, seed: int) -> BaseModel:
    """The base model of a folder of weights, on the CPU."""
    model = BaseModel(seed)
    stored = {f"model.diffusion_model.{key}": value for key, value in load_weights("unet", folder).items()}
    model.unet.load_state_dict(convert_ldm_unet_checkpoint(stored, dict(model.unet.config)))
    load_text_encoder(model.text, folder)
    return model.eval()


def load_text_encoder(text: nn.Module, folder: Path) -> None:
    """Put the text encoder's weights in a folder into it; raises as `core.toyworld.models.text_encoder_weights`."""
    state, (loaded, _) = text.state_dict(), text_encoder_weights(folder)
    text.load_state_dict({key: loaded[stored] for key, stored in zip(state, text_keys(state), strict=True)})


def text_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The text encoder's weights under their published names, which begin with `text_model.`."""
    return {key if key.startswith("text_model.") else f"text_model.{key}": value for key, value in state.items()}
