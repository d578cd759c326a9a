"""ID adapters in the host: the file as a network under its memory management, and what the network makes of faces."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.ldm.modules.attention import SpatialTransformer

from ...core import adapter_file
from ...core.detectors.faces import NOTICE
from ...core.injector import Injector, ReferenceFeatures
from ...core.quoting import printable
from ...core.reference_assignment import AssignedReferences, assign_references
from ...core.story import Story
from ..types import Faces


@dataclass(frozen=True)
class IDAdapter:
    """What travels through an ID_ADAPTER socket.

    Args:
        file: What the file says of itself, and its LoRA; the weights are in the network.
        network: The adapter.
        patcher: What the host moves between devices.
    """

    file: adapter_file.Adapter
    network: Injector
    patcher: Any


def load_adapter(path: Path) -> IDAdapter:
    """An adapter from its file, as a `host_adapter`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is none; the message says what was found.
    """
    file = adapter_file.read_adapter(path)
    if file.config.face_width is not None:
        logging.warning("%s: %s", printable(path.name), NOTICE)
    return host_adapter(file)


def host_adapter(file: adapter_file.Adapter) -> IDAdapter:
    """An adapter with the host's operations, under its memory management."""
    network = file.injector(comfy.ops.manual_cast).requires_grad_(False)
    management = comfy.model_management
    patcher_class = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    patcher = patcher_class(network, management.get_torch_device(), management.unet_offload_device())
    return IDAdapter(replace(file, weights={}), network, patcher)


def cross_attention_widths(model: Any) -> dict[adapter_file.Layer, int]:
    """The cross-attention layers of a MODEL and their widths, named as the host's hooks name them."""
    unet = model.model.diffusion_model
    sides = {"input": unet.input_blocks, "middle": [unet.middle_block], "output": unet.output_blocks}
    return {
        (side, number, index): layer.attn2.heads * layer.attn2.dim_head
        for side, blocks in sides.items()
        for number, block in enumerate(blocks)
        for part in block
        if isinstance(part, SpatialTransformer)
        for index, layer in enumerate(part.transformer_blocks)
    }


def assigned_references(
    adapter: IDAdapter, faces: Faces, story: Story, mode: str, seed: int, picture_weight: float
) -> tuple[AssignedReferences, ...]:
    """`core.reference_assignment.assign_references` on the adapter's device."""
    comfy.model_management.load_models_gpu([adapter.patcher])
    seen = [(face.name, _on_device(face.features, adapter.patcher.load_device)) for face in faces]
    return assign_references(adapter.network, seen, story, mode, seed, adapter.file.name, picture_weight)


def _on_device(features: ReferenceFeatures, device: torch.device) -> ReferenceFeatures:
    moved = {
        name: None if tensor is None else tensor.to(device)
        for name, tensor in (("clip", features.clip), ("blank_clip", features.blank_clip), ("face", features.face))
    }
    return ReferenceFeatures(**moved)
