"""PhotoMaker under diffusers: the identity encoder, and its LoRA as an adapter that is on only in the identity pass."""

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from ..core.photomaker import ENCODER_ID, FuseModule, look_at, split_file, vision_config
from ..core.shapes import Float
from ..core.toyworld import models as toyworld
from .prompts import Prompt

_ADAPTER = "photomaker"


class PhotoMaker(nn.Module):
    """The image encoder with both projections and the fuse module, in float32.

    Args:
        weights: The encoder part of the file.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        config = vision_config(weights)
        self.image_size = config["image_size"]
        self.vision = vision_tower(weights)
        widths = [len(weights[f"{name}.weight"]) for name in ("visual_projection", "visual_projection_2")]
        self.visual_projection = nn.Linear(config["hidden_size"], widths[0], bias=False)
        self.visual_projection_2 = nn.Linear(config["hidden_size"], widths[1], bias=False)
        self.fuse_module = FuseModule(sum(widths))
        self.width = sum(widths)
        rest = {key: value for key, value in weights.items() if not key.startswith("vision_model.")}
        missing, unexpected = self.load_state_dict(rest, strict=False)
        missing = [key for key in missing if not key.startswith("vision.")]
        if missing or unexpected:
            raise ValueError(f"The PhotoMaker encoder lacks {missing[:3]} and has, besides, {unexpected[:3]}.")
        self.eval()

    @property
    def encoder_id(self) -> str:
        """Which encoder identities made with this file belong to; the text width tells the toy world's from v1."""
        return toyworld.ENCODER_ID if self.width == toyworld.TEXT_WIDTH else ENCODER_ID

    @torch.no_grad()
    def embed(self, images: Float[Tensor, "m h w 3"]) -> Float[Tensor, "m d"]:
        """Identity embeddings, float32 on the CPU: both projections of the pooled tokens, side by side."""
        device = self.visual_projection.weight.device
        pooled = self.vision(look_at(images.to(device), self.image_size)).pooler_output
        return torch.cat([self.visual_projection(pooled), self.visual_projection_2(pooled)], dim=-1).cpu()

    @torch.no_grad()
    def fuse(self, prompt: Prompt, position: int, embedding: Float[Tensor, " d"]) -> Prompt:
        """The prompt with the token at `position` merged with an identity."""
        device = self.visual_projection.weight.device
        text = prompt.embeddings[:, position].to(device, torch.float32)
        return prompt.with_token(position, self.fuse_module.fuse_fn(text, embedding.unsqueeze(0).to(device))[0])


def vision_tower(weights: Mapping[str, Tensor]) -> CLIPVisionModel:
    """The image encoder of a PhotoMaker file alone; `weights` is the encoder part of it."""
    tower = {key: value for key, value in weights.items() if key.startswith("vision_model.")}
    config = CLIPVisionConfig(**vision_config(weights))
    return CLIPVisionModel.from_pretrained(None, config=config, state_dict=tower).eval()


def load_photomaker(path: Path, pipe: Any) -> PhotoMaker:
    """Load the encoder, on the UNet's device, and put the file's LoRA on the pipeline, switched off.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no PhotoMaker v1 file, or not made for this kind of checkpoint.
    """
    encoder, lora = split_file(_read(path), path.name)
    photomaker = PhotoMaker({key: value.float() for key, value in encoder.items()})
    width = pipe.unet.config.cross_attention_dim
    if photomaker.width != width:
        raise ValueError(
            f'"{path.name}" is made for prompts {photomaker.width} wide; this checkpoint reads {width}. PhotoMaker v1 '
            "goes with SDXL checkpoints, the toy world's file with the toy world."
        )
    before = set(pipe.unet.state_dict())
    try:
        converted, alphas = pipe.lora_state_dict(dict(lora))
        pipe.load_lora_into_unet(converted, alphas, pipe.unet, adapter_name=_ADAPTER)
    except (ValueError, KeyError) as error:
        raise ValueError(f'The LoRA in "{path.name}" does not fit this checkpoint: {error}') from error
    if set(pipe.unet.state_dict()) == before:
        raise ValueError(f'The LoRA in "{path.name}" fits none of the layers of this checkpoint.')
    pipe.unet.disable_adapters()
    return photomaker.to(pipe.unet.device)


@contextmanager
def identity_generator(pipe: Any) -> Iterator[None]:
    """Inside, the pipeline's UNet has PhotoMaker's LoRA; outside it is the base model."""
    pipe.unet.enable_adapters()
    try:
        yield
    finally:
        pipe.unet.disable_adapters()


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no PhotoMaker file {path}. `story-identity models list` says where to get one."
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, OSError, EOFError) as error:
        raise ValueError(
            f"{path} cannot be read as weights ({type(error).__name__}): it is incomplete, or not a file of weights."
        ) from error
    return content if isinstance(content, dict) else {}
