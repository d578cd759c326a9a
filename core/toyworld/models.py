"""The toy world's networks: where their weights lie, and how they are read. Their sizes are in `sizes`.

The UNet is stored in the key layout of the original latent-diffusion code (LDM), as in single-file checkpoints, so
that both hosts read it with their own loaders; the VAE is `vae.ToyVAE` in both. Everything is stored in float16 and
runs in float32.
"""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from ..clip_shapes import text_tower
from ..quoting import printable
from ..state_dict import check_tensors, load_exactly, meta, read_tensors, shape_of, tensors_of
from .shapes import unet_shapes
from .sizes import TOY_WORLD

WEIGHTS = Path(__file__).parent / "weights"

PreviewColours = tuple[list[list[float]], list[float]]
"""Factors `(channels, 3)` and bias `(3,)` that mix a latent's channels to red, green and blue in [-1, 1]."""

PREVIEW_COLOURS = "preview_colours.json"
"""The file next to the VAE's weights that holds its `PreviewColours`."""

BETAS = (0.00085, 0.012)
"""First and last beta of the scaled-linear schedule over 1,000 timesteps, as in Stable Diffusion."""


def weights_file(name: str, folder: Path = WEIGHTS) -> Path:
    """Where the weights called `name` are.

    Raises:
        FileNotFoundError: If they are not there, as in a package built without its data.
    """
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"The toy world's {name} is missing: there is no {printable(str(path))}. Install the pack again, or train "
            "it (python -m story_identity.lab.toyworld.training)."
        )
    return path


def load_weights(name: str, folder: Path = WEIGHTS) -> dict[str, Tensor]:
    """The weights called `name`, as float32, not yet compared with a network.

    There are unet, vae, text_encoder, photomaker, identity_encoder, detector, probe and injector.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it cannot be read.
    """
    path = weights_file(name, folder)
    content = tensors_of(read_tensors(path, f"the toy world's {name}"), printable(str(path)))
    return {key: value.float() if value.is_floating_point() else value for key, value in content.items()}


def unet_weights(folder: Path = WEIGHTS) -> dict[str, Tensor]:
    """The UNet's weights, all of them and no more, in LDM names; raises as `load_network` does."""
    weights = load_weights("unet", folder)
    check_tensors(weights, meta(unet_shapes(TOY_WORLD.unet)), _where("unet", folder), "the toy world's unet")
    return weights


def text_encoder_weights(folder: Path = WEIGHTS) -> tuple[dict[str, Tensor], int]:
    """The text encoder's weights, all of them and no more, and how many words it knows; raises as `load_network`."""
    weights, where = load_weights("text_encoder", folder), _where("text_encoder", folder)
    words = shape_of(weights, "text_model.embeddings.token_embedding.weight", 2, where)[0]
    config = {**TOY_WORLD.text_encoder, "vocab_size": words}
    check_tensors(weights, meta(text_tower(config)), where, "the toy world's text encoder")
    return weights, words


def tokenizer_folder(folder: Path = WEIGHTS) -> Path:
    """Where the tokenizer's files are; FileNotFoundError if they are not there."""
    path = folder / "tokenizer"
    if not (path / "tokenizer.json").is_file():
        raise FileNotFoundError(
            f"The toy world's tokenizer is missing: there is no {printable(str(path / 'tokenizer.json'))}. Install the "
            "pack again."
        )
    return path


def load_network(network: nn.Module, name: str, folder: Path = WEIGHTS) -> None:
    """Put the weights called `name` into a network, which then does not learn.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it cannot be read, or has other tensors than the network.
    """
    load_exactly(network, load_weights(name, folder), _where(name, folder), f"the toy world's {name}")
    network.eval().requires_grad_(False)


def _where(name: str, folder: Path) -> str:
    return printable(str(folder / f"{name}.safetensors"))


def load_preview_colours(folder: Path = WEIGHTS) -> PreviewColours | None:
    """The preview colours of the VAE in a folder of weights; None for weights that have none."""
    path = folder / PREVIEW_COLOURS
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["factors"], content["bias"]


def store(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they are stored: float16, contiguous, on the CPU."""
    return {
        key: (value.half() if value.is_floating_point() else value).detach().cpu().contiguous()
        for key, value in weights.items()
    }


def noise_levels() -> Tensor:
    """Sigmas of the 1,000 timesteps, float32, rising."""
    betas = torch.linspace(BETAS[0] ** 0.5, BETAS[1] ** 0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, dim=0)
    return ((1 - kept) / kept).sqrt().float()
