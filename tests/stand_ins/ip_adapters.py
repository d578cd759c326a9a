"""Tiny adapters of random weights in the public layouts, written out key by key."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.stand_ins import clip_vision, sd15

CROSS = 64
CLIP = 20
FACE = 7
LAYERS = (32, 48, 64)


def _weights(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = {key: torch.randn(shape, generator=generator) / shape[-1] ** 0.5 for key, shape in shapes.items()}
    for key in weights:
        if "norm" in key and key.endswith("weight") or key.endswith(".1.0.weight"):
            weights[key] = 1 + 0.3 * weights[key]  # a scale
    return weights


def _perceiver(width: int, cross: int, heads: int, depth: int = 4, clip: int = CLIP) -> dict[str, tuple[int, ...]]:
    inner = 64 * heads
    shapes: dict[str, tuple[int, ...]] = {
        "proj_in.weight": (width, clip),
        "proj_in.bias": (width,),
        "proj_out.weight": (cross, width),
        "proj_out.bias": (cross,),
        "norm_out.weight": (cross,),
        "norm_out.bias": (cross,),
    }
    for index in range(depth):
        shapes |= {
            f"layers.{index}.0.norm1.weight": (width,),
            f"layers.{index}.0.norm1.bias": (width,),
            f"layers.{index}.0.norm2.weight": (width,),
            f"layers.{index}.0.norm2.bias": (width,),
            f"layers.{index}.0.to_q.weight": (inner, width),
            f"layers.{index}.0.to_kv.weight": (2 * inner, width),
            f"layers.{index}.0.to_out.weight": (width, inner),
            f"layers.{index}.1.0.weight": (width,),
            f"layers.{index}.1.0.bias": (width,),
            f"layers.{index}.1.1.weight": (4 * width, width),
            f"layers.{index}.1.3.weight": (width, 4 * width),
        }
    return shapes


def _face(tokens: int) -> dict[str, tuple[int, ...]]:
    return {
        "proj.0.weight": (2 * FACE, FACE),
        "proj.0.bias": (2 * FACE,),
        "proj.2.weight": (tokens * CROSS, 2 * FACE),
        "proj.2.bias": (tokens * CROSS,),
        "norm.weight": (CROSS,),
        "norm.bias": (CROSS,),
    }


def plus_face(cross: int = CROSS, clip: int = CLIP, seed: int = 0) -> dict[str, Tensor]:
    """`image_proj` of a plus-face adapter with 5 tokens and 2 heads."""
    return _weights({"latents": (1, 5, 96), **_perceiver(96, cross, 2, clip=clip)}, seed)


def image_side(kind: str, seed: int = 0) -> dict[str, Tensor]:
    """`image_proj` of an adapter: plus-face as above, FaceID or FaceID-Plus with 4 tokens."""
    if kind == "plus-face":
        return plus_face(seed=seed)
    shapes = _face(4)
    if kind == "FaceID-Plus":
        shapes |= {f"perceiver_resampler.{key}": shape for key, shape in _perceiver(CROSS, CROSS, 1).items()}
    return _weights(shapes, seed)


def layer_side(widths: Sequence[int] = LAYERS, seed: int = 1, cross: int = CROSS) -> dict[str, Tensor]:
    """`ip_adapter`: the projections of cross-attention layers of these widths."""
    return _weights(
        {
            f"{2 * index + 1}.to_{letter}_ip.weight": (width, cross)
            for index, width in enumerate(widths)
            for letter in "kv"
        },
        seed,
    )


def lora_side(widths: Sequence[int] = LAYERS, rank: int = 2, seed: int = 2, cross: int = CROSS) -> dict[str, Tensor]:
    """FaceID's LoRA, which stands among `ip_adapter`: self-attention has even numbers, cross-attention odd ones."""
    shapes: dict[str, tuple[int, ...]] = {}
    for index, width in enumerate(widths):
        for number, source in ((2 * index, width), (2 * index + 1, cross)):
            for projection, reads in (("to_q", width), ("to_k", source), ("to_v", source), ("to_out", width)):
                shapes[f"{number}.{projection}_lora.down.weight"] = (rank, reads)
                shapes[f"{number}.{projection}_lora.up.weight"] = (width, rank)
    return _weights(shapes, seed)


def nested(kind: str, lora: bool = False) -> dict[str, dict[str, Tensor]]:
    """A .bin file's content."""
    return {"image_proj": image_side(kind), "ip_adapter": layer_side() | (lora_side() if lora else {})}


def flat(content: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """The same as in a .safetensors file."""
    return {f"{part}.{key}": value for part, weights in content.items() for key, value in weights.items()}


def write_plus_face_sd15(path: Path) -> None:
    """plus-face for the stand-in SD1.5 checkpoint and the stand-in image encoder."""
    layers = layer_side([sd15.UNET.width] * sd15.ATTENTIONS, cross=sd15.UNET.context)
    save_file(flat({"image_proj": plus_face(sd15.UNET.context, clip_vision.WIDTH), "ip_adapter": layers}), path)
