"""IP-Adapter files as their authors publish them: which kind a file is, its sizes, and where its layers belong.

A file holds `image_proj`, the image side, and `ip_adapter`, the projections of the cross-attention layers, as two dicts
(.bin) or as prefixes of flat keys (.safetensors). FaceID's .bin files hold a LoRA among the projections as well. Which
kind it is follows from the keys; only FaceID-Plus v2 is distinguished from version 1 by "plusv2" in the file's name.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .atomic_files import atomic_write
from .injector import HEAD_WIDTH, AdapterConfig, Injector, ResamplerConfig
from .quoting import quote, quote_all
from .state_dict import (
    WeightFileError,
    check_tensors,
    count_parts,
    meta,
    read_tensors,
    shape_of,
    sizes_from,
    state_without_numbers,
    tensors_of,
)

Layer = tuple[str, int, int]
"""A cross-attention layer as ComfyUI names it: input, middle or output; the block; the transformer in the block."""

_PARTS = ("image_proj", "ip_adapter")
_SIDES = ("input", "output", "middle")
_LAYERS_PER_LEVEL = 2
_LORA = re.compile(r"(\d+)\.(to_q|to_k|to_v|to_out)_lora\.(down|up)\.weight")
_OTHER_KINDS = {
    "proj.3.weight": "a full-face adapter",
    "proj.weight": "a plain IP-Adapter, which has no detail of faces",
}


@dataclass(frozen=True)
class Adapter:
    """The content of one file.

    Args:
        name: What messages call the file.
        config: Its sizes.
        weights: The weights of an `Injector` of this config, under its names.
        lora: FaceID's, under the file's names without `ip_adapter.`; empty where the file has none.
    """

    name: str
    config: AdapterConfig
    weights: Mapping[str, Tensor]
    lora: Mapping[str, Tensor]

    def injector(self, operations: Any = nn) -> Injector:
        """The networks with the file's weights in them, in the file's dtype; the weights are shared, not copied."""
        with torch.device("meta"):
            injector = Injector(self.config, operations)
        injector.load_state_dict(self.weights, assign=True)
        return injector

    def place(self, widths: Mapping[Layer, int], cross_width: int) -> dict[Layer, int]:
        """Which projections belong to each of a model's cross-attention layers.

        Args:
            widths: The model's layers and their widths (heads times head width).
            cross_width: The width of the prompts that the model reads.

        Raises:
            ValueError: If the adapter is made for another kind of model.
        """
        numbers = number_layers(widths)
        places = {
            f"{side} block {block}, transformer {index}": widths[side, block, index] for side, block, index in numbers
        }
        self.check(places, cross_width)
        return numbers

    def check(self, widths: Mapping[str, int], cross_width: int) -> None:
        """Raise a ValueError if the adapter is made for another kind of model.

        Args:
            widths: What the model's cross-attention layers are called, in the adapter's order, and their widths.
            cross_width: The width of the prompts that the model reads.
        """
        config = self.config
        if config.cross_width != cross_width:
            raise ValueError(
                f"{quote(self.name)} is made for prompts that are {config.cross_width} wide"
                f"{_whose(config.cross_width)}; this model reads {cross_width}{_whose(cross_width)}. "
                "Load a checkpoint and an adapter that agree."
            )
        if len(config.layer_widths) != len(widths):
            raise ValueError(
                f"{quote(self.name)} is made for {len(config.layer_widths)} cross-attention layers; this model has "
                f"{len(widths)}. Load a checkpoint and an adapter that agree."
            )
        for index, (found, (layer, width)) in enumerate(zip(config.layer_widths, widths.items(), strict=True)):
            if found != width:
                raise ValueError(
                    f"ip_adapter.{2 * index + 1} in {quote(self.name)} is {found} wide; it belongs to {layer}, which "
                    f"is {width} wide. The adapter is made for another model."
                )

    def host_lora(self, layers: Iterable[Layer]) -> dict[str, Tensor]:
        """FaceID's LoRA under the names that LoRA loaders know (`lora_unet_….lora_down.weight`); often empty.

        The authors' separate `_lora.safetensors` has the same weights: use one of the two. There is no alpha, so
        strength 1 is as trained.

        Args:
            layers: The layers of SD1.5 or SDXL, for which alone there are such files.
        """
        stems = {number: _diffusers_name(layer) for layer, number in number_layers(layers).items()}
        return {_lora_name(key, stems): tensor for key, tensor in self.lora.items()}


def number_layers(layers: Iterable[Layer]) -> dict[Layer, int]:
    """The number under which a file has each cross-attention layer: 1, 3, 5, … through input, output, middle blocks.

    Diffusers keeps its blocks in that order, and the files count its attention layers, self-attention in between.
    """
    ordered = sorted(layers, key=lambda layer: (_SIDES.index(layer[0]), *layer[1:]))
    return {layer: 2 * index + 1 for index, layer in enumerate(ordered)}


def read_adapter(path: Path) -> Adapter:
    """An adapter from its file, on the CPU, in the file's dtype.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or is not of a kind that `adapter_of` knows.
    """
    return adapter_of(read_tensors(path, "an IP-Adapter file (plus-face, FaceID or FaceID-Plus)"), path.name)


def adapter_of(content: Mapping[str, Any], name: str) -> Adapter:
    """An adapter from a file's content, nested or flat.

    Args:
        content: What is in the file.
        name: The file's name: messages use it, and it tells FaceID-Plus v2 from version 1.

    Raises:
        ValueError: If the content is not a plus-face, FaceID or FaceID-Plus adapter; the message says what was found.
    """
    label, (image, layers) = quote(name), (_part(content, part) for part in _PARTS)
    if not image or not layers:
        found = quote_all(sorted(content), 4) or "nothing"
        raise WeightFileError(
            f"{label} is not an IP-Adapter file: it has {found}, and not both image_proj and ip_adapter with tensors "
            "in them."
        )
    besides = [key for key in content if key not in _PARTS and not key.startswith(tuple(f"{part}." for part in _PARTS))]
    if besides:
        raise WeightFileError(f"{label} holds {quote_all(sorted(besides), 3)}, which is no part of an IP-Adapter file.")
    for key, kind in _OTHER_KINDS.items():
        if key in image:
            raise WeightFileError(f"{label} is {kind} (it has image_proj.{key}). Use plus-face, FaceID or FaceID-Plus.")
    image, layers = tensors_of(image, label), tensors_of(layers, label)
    lora = {key: value for key, value in layers.items() if _LORA.fullmatch(key)}
    weights = {f"image_proj.{key}": value for key, value in image.items()}
    weights |= {f"ip_adapter.{key}": value for key, value in layers.items() if key not in lora}
    with sizes_from(label, "an IP-Adapter of a known kind"):
        config = _config(weights, name, label)
        expected = state_without_numbers(lambda: Injector(config))
    check_tensors(weights, expected, label, f"a {config.kind} adapter of {len(config.layer_widths)} layers")
    if lora:
        check_tensors(lora, meta(_lora_shapes(config, lora)), f"The LoRA in {label}", "its adapter")
    return Adapter(name, config, weights, lora)


def write_adapter(path: Path, injector: Injector) -> None:
    """Write networks in the public layout.

    Raises:
        ValueError: If the name does not fit: not .safetensors, or "plusv2" in it for another kind or lacking.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"An adapter is written as .safetensors, not as {quote(path.name)}.")
    if _is_v2(path.name) != injector.config.shortcut:
        raise ValueError(
            f'Only the file of a FaceID-Plus v2 adapter has "plusv2" in its name; this is {injector.config.kind}, and '
            f"the name is {quote(path.name)}."
        )
    state = {key: value.detach().cpu().contiguous() for key, value in injector.state_dict().items()}
    with atomic_write(path) as temporary:
        save_file(state, temporary)


