"""Random PhotoMaker files: image encoder, projections and fusion, and a LoRA for the stand-in SDXL.

Version 2 also has the perceiver, here in fewer layers than the real file's.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.stand_ins.clip_vision import vision_model
from tests.stand_ins.sdxl import UNET
from tests.stand_ins.weights import Shapes, join, linear, norm, random_weights

WIDTH, MLP, LAYERS, PATCH, IMAGE = 128, 256, 2, 14, 224  # 1024, 4096, 24, 14, 224 in the real file
EMBEDDING = 2048
RANK = 4
FACE, TOKENS = 512, 2


def write_photomaker(path: Path) -> None:
    torch.save({"id_encoder": id_encoder_weights(), "lora_weights": lora_weights()}, path)


def write_photomaker_v2(path: Path) -> None:
    torch.save({"id_encoder": id_encoder_weights_v2(), "lora_weights": lora_weights()}, path)


def id_encoder_weights() -> dict[str, torch.Tensor]:
    return random_weights(_both_versions(EMBEDDING), seed=6)


def id_encoder_weights_v2(width: int = EMBEDDING, hidden: int = 24, heads: int = 1, depth: int = 1, side: int = IMAGE):
    """The encoder of version 2 for prompts of a width; 2048, 2048, 16 and 4 layers in the real file."""
    return random_weights(join(_both_versions(width, side), _perceiver(width, hidden, heads, depth)), seed=6)


def _both_versions(width: int, side: int = IMAGE) -> Shapes:
    parts: list[Shapes] = [vision_model(WIDTH, MLP, LAYERS, PATCH, side)]
    first = width * 3 // 8  # 768 and 1280 of 2048
    parts += [linear("visual_projection", WIDTH, first, bias=False)]
    parts += [linear("visual_projection_2", WIDTH, width - first, bias=False)]
    for name, n_in in (("mlp1", 2 * width), ("mlp2", width)):
        parts += [norm(f"fuse_module.{name}.layernorm", n_in)]
        parts += [linear(f"fuse_module.{name}.fc1", n_in, width)]
        parts += [linear(f"fuse_module.{name}.fc2", width, width)]
    return join(*parts, norm("fuse_module.layer_norm", width))


def _perceiver(width: int, hidden: int, heads: int, depth: int) -> Shapes:
    root, inner = "qformer_perceiver", 128 * heads
    resampler = f"{root}.perceiver_resampler"
    parts: list[Shapes] = [linear(f"{root}.token_proj.0", FACE, hidden)]
    parts += [linear(f"{root}.token_proj.2", hidden, TOKENS * width), norm(f"{root}.token_norm", width)]
    parts += [linear(f"{resampler}.proj_in", WIDTH, width), linear(f"{resampler}.proj_out", width, width)]
    parts += [norm(f"{resampler}.norm_out", width)]
    for layer in range(depth):
        attention, feed_forward = (f"{resampler}.layers.{layer}.{part}" for part in (0, 1))
        parts += [norm(f"{attention}.norm{i}", width) for i in (1, 2)]
        parts += [
            linear(f"{attention}.to_q", width, inner, False),
            linear(f"{attention}.to_kv", width, 2 * inner, False),
        ]
        parts += [linear(f"{attention}.to_out", inner, width, False), norm(f"{feed_forward}.0", width)]
        parts += [linear(f"{feed_forward}.1", width, 4 * width, False)]
        parts += [linear(f"{feed_forward}.3", 4 * width, width, False)]
    return join(*parts)


def lora_weights() -> dict[str, torch.Tensor]:
    """Rank-4 changes of every attention projection, in the names of diffusers' old attention processors."""
    shapes: Shapes = {}
    for block in _transformer_blocks():
        for attention, context in (("attn1", UNET.width), ("attn2", UNET.context)):
            for projection, n_in in (("q", UNET.width), ("k", context), ("v", context), ("out", UNET.width)):
                name = f"unet.{block}.{attention}.processor.to_{projection}_lora"
                shapes |= linear(f"{name}.down", n_in, RANK, bias=False) | linear(f"{name}.up", RANK, UNET.width, False)
    return {name: weight * 0.3 for name, weight in random_weights(shapes, seed=7).items()}


def write_few_steps_lora(path: Path) -> None:
    """A LoRA file as trainers write it, of every query and output of the stand-in SDXL's attention."""
    shapes: Shapes = {}
    for block in _transformer_blocks():
        for attention in ("attn1", "attn2"):
            for projection in ("to_q", "to_out_0"):
                name = f"lora_unet_{block.replace('.', '_')}_{attention}_{projection}"
                shapes |= linear(f"{name}.lora_down", UNET.width, RANK, bias=False)
                shapes |= linear(f"{name}.lora_up", RANK, UNET.width, bias=False)
    save_file(random_weights(shapes, seed=8), path)


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
