"""The tensors of a network of the Flux.1 family, under their published names and under those of diffusers.

The published names are those of a file (and of ComfyUI); diffusers has layers of its own for what is one matrix there,
and the two halves of the last modulation in the other order. One table says all of it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..clip_shapes import Shapes

TIME_WIDTH = 256
"""How many sines and cosines a time is made of, in the whole family."""
MLP_RATIO = 4
_LAST_MODULATION = "final_layer.adaLN_modulation.1"
_HEAD_WIDTH = 128


@dataclass(frozen=True)
class Layer:
    """One layer of a file.

    Args:
        stored: Its published name.
        names: Those of diffusers' layers that it consists of, in order.
        rows: How many rows each of them has.
        columns: How many numbers it reads; 0 for a norm, which has one weight for each row.
    """

    stored: str
    names: tuple[str, ...]
    rows: tuple[int, ...]
    columns: int

    def tensors(self) -> Iterator[tuple[str, str]]:
        """Pairs of endings: of the published name, and of diffusers' names."""
        yield from [("weight", "weight"), ("bias", "bias")] if self.columns else [("scale", "weight")]


def layers_of(width: int, cell: int, context: int, pooled: int, double: int, single: int) -> list[Layer]:
    """All layers of a network without an embedding of a guidance scale.

    Args:
        width: Of every token.
        cell: Numbers in one token of the picture.
        context: Width of the text's tokens.
        pooled: Width of the text's summary.
        double: How many blocks have weights of their own for text and picture.
        single: How many blocks have not.
    """
    times, text = "time_text_embed.timestep_embedder", "time_text_embed.text_embedder"
    layers = [
        Layer("img_in", ("x_embedder",), (width,), cell),
        Layer("txt_in", ("context_embedder",), (width,), context),
        Layer("time_in.in_layer", (f"{times}.linear_1",), (width,), TIME_WIDTH),
        Layer("time_in.out_layer", (f"{times}.linear_2",), (width,), width),
        Layer("vector_in.in_layer", (f"{text}.linear_1",), (width,), pooled),
        Layer("vector_in.out_layer", (f"{text}.linear_2",), (width,), width),
        Layer("final_layer.linear", ("proj_out",), (cell,), width),
        Layer(_LAST_MODULATION, ("norm_out.linear",), (2 * width,), width),
    ]
    for number in range(double):
        block = f"transformer_blocks.{number}"
        layers += _stream(f"double_blocks.{number}.img", f"{block}.norm1", f"{block}.ff", _picture(block), width)
        layers += _stream(
            f"double_blocks.{number}.txt", f"{block}.norm1_context", f"{block}.ff_context", _text(block), width
        )
    for number in range(single):
        layers += _single(f"single_blocks.{number}", f"single_transformer_blocks.{number}", width)
    return layers


def shapes_of(layers: Iterable[Layer]) -> Shapes:
    """The tensors of a file."""
    shapes: Shapes = {}
    for layer in layers:
        rows = sum(layer.rows)
        for ending, _ in layer.tensors():
            shapes[f"{layer.stored}.{ending}"] = (rows, layer.columns) if ending == "weight" else (rows,)
    return shapes


def to_published(state: Mapping[str, Tensor], layers: Iterable[Layer]) -> dict[str, Tensor]:
    """A FluxTransformer2DModel's weights under their published names; KeyError for one that is not there."""
    return {
        f"{layer.stored}.{ending}": _turned(layer, torch.cat([state[f"{name}.{own}"] for name in layer.names]))
        for layer in layers
        for ending, own in layer.tensors()
    }


def to_diffusers(weights: Mapping[str, Tensor], layers: Iterable[Layer]) -> dict[str, Tensor]:
    """The inverse of `to_published`, for weights whose shapes are those of `shapes_of`."""
    return {
        f"{name}.{own}": part
        for layer in layers
        for ending, own in layer.tensors()
        for name, part in zip(
            layer.names, _turned(layer, weights[f"{layer.stored}.{ending}"]).split(layer.rows), strict=True
        )
    }


def _turned(layer: Layer, tensor: Tensor) -> Tensor:
    """Shift and scale of the last modulation change places between the two; its own inverse."""
    return torch.cat(tensor.chunk(2)[::-1]) if layer.stored == _LAST_MODULATION else tensor


def _picture(block: str) -> Sequence[str]:
    """Under diffusers: the picture's queries, keys, values, output and norms in a double block."""
    return [f"{block}.attn.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0", "norm_q", "norm_k")]


def _text(block: str) -> Sequence[str]:
    """Likewise of the text's."""
    parts = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "norm_added_q", "norm_added_k")
    return [f"{block}.attn.{part}" for part in parts]


def _stream(stored: str, modulation: str, mlp: str, attention: Sequence[str], width: int) -> list[Layer]:
    *qkv, out, norm_q, norm_k = attention
    hidden = MLP_RATIO * width
    return [
        Layer(f"{stored}_mod.lin", (f"{modulation}.linear",), (6 * width,), width),
        Layer(f"{stored}_attn.qkv", tuple(qkv), (width,) * 3, width),
        Layer(f"{stored}_attn.proj", (out,), (width,), width),
        Layer(f"{stored}_attn.norm.query_norm", (norm_q,), (_HEAD_WIDTH,), 0),
        Layer(f"{stored}_attn.norm.key_norm", (norm_k,), (_HEAD_WIDTH,), 0),
        Layer(f"{stored}_mlp.0", (f"{mlp}.net.0.proj",), (hidden,), width),
        Layer(f"{stored}_mlp.2", (f"{mlp}.net.2",), (width,), hidden),
    ]


def _single(stored: str, name: str, width: int) -> list[Layer]:
    hidden = MLP_RATIO * width
    reads = tuple(f"{name}.{part}" for part in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"))
    return [
        Layer(f"{stored}.modulation.lin", (f"{name}.norm.linear",), (3 * width,), width),
        Layer(f"{stored}.linear1", reads, (width, width, width, hidden), width),
        Layer(f"{stored}.linear2", (f"{name}.proj_out",), (width,), width + hidden),
        Layer(f"{stored}.norm.query_norm", (f"{name}.attn.norm_q",), (_HEAD_WIDTH,), 0),
        Layer(f"{stored}.norm.key_norm", (f"{name}.attn.norm_k",), (_HEAD_WIDTH,), 0),
    ]
