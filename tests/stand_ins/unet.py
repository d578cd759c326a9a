"""Shapes of SD-style UNets and ControlNets in the ldm naming, and weights that make them mild denoisers."""

from dataclasses import dataclass

import torch

from tests.stand_ins.weights import Shapes, conv, join, linear, norm, random_weights

GROUPS = 32  # of every group norm in the UNet


@dataclass(frozen=True)
class UNetShape:
    """One level of equal width per entry of `depths`; two residual blocks a level, `depths` transformer layers each."""

    width: int = 320
    depths: tuple[int, ...] = (0, 1, 2)
    output_depths: tuple[int, ...] = (0, 1, 1)
    middle_depth: int = 1  # -1: a middle of one residual block
    context: int = 2048
    label: int | None = 2816
    linear: bool = True  # the transformer's projections; convolutions in SD 1.5


def res_block(name: str, n_in: int, n_out: int, emb: int) -> Shapes:
    return join(
        norm(f"{name}.in_layers.0", n_in),
        conv(f"{name}.in_layers.2", n_in, n_out),
        linear(f"{name}.emb_layers.1", emb, n_out),
        norm(f"{name}.out_layers.0", n_out),
        conv(f"{name}.out_layers.3", n_out, n_out),
        conv(f"{name}.skip_connection", n_in, n_out, 1) if n_in != n_out else {},
    )


def attention(name: str, width: int, context: int) -> Shapes:
    return join(
        linear(f"{name}.to_q", width, width, bias=False),
        linear(f"{name}.to_k", context, width, bias=False),
        linear(f"{name}.to_v", context, width, bias=False),
        linear(f"{name}.to_out.0", width, width),
    )


def transformer(name: str, depth: int, shape: UNetShape) -> Shapes:
    width = shape.width
    parts = [norm(f"{name}.norm", width)]
    for end in ("proj_in", "proj_out"):
        parts.append(linear(f"{name}.{end}", width, width) if shape.linear else conv(f"{name}.{end}", width, width, 1))
    for layer in range(depth):
        block = f"{name}.transformer_blocks.{layer}"
        parts += [norm(f"{block}.norm{i}", width) for i in (1, 2, 3)]
        parts += [attention(f"{block}.attn1", width, width), attention(f"{block}.attn2", width, shape.context)]
        parts += [linear(f"{block}.ff.net.0.proj", width, 8 * width), linear(f"{block}.ff.net.2", 4 * width, width)]
    return join(*parts)


def encoder_shapes(shape: UNetShape) -> Shapes:
    """Time embedding, label embedding, input blocks and middle: what a UNet and its ControlNet share."""
    width, emb = shape.width, 4 * shape.width
    parts = [linear("time_embed.0", width, emb), linear("time_embed.2", emb, emb)]
    if shape.label is not None:
        parts += [linear("label_emb.0.0", shape.label, emb), linear("label_emb.0.2", emb, emb)]
    parts.append(conv("input_blocks.0.0", 4, width))
    block = 1
    for level, depth in enumerate(shape.depths):
        for _ in range(2):
            parts.append(res_block(f"input_blocks.{block}.0", width, width, emb))
            if depth:
                parts.append(transformer(f"input_blocks.{block}.1", depth, shape))
            block += 1
        if level + 1 < len(shape.depths):
            parts.append(conv(f"input_blocks.{block}.0.op", width, width))
            block += 1
    parts.append(res_block("middle_block.0", width, width, emb))
    if shape.middle_depth >= 0:
        parts.append(transformer("middle_block.1", shape.middle_depth, shape))
        parts.append(res_block("middle_block.2", width, width, emb))
    return join(*parts)


def decoder_shapes(shape: UNetShape) -> Shapes:
    width, parts, block = shape.width, [], 0
    for level in reversed(range(len(shape.output_depths))):
        for i in range(3):
            depth = shape.output_depths[level]
            parts.append(res_block(f"output_blocks.{block}.0", 2 * width, width, 4 * width))
            if depth:
                parts.append(transformer(f"output_blocks.{block}.1", depth, shape))
            if i == 2 and level:
                parts.append(conv(f"output_blocks.{block}.{2 if depth else 1}.conv", width, width))
            block += 1
    return join(*parts, norm("out.0", width), conv("out.2", width, 4))


def unet_weights(shape: UNetShape, seed: int, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
    """A UNet that predicts most of the noise: what it returns is 0.95 of its scaled input plus a little of its own.

    A random network is no denoiser, and some solvers run away on it. Here the latent travels through the first skip
    connection in eight channels of its own, x and -x in turn: silu(x) - silu(-x) = x survives the last activation.
    All other channels carry what text, time and neighbours make of it, and reach the output with a small gain.
    """
    weights = random_weights(encoder_shapes(shape) | decoder_shapes(shape), seed, torch.float32)
    last = f"output_blocks.{3 * len(shape.output_depths) - 1}.0"
    first_group = slice(0, max(8, shape.width // GROUPS))
    entry = weights["input_blocks.0.0.weight"]
    skip, change = weights[f"{last}.skip_connection.weight"], weights[f"{last}.out_layers.3.weight"]
    leave = weights["out.2.weight"].mul_(0.05)
    entry[:8], skip[first_group], change[first_group], leave[:, first_group] = 0.0, 0.0, 0.0, 0.0
    for name in ("input_blocks.0.0.bias", f"{last}.skip_connection.bias", f"{last}.out_layers.3.bias"):
        weights[name][first_group] = 0.0
    if shape.output_depths[0]:
        for part in ("weight", "bias"):
            weights[f"{last[:-2]}.1.proj_out.{part}"][first_group] = 0.0
    weights["out.0.weight"][first_group], weights["out.0.bias"][first_group] = 1.0, 0.0
    gain = 0.95 * (8 / max(8, shape.width // GROUPS)) ** 0.5
    for channel in range(4):
        for copy, sign in ((2 * channel, 1.0), (2 * channel + 1, -1.0)):
            entry[copy, channel, 1, 1] = sign
            skip[copy, shape.width + copy, 0, 0] = 1.0
            leave[channel, copy, 1, 1] = sign * gain
    return {name: weight.to(dtype) for name, weight in weights.items()}


HINT_WIDTHS = ((3, 16), (16, 16), (16, 32), (32, 32), (32, 96), (96, 96), (96, 256))


def controlnet_weights(shape: UNetShape, seed: int, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
    """A ControlNet in the ldm naming whose output convolutions are not zero, so that it does change the image."""
    hint = [conv(f"input_hint_block.{2 * i}", *widths) for i, widths in enumerate((*HINT_WIDTHS, (256, shape.width)))]
    blocks = 3 * len(shape.depths)
    zero = [conv(f"zero_convs.{block}.0", shape.width, shape.width, 1) for block in range(blocks)]
    middle = conv("middle_block_out.0", shape.width, shape.width, 1)
    weights = random_weights(join(encoder_shapes(shape), *hint, *zero, middle), seed, torch.float32)
    return {f"control_model.{name}": weight.to(dtype) for name, weight in weights.items()}
