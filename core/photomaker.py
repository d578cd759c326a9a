"""PhotoMaker v1 without a host: its file, the sizes in it, the fuse module, and how it looks at pictures.

Source: PhotoMaker (Li et al. 2024), section 3.2; IdentityStory, section 3.1. Small encoders of the same shape load too.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .shapes import Float

ENCODER_ID = "photomaker-v1"
_HEAD_WIDTH = 64
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def split_file(content: Mapping[str, Any], name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Encoder and LoRA of a PhotoMaker v1 file: two dicts in it, or the same as flat keys (safetensors).

    Raises:
        ValueError: If the file is PhotoMaker v2 or something else; the message says what was found.
    """
    parts = {"id_encoder": content.get("id_encoder"), "lora_weights": content.get("lora_weights")}
    for part in parts:
        flat = {key.removeprefix(f"{part}."): value for key, value in content.items() if key.startswith(f"{part}.")}
        parts[part] = flat or parts[part]
    encoder, lora = parts.values()
    if not isinstance(encoder, dict) or not isinstance(lora, dict):
        raise ValueError(
            f'"{name}" is not a PhotoMaker file: it has {sorted(content)[:4]}, not id_encoder and lora_weights.'
        )
    if any(key.startswith("qformer_perceiver") for key in encoder):
        raise ValueError(
            f'"{name}" is PhotoMaker v2, which needs a face recogniser whose models are non-commercial. '
            "Use photomaker-v1.bin."
        )
    if "visual_projection_2.weight" not in encoder:
        raise ValueError(f'"{name}" has no visual_projection_2 in its encoder; expected PhotoMaker v1 for SDXL.')
    return encoder, lora


def vision_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The CLIP vision tower's sizes, read from its weights."""
    patches = weights["vision_model.embeddings.patch_embedding.weight"]
    positions = weights["vision_model.embeddings.position_embedding.weight"]
    layers = {key.split(".")[3] for key in weights if key.startswith("vision_model.encoder.layers.")}
    side = round((positions.shape[0] - 1) ** 0.5)
    return {
        "model_type": "clip_vision_model",
        "hidden_act": "quick_gelu",
        "num_channels": 3,
        "hidden_size": patches.shape[0],
        "patch_size": patches.shape[-1],
        "image_size": side * patches.shape[-1],
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, patches.shape[0] // _HEAD_WIDTH),
        "intermediate_size": weights["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "projection_dim": weights["visual_projection.weight"].shape[0],
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
        width: Of both embeddings.
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
