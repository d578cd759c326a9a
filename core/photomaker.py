"""PhotoMaker v1 without a host: its file, the sizes in it, the fuse module, and how it looks at pictures.

Source: PhotoMaker (Li et al. 2024), section 3.2; IdentityStory, section 3.1. Small encoders of the same shape load too.
"""

from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from .clip_shapes import vision_tower
from .lora_file import lora_pairs
from .quoting import quote_all
from .shapes import Float
from .state_dict import (
    WeightFileError,
    check_tensors,
    count_parts,
    meta,
    shape_of,
    sizes_from,
    state_without_numbers,
    tensors_of,
)

ENCODER_ID = "photomaker-v1"
_PARTS = ("id_encoder", "lora_weights")
_HEAD_WIDTH = 64
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def split_file(content: Mapping[str, Any], name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Encoder and LoRA of a PhotoMaker v1 file: two dicts in it, or the same as flat keys (safetensors).

    Args:
        content: What the file holds.
        name: What messages call the file.

    Returns:
        The encoder's tensors, all that it needs and no more, and the LoRA's, complete in pairs.

    Raises:
        ValueError: If the file is PhotoMaker v2 or something else, or not all of it; the message says what was found.
    """
    encoder, lora = (_part(content, part) for part in _PARTS)
    if any(key.startswith("qformer_perceiver") for key in encoder):
        raise WeightFileError(
            f"{name} is PhotoMaker v2, which needs a face recogniser whose models are non-commercial. "
            "Use photomaker-v1.bin."
        )
    if not encoder or not lora:
        raise WeightFileError(
            f"{name} is not a PhotoMaker file: it has {quote_all(sorted(content), 4) or 'nothing'}, and not both "
            "id_encoder and lora_weights with tensors in them."
        )
    besides = [key for key in content if key not in _PARTS and not key.startswith(tuple(f"{part}." for part in _PARTS))]
    if besides:
        raise WeightFileError(
            f"{name} holds {quote_all(sorted(besides), 3)}, which is no part of a PhotoMaker file: that has id_encoder "
            "and lora_weights only."
        )
    encoder, lora = tensors_of(encoder, name), tensors_of(lora, name)
    check_tensors(encoder, meta(encoder_shapes(encoder, name)), name, "the encoder of PhotoMaker v1")
    lora_pairs(lora, name)
    return encoder, lora


def _part(content: Mapping[str, Any], part: str) -> dict[str, Any]:
    flat = {key.removeprefix(f"{part}."): value for key, value in content.items() if key.startswith(f"{part}.")}
    nested = content.get(part)
    return flat or (dict(nested) if isinstance(nested, Mapping) else {})


def encoder_shapes(weights: Mapping[str, Tensor], name: str) -> dict[str, tuple[int, ...]]:
    """The tensors that an encoder of these sizes has: image encoder, both projections, fuse module.

    Raises:
        ValueError: If the sizes cannot be read from `weights`.
    """
    config = vision_config(weights, name)
    projections = {
        key: shape_of(weights, key, 2, name) for key in ("visual_projection.weight", "visual_projection_2.weight")
    }
    widths = {key: (shape[0], config["hidden_size"]) for key, shape in projections.items()}
    total = sum(width for width, _ in widths.values())
    fuse = state_without_numbers(lambda: FuseModule(total))
    return vision_tower(config) | widths | {f"fuse_module.{key}": tuple(tensor.shape) for key, tensor in fuse.items()}


def vision_config(weights: Mapping[str, Tensor], name: str = "The file") -> dict[str, Any]:
    """The CLIP vision tower's sizes, read from its weights.

    Args:
        weights: The encoder part of a PhotoMaker file.
        name: What messages call the file.

    Raises:
        ValueError: If a tensor that tells sizes is missing, or its shape is impossible.
    """
    patches = shape_of(weights, "vision_model.embeddings.patch_embedding.weight", 4, name)
    positions = shape_of(weights, "vision_model.embeddings.position_embedding.weight", 2, name)
    heads, side = max(1, patches[0] // _HEAD_WIDTH), isqrt(positions[0] - 1)
    with sizes_from(name, "CLIP's image encoder"):
        if patches[0] % heads or side * side != positions[0] - 1 or not side:
            raise ValueError(f"width {patches[0]}, {positions[0]} positions")
    return {
        "model_type": "clip_vision_model",
        "hidden_act": "quick_gelu",
        "num_channels": 3,
        "hidden_size": patches[0],
        "patch_size": patches[-1],
        "image_size": side * patches[-1],
        "num_hidden_layers": count_parts(weights, "vision_model.encoder.layers.", name),
        "num_attention_heads": heads,
        "intermediate_size": shape_of(weights, "vision_model.encoder.layers.0.mlp.fc1.weight", 2, name)[0],
        "projection_dim": shape_of(weights, "visual_projection.weight", 2, name)[0],
    }


class _FuseMLP(nn.Module):
    """LayerNorm, two linear layers with GELU between, and (where the widths agree) a residual."""

    def __init__(self, width_in: int, width_out: int, hidden: int, residual: bool, operations: Any) -> None:
        super().__init__()
        self.layernorm = operations.LayerNorm(width_in)
        self.fc1 = operations.Linear(width_in, hidden)
        self.fc2 = operations.Linear(hidden, width_out)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        out = self.fc2(nn.functional.gelu(self.fc1(self.layernorm(x))))
        return out + x if self.residual else out


class FuseModule(nn.Module):
    """Merges the class word's text embedding with an identity embedding of the same width.

    Args:
        width: The width of both embeddings.
        operations: Where LayerNorm and Linear come from; ComfyUI has its own.
    """

    def __init__(self, width: int, operations: Any = nn) -> None:
        super().__init__()
        self.mlp1 = _FuseMLP(2 * width, width, width, False, operations)
        self.mlp2 = _FuseMLP(width, width, width, True, operations)
        self.layer_norm = operations.LayerNorm(width)

    def fuse_fn(self, prompt_embeds: Float[Tensor, "n d"], id_embeds: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Fuse rows of text with rows of identity."""
        fused = self.mlp1(torch.cat([prompt_embeds, id_embeds], dim=-1)) + prompt_embeds
        return self.layer_norm(self.mlp2(fused))


def look_at(images: Float[Tensor, "m h w 3"], side: int) -> Float[Tensor, "m 3 side side"]:
    """Pictures as CLIP's vision tower takes them: bicubic to the shorter side, centre crop, 8-bit levels, normalised.

    Pictures of the tower's own size are not scaled.
    """
    pixels = images.movedim(-1, 1)
    if tuple(pixels.shape[2:]) != (side, side):
        scale = side / min(pixels.shape[2:])
        size = [round(scale * length) for length in pixels.shape[2:]]
        pixels = nn.functional.interpolate(pixels, size=size, mode="bicubic", antialias=True)
        top, left = ((length - side) // 2 for length in pixels.shape[2:])
        pixels = pixels[:, :, top : top + side, left : left + side]
    levels = (255 * pixels).clamp(0, 255).round() / 255
    mean, deviation = (torch.tensor(each, device=pixels.device).view(3, 1, 1) for each in (_MEAN, _DEVIATION))
    return (levels - mean) / deviation
