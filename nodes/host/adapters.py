"""ID adapters in the host: the file as a network under its memory management, and what the network makes of faces."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.ldm.modules.attention import SpatialTransformer
from torch import Tensor

from ...core import adapter_file
from ...core.detectors.faces import NOTICE
from ...core.injector import Injector, ReferenceFeatures
from ...core.shuffle import deal_references
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
    """An adapter from its file, in the host's operations and under its memory management.

    Raises:
        ValueError: If it is none; the message says what was found.
    """
    file = adapter_file.read_adapter(path)
    if file.config.face_width is not None:
        logging.warning("%s: %s", path.name, NOTICE)
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


@dataclass(frozen=True)
class Person:
    """One character as the adapter tells of them.

    Args:
        name: As in the story.
        tokens: Identity tokens, `(references, k, c)`.
        blank: Those of no reference, `(1, k, c)`.
        dealt: By number of the frame, for those that they are in, which references it sees.
    """

    name: str
    tokens: Tensor
    blank: Tensor
    dealt: Mapping[int, tuple[int, ...]]


def people_of(
    adapter: IDAdapter, faces: Faces, story: Story, mode: str, seed: int, picture_weight: float
) -> tuple[Person, ...]:
    """Run the adapter's image side, and deal each character's references over the frames that they are in.

    Every character is dealt from the same seed, so that who else is in the story changes nothing.

    Raises:
        ValueError: If a name is not in the story, or features are missing or of another width.
    """
    comfy.model_management.load_models_gpu([adapter.patcher])
    people = []
    for face in faces:
        name = story.character(face.name).name
        frames = [frame.index for frame in story.frames if frame.span_of(name) is not None]
        try:
            tokens, blank = adapter.network.identity_tokens(
                _on_device(face.features, adapter.patcher.load_device), picture_weight
            )
        except ValueError as error:
            raise ValueError(f"The pictures of {name} do not suit {adapter.file.name}. {error}") from error
        dealt = deal_references(len(tokens), len(frames), mode, torch.Generator().manual_seed(seed))
        people.append(Person(name, tokens.cpu(), blank[:1].cpu(), dict(zip(frames, dealt, strict=True))))
    return tuple(people)


def _on_device(features: ReferenceFeatures, device: torch.device) -> ReferenceFeatures:
    moved = {
        name: None if tensor is None else tensor.to(device)
        for name, tensor in (("clip", features.clip), ("blank_clip", features.blank_clip), ("face", features.face))
    }
    return ReferenceFeatures(**moved)
