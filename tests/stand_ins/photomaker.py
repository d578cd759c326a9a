"""A random PhotoMaker (version 1) file: image encoder, projections and fusion, and a LoRA for the stand-in SDXL."""

from pathlib import Path

import torch

from tests.stand_ins.clip_vision import vision_model
from tests.stand_ins.sdxl import UNET
from tests.stand_ins.weights import Shapes, join, linear, norm, random_weights

WIDTH, MLP, LAYERS, PATCH, IMAGE = 128, 256, 2, 14, 224  # 1024, 4096, 24, 14, 224 in the real file
EMBEDDING = 2048
RANK = 4


def write_photomaker(path: Path) -> None:
    torch.save({"id_encoder": id_encoder_weights(), "lora_weights": lora_weights()}, path)


def id_encoder_weights() -> dict[str, torch.Tensor]:
    parts: list[Shapes] = [vision_model(WIDTH, MLP, LAYERS, PATCH, IMAGE)]
    parts += [linear("visual_projection", WIDTH, 768, bias=False)]
    parts += [linear("visual_projection_2", WIDTH, 1280, bias=False)]
    for name, n_in in (("mlp1", 2 * EMBEDDING), ("mlp2", EMBEDDING)):
        parts += [norm(f"fuse_module.{name}.layernorm", n_in)]
        parts += [linear(f"fuse_module.{name}.fc1", n_in, EMBEDDING)]
        parts += [linear(f"fuse_module.{name}.fc2", EMBEDDING, EMBEDDING)]
    return random_weights(join(*parts, norm("fuse_module.layer_norm", EMBEDDING)), seed=6)


def lora_weights() -> dict[str, torch.Tensor]:
    """Rank-4 changes of every attention projection, in the names of diffusers' old attention processors."""
    shapes: Shapes = {}
    for block in _transformer_blocks():
        for attention, context in (("attn1", UNET.width), ("attn2", UNET.context)):
            for projection, n_in in (("q", UNET.width), ("k", context), ("v", context), ("out", UNET.width)):
                name = f"unet.{block}.{attention}.processor.to_{projection}_lora"
                shapes |= linear(f"{name}.down", n_in, RANK, bias=False) | linear(f"{name}.up", RANK, UNET.width, False)
    return {name: weight * 0.3 for name, weight in random_weights(shapes, seed=7).items()}


def _transformer_blocks() -> list[str]:
    """The stand-in UNet's transformer layers as diffusers counts them: levels down, the middle, levels up."""
    levels = len(UNET.depths)
    down = [(f"down_blocks.{i}", 2, UNET.depths[i]) for i in range(levels)]
    up = [(f"up_blocks.{i}", 3, UNET.output_depths[levels - 1 - i]) for i in range(levels)]
    return [
        f"{level}.attentions.{i}.transformer_blocks.{layer}"
        for level, blocks, depth in [*down, ("mid_block", 1, UNET.middle_depth), *up]
        for i in range(blocks)
        for layer in range(depth)
    ]
