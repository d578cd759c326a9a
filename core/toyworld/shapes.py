"""Which tensors the toy world's UNet consists of, in LDM names, without building it: both hosts compare the file."""

from collections.abc import Mapping
from typing import Any

from ..clip_shapes import Shapes, linear, norm


def unet_shapes(config: Mapping[str, Any]) -> Shapes:
    """The tensors of a text-conditioned UNet with one transformer block per attention (SD1.5's kind).

    Args:
        config: The sizes in the words of diffusers' UNet2DConditionModel.
    """
    widths, layers, context = config["block_out_channels"], config["layers_per_block"], config["cross_attention_dim"]
    first, time = widths[0], 4 * widths[0]
    shapes = linear("time_embed.0", first, time) | linear("time_embed.2", time, time)
    shapes |= _convolution("input_blocks.0.0", config["in_channels"], first)
    skips, width, block = [first], first, 1
    for level, (kind, out) in enumerate(zip(config["down_block_types"], widths, strict=True)):
        for _ in range(layers):
            shapes |= _block(f"input_blocks.{block}", width, out, time, context if "Attn" in kind else None)
            skips.append(width := out)
            block += 1
        if level < len(widths) - 1:
            shapes |= _convolution(f"input_blocks.{block}.0.op", width, width)
            skips.append(width)
            block += 1
    shapes |= _block("middle_block", width, width, time, context) | _resnet("middle_block.2", width, width, time)
    block = 0
    for level, (kind, out) in enumerate(zip(config["up_block_types"], reversed(widths), strict=True)):
        attention = "Attn" in kind
        for layer in range(layers + 1):
            name = f"output_blocks.{block}"
            shapes |= _block(name, width + skips.pop(), out, time, context if attention else None)
            width, block = out, block + 1
            if layer == layers and level < len(widths) - 1:
                shapes |= _convolution(f"{name}.{1 + attention}.conv", width, width)
    return shapes | norm("out.0", first) | _convolution("out.2", first, config["out_channels"])


def _block(name: str, width_in: int, width_out: int, time: int, context: int | None) -> Shapes:
    shapes = _resnet(f"{name}.0", width_in, width_out, time)
    return shapes if context is None else shapes | _transformer(f"{name}.1", width_out, context)


def _resnet(name: str, width_in: int, width_out: int, time: int) -> Shapes:
    shapes = norm(f"{name}.in_layers.0", width_in) | _convolution(f"{name}.in_layers.2", width_in, width_out)
    shapes |= linear(f"{name}.emb_layers.1", time, width_out)
    shapes |= norm(f"{name}.out_layers.0", width_out) | _convolution(f"{name}.out_layers.3", width_out, width_out)
    if width_in != width_out:
        shapes |= _convolution(f"{name}.skip_connection", width_in, width_out, side=1)
    return shapes


def _transformer(name: str, width: int, context: int) -> Shapes:
    layer = f"{name}.transformer_blocks.0"
    shapes = norm(f"{name}.norm", width)
    shapes |= _convolution(f"{name}.proj_in", width, width, 1) | _convolution(f"{name}.proj_out", width, width, 1)
    for attention, reads in (("attn1", width), ("attn2", context)):
        shapes |= {f"{layer}.{attention}.to_q.weight": (width, width)}
        shapes |= {f"{layer}.{attention}.to_{part}.weight": (width, reads) for part in "kv"}
        shapes |= linear(f"{layer}.{attention}.to_out.0", width, width)
    shapes |= linear(f"{layer}.ff.net.0.proj", width, 8 * width) | linear(f"{layer}.ff.net.2", 4 * width, width)
    return shapes | norm(f"{layer}.norm1", width) | norm(f"{layer}.norm2", width) | norm(f"{layer}.norm3", width)


def _convolution(name: str, width_in: int, width_out: int, side: int = 3) -> Shapes:
    return {f"{name}.weight": (width_out, width_in, side, side), f"{name}.bias": (width_out,)}