def _part(content: Mapping[str, Any], part: str) -> dict[str, Any]:
    nested = content.get(part)
    if isinstance(nested, Mapping):
        return dict(nested)
    return {key.removeprefix(f"{part}."): value for key, value in content.items() if key.startswith(f"{part}.")}


def _config(weights: Mapping[str, Tensor], name: str, label: str) -> AdapterConfig:
    """Sizes from the shapes of a few weights; all the others are compared with them afterwards."""

    def size(key: str, axis: int, axes: int) -> int:
        return shape_of(weights, key, axes, label)[axis]

    face = any(key.startswith("image_proj.proj.") for key in weights)
    stem = "image_proj.perceiver_resampler." if face else "image_proj."
    cross_width = size("image_proj.norm.weight", 0, 1) if face else size("image_proj.proj_out.weight", 0, 2)
    resampler = None
    if not face or any(key.startswith(stem) for key in weights):
        depth = count_parts(weights, f"{stem}layers.", label)
        heads = max(1, size(f"{stem}layers.0.0.to_q.weight", 0, 2) // HEAD_WIDTH)
        width, clip_width = (size(f"{stem}proj_in.weight", axis, 2) for axis in (0, 1))
        resampler = ResamplerConfig(clip_width, width, heads, depth)
    layers = max(1, sum(key.endswith(".to_k_ip.weight") for key in weights))
    widths = tuple(size(f"ip_adapter.{2 * index + 1}.to_k_ip.weight", 0, 2) for index in range(layers))
    tokens = size("image_proj.proj.2.weight", 0, 2) // cross_width if face else size("image_proj.latents", 1, 3)
    face_width = size("image_proj.proj.0.weight", 1, 2) if face else None
    shortcut = face and resampler is not None and _is_v2(name)
    return AdapterConfig(tokens, cross_width, widths, resampler, face_width, shortcut)


def _lora_shapes(config: AdapterConfig, lora: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """FaceID's LoRA for each attention layer, self-attention under even numbers, cross-attention under odd ones."""
    rank = next((tensor.shape[0] for key, tensor in sorted(lora.items()) if ".down." in key and tensor.ndim), 0)
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(2 * len(config.layer_widths)):
        width = config.layer_widths[number // 2]
        source = config.cross_width if number % 2 else width
        for projection, reads in (("to_q", width), ("to_k", source), ("to_v", source), ("to_out", width)):
            shapes[f"{number}.{projection}_lora.down.weight"] = (rank, reads)
            shapes[f"{number}.{projection}_lora.up.weight"] = (width, rank)
    return shapes


def _is_v2(name: str) -> bool:
    return "plusv2" in name.lower()


def _whose(cross_width: int) -> str:
    return {768: ", as SD1.5's are", 2048: ", as SDXL's are"}.get(cross_width, "")


def _lora_name(key: str, stems: Mapping[int, str]) -> str:
    """A LoRA loader's name for a weight of FaceID's, whose numbers count self-attention (even) and cross-attention."""
    match = _LORA.fullmatch(key)
    assert match
    number, projection, part = int(match[1]), match[2], match[3]
    output = "_0" if projection == "to_out" else ""
    return f"lora_unet_{stems[number | 1]}_attn{1 + number % 2}_{projection}{output}.lora_{part}.weight"


def _diffusers_name(layer: Layer) -> str:
    side, block, transformer = layer
    per_level = _LAYERS_PER_LEVEL + 1
    if side == "input":
        level, index = divmod(block - 1, per_level)
        where = f"down_blocks_{level}_attentions_{index}"
    elif side == "output":
        level, index = divmod(block, per_level)
        where = f"up_blocks_{level}_attentions_{index}"
    else:
        where = "mid_block_attentions_0"
    return f"{where}_transformer_blocks_{transformer}"
