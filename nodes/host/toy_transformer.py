"""The toy world's diffusion transformer in the host, which knows the family and the sizes by the weights themselves."""

from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.sd
import torch

from ...core.toyworld.models import WEIGHTS, load_preview_colours
from ...core.toyworld.transformer import TRANSFORMER_WEIGHTS, check_channels, transformer_weights
from .toyworld import load_clip


class ToyTransformerLatents(comfy.latent_formats.Flux):
    """The family's scale; a name of its own, as the latents are of another VAE than Flux.1's."""

    def __init__(self, vae: Path) -> None:
        super().__init__()
        self.taesd_decoder_name = None
        colours = load_preview_colours(vae)
        if colours is not None:
            check_channels(len(colours[0]))
            self.latent_rgb_factors, self.latent_rgb_factors_bias = colours


def load_transformer(folder: Path = TRANSFORMER_WEIGHTS, vae: Path = WEIGHTS, disable_dynamic: bool = False) -> Any:
    """The transformer as a MODEL, which is template and identity generator: it reads reference latents.

    The host calls this again with `disable_dynamic` when it needs a copy whose weights stay put, as for LoRA hooks.

    Args:
        folder: Where the transformer lies.
        vae: Where the VAE lies, whose colours previews have.
        disable_dynamic: For the host.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it cannot be read, has other tensors, or is for other latents than those of the VAE.
    """
    latents = ToyTransformerLatents(vae)
    patcher = comfy.sd.load_diffusion_model_state_dict(
        transformer_weights(folder), model_options={"dtype": torch.float32}, disable_dynamic=disable_dynamic
    )
    assert patcher is not None  # the names and shapes were compared with the family's
    patcher.model.latent_format = latents
    patcher.cached_patcher_init = (load_transformer, (folder, vae))
    return patcher


def load_transformer_clip(folder: Path = TRANSFORMER_WEIGHTS) -> Any:
    """Its tokenizer and text encoder as a CLIP, whose summary of the prompt the transformer reads too."""
    return load_clip(folder)
