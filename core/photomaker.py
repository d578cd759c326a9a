"""PhotoMaker without a host: its file, the sizes in it, its networks, and how it looks at pictures.

Version 1 makes one identity token of a picture: PhotoMaker (Li et al. 2024), section 3.2; IdentityStory, section 3.1.
Version 2, which has no paper, makes two of a picture and the face embedding of who is in it; its file and its authors'
code say how. Small encoders of the same shape load too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from .character_mentions import Span
from .clip_shapes import vision_tower
from .injector import Perceiver, ResamplerConfig
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

ENCODER_ID, ENCODER_ID_V2 = "photomaker-v1", "photomaker-v2"
_PARTS = ("id_encoder", "lora_weights")
_HEAD_WIDTH = 64
_PERCEIVER = "qformer_perceiver."
_PERCEIVER_HEAD_WIDTH = 128
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def split_file(content: Mapping[str, Any], name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Encoder and LoRA of a PhotoMaker file: two dicts in it, or the same as flat keys (safetensors).

    Args:
        content: What the file holds.
        name: What messages call the file.

    Returns:
        The encoder's tensors, all that it needs and no more, and the LoRA's, complete in pairs. `encoder_id_of`
        says which version it is.

    Raises:
        ValueError: If the file is something else, or not all of it; the message says what was found.
    """
    encoder, lora = (_part(content, part) for part in _PARTS)
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
    version = "v2" if encoder_id_of(encoder) == ENCODER_ID_V2 else "v1"
    check_tensors(encoder, meta(encoder_shapes(encoder, name)), name, f"the encoder of PhotoMaker {version}")
    lora_pairs(lora, name)
    return encoder, lora


def encoder_id_of(weights: Mapping[str, Any]) -> str:
    """What identities call the encoder of this file: `ENCODER_ID` or, where it reads face embeddings, that of v2."""
    return ENCODER_ID_V2 if any(key.startswith(_PERCEIVER) for key in weights) else ENCODER_ID


def _part(content: Mapping[str, Any], part: str) -> dict[str, Any]:
    flat = {key.removeprefix(f"{part}."): value for key, value in content.items() if key.startswith(f"{part}.")}
    nested = content.get(part)
    return flat or (dict(nested) if isinstance(nested, Mapping) else {})


def encoder_shapes(weights: Mapping[str, Tensor], name: str) -> dict[str, tuple[int, ...]]:
    """The tensors that an encoder of these sizes has: image encoder, both projections, fuse module.

    In version 2 the perceiver comes with them; the projections, which its file has too, are not used.

    Raises:
        ValueError: If the sizes cannot be read from `weights`.
    """
    config = vision_config(weights, name)
    projections = {
        key: shape_of(weights, key, 2, name) for key in ("visual_projection.weight", "visual_projection_2.weight")
    }
    widths = {key: (shape[0], config["hidden_size"]) for key, shape in projections.items()}
    total = sum(width for width, _ in widths.values())
    found = perceiver_config(weights, name)
    fuse = state_without_numbers(lambda: FuseModule(total if found is None else found.resampler.width))
    shapes = vision_tower(config) | widths | {f"fuse_module.{key}": tuple(tensor.shape) for key, tensor in fuse.items()}
    if found is not None:
        perceiver = state_without_numbers(lambda: IdentityPerceiver(found))
        shapes |= {f"{_PERCEIVER}{key}": tuple(tensor.shape) for key, tensor in perceiver.items()}
    return shapes


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


@dataclass(frozen=True)
class PerceiverConfig:
    """Sizes of the network that makes version 2's identity tokens.

    Args:
        face_width: The width of the face embedding it reads; 512 in the public file.
        tokens: Identity tokens per picture; 2 in the public file.
        hidden: The width between its two first layers; 2048 in the public file.
        resampler: How the tokens look at the picture. Its width is that of the tokens and of the model's prompts.
    """

    face_width: int
    tokens: int
    hidden: int
    resampler: ResamplerConfig


def perceiver_config(weights: Mapping[str, Tensor], name: str = "The file") -> PerceiverConfig | None:
    """The sizes of version 2's perceiver, read from its weights; None for version 1, which has none.

    Args:
        weights: The encoder part of a PhotoMaker file.
        name: What messages call the file.

    Raises:
        ValueError: If a tensor that tells sizes is missing, or its shape is impossible.
    """
    if encoder_id_of(weights) != ENCODER_ID_V2:
        return None
    hidden, face_width = shape_of(weights, f"{_PERCEIVER}token_proj.0.weight", 2, name)
    (width,) = shape_of(weights, f"{_PERCEIVER}token_norm.weight", 1, name)
    rows = shape_of(weights, f"{_PERCEIVER}token_proj.2.weight", 2, name)[0]
    clip_width = shape_of(weights, f"{_PERCEIVER}perceiver_resampler.proj_in.weight", 2, name)[1]
    inner = shape_of(weights, f"{_PERCEIVER}perceiver_resampler.layers.0.0.to_q.weight", 2, name)[0]
    depth = count_parts(weights, f"{_PERCEIVER}perceiver_resampler.layers.", name)
    with sizes_from(name, "the perceiver of PhotoMaker v2"):
        if not width or not rows or rows % width or not inner or inner % _PERCEIVER_HEAD_WIDTH:
            raise ValueError(f"{rows} rows for tokens {width} wide, attention {inner} wide")
        heads = inner // _PERCEIVER_HEAD_WIDTH
        resampler = ResamplerConfig(clip_width, width, heads, depth, _PERCEIVER_HEAD_WIDTH)
    return PerceiverConfig(face_width, rows // width, hidden, resampler)


class IdentityPerceiver(nn.Module):
    """Identity tokens of version 2: tokens of the face embedding, plus what these find in the picture.

    Args:
        config: The sizes.
        operations: Where LayerNorm and Linear come from; ComfyUI has its own.
    """

    def __init__(self, config: PerceiverConfig, operations: Any = nn) -> None:
        super().__init__()
        width = config.resampler.width
        self.token_proj = nn.Sequential(
            operations.Linear(config.face_width, config.hidden),
            nn.GELU(),
            operations.Linear(config.hidden, config.tokens * width),
        )
        self.token_norm = operations.LayerNorm(width)
        self.perceiver_resampler = Perceiver(config.resampler, width, operations)
        self.config = config

    def forward(self, face: Float[Tensor, "m w"], hidden: Float[Tensor, "m t c"]) -> Float[Tensor, "m k d"]:
        """Identity tokens.

        Args:
            face: Face embeddings as insightface gives them, not scaled to unit length.
            hidden: The image encoder's last hidden states, before its last layer norm, class token included.
        """
        tokens = self.token_norm(self.token_proj(face).unflatten(-1, (self.config.tokens, -1)))
        return tokens + self.perceiver_resampler.refine(tokens, hidden)


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
    """Merges the class word's text embedding with an identity token of the same width.

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


def with_repeated_word(text: str, span: Span, count: int) -> tuple[str, list[Span]]:
    """A prompt in which the word at `span`, or the last of several, stands `count` times in a row, and where.

    PhotoMaker v2 repeats the class word's last token, one for each of its identity tokens. Where the word is one token,
    as class words are, writing it again gives the same. With count 1 the prompt stays as it is.
    """
    start, end = span
    word = text[start:end].split()[-1]
    again = f" {word}" * (count - 1)
    step = len(word) + 1
    spans = [span, *((end + 1 + number * step, end + (number + 1) * step) for number in range(count - 1))]
    return text[:end] + again + text[end:], spans
