"""The toy world as a diffusers pipeline."""

from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, EulerDiscreteScheduler, ModelMixin, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from ..core.quoting import printable
from ..core.state_dict import load_exactly
from ..core.toyworld.models import BETAS, WEIGHTS, text_encoder_weights, tokenizer_folder, unet_weights
from ..core.toyworld.sizes import TOY_WORLD
from ..core.toyworld.vae import load_vae
from .components import clip_tower, loading


class PipelineVAE(ModelMixin, ConfigMixin):
    """The toy VAE with the outside of diffusers' AutoencoderKL."""

    @register_to_config
    def __init__(
        self,
        latent_channels: int,
        block_out_channels: tuple[int, ...],  # one level more than halvings
        scaling_factor: float = 1.0,
    ) -> None:
        super().__init__()
        self.network: torch.nn.Module = torch.nn.Identity()

    def encode(self, pixels: torch.Tensor) -> AutoencoderKLOutput:
        latents = self.network.encode(pixels)  # pyright: ignore[reportCallIssue]
        certain = torch.full_like(latents, -30.0)  # the logarithm of a variance of nothing
        return AutoencoderKLOutput(DiagonalGaussianDistribution(torch.cat([latents, certain], dim=1)))

    def decode(self, latents: torch.Tensor) -> DecoderOutput:
        return DecoderOutput(sample=self.network.decode(latents))  # pyright: ignore[reportCallIssue]


def load_toyworld(folder: Path = WEIGHTS) -> StableDiffusionPipeline:
    """Build the pipeline from a folder of the toy world's weights, in float32 on the CPU.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file cannot be read, or does not fit the sizes in `core.toyworld`.
    """
    unet = UNet2DConditionModel(**TOY_WORLD.unet)
    stored = {f"model.diffusion_model.{key}": value for key, value in unet_weights(folder).items()}
    converted = convert_ldm_unet_checkpoint(stored, dict(unet.config))
    load_exactly(unet, converted, printable(str(folder / "unet.safetensors")), "the toy world's unet")
    vae: Any = PipelineVAE(TOY_WORLD.latent_channels, (1,) * TOY_WORLD.latent_ratio.bit_length())
    vae.network = load_vae(folder)
    scheduler: Any = EulerDiscreteScheduler(
        beta_start=BETAS[0],
        beta_end=BETAS[1],
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        steps_offset=1,
    )
    nothing: Any = None
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=load_text_encoder(folder),
        tokenizer=load_tokenizer(folder),
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=nothing,
        feature_extractor=nothing,
        requires_safety_checker=False,
    )


def load_text_encoder(folder: Path) -> Any:
    """The text encoder in a folder of weights; raises as `load_toyworld`."""
    weights, words = text_encoder_weights(folder)
    return clip_tower(CLIPTextModel, CLIPTextConfig(vocab_size=words, **TOY_WORLD.text_encoder), weights)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer beside it; raises as `load_toyworld`."""
    path = tokenizer_folder(folder)
    with loading(path, "the toy world's tokenizer"):
        return PreTrainedTokenizerFast.from_pretrained(path)
