"""PhotoMaker under diffusers: the identity encoder, and its LoRA as an adapter that is on only in the identity pass."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from ..core.lora_file import check_lora, lora_pairs
from ..core.photomaker import ENCODER_ID, FuseModule, look_at, split_file, vision_config
from ..core.quoting import printable, quote
from ..core.shapes import Float
from ..core.state_dict import read_tensors
from ..core.toyworld import models as toyworld
from .components import clip_tower, layer_shapes
from .prompts import Prompt

_ADAPTER = "photomaker"


class PhotoMaker(nn.Module):
    """The image encoder with both projections and the fuse module, in float32.

    Args:
        weights: The encoder part of the file, as `core.photomaker.split_file` gives it.
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
        self.load_state_dict(rest | {f"vision.{key}": value for key, value in self.vision.state_dict().items()})
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
    tower = {key: value.float() for key, value in weights.items() if key.startswith("vision_model.")}
    return clip_tower(CLIPVisionModel, CLIPVisionConfig(**vision_config(weights)), tower)


def load_photomaker(path: Path, pipe: Any) -> PhotoMaker:
    """Load the encoder, on the UNet's device, and put the file's LoRA on the pipeline, switched off.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no PhotoMaker v1 file, not all of it, or not made for this kind of checkpoint.
    """
    name = printable(str(path))
    if not path.exists():
        raise FileNotFoundError(
            f"There is no PhotoMaker file {name}. `story-identity models list` says where to get one."
        )
    encoder, lora = split_file(read_tensors(path, "a PhotoMaker v1 file"), name)
    width, made_for = pipe.unet.config.cross_attention_dim, len(encoder["fuse_module.layer_norm.weight"])
    if made_for != width:
        raise ValueError(
            f"{quote(path.name)} is made for prompts {made_for} wide; this checkpoint reads {width}. PhotoMaker v1 "
            "goes with SDXL checkpoints, the toy world's file with the toy world."
        )
    check_lora(lora, layer_shapes(pipe.unet), name)
    photomaker = PhotoMaker({key: value.float() for key, value in encoder.items()})
    halves = ("lora_A", "lora_B")
    in_peft = {
        f"unet.{layer}.{half}.weight": tensor
        for layer, both in lora_pairs(lora, name).items()
        for half, tensor in zip(halves, both, strict=True)
    }
    pipe.load_lora_into_unet(in_peft, None, pipe.unet, adapter_name=_ADAPTER)
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
