"""Text-prompted masks under the host's memory management."""

from dataclasses import dataclass
from typing import Any, cast

import comfy.model_management
import comfy.model_patcher
from torch import Tensor, nn

from ...core import layout_search
from ...core.detectors import BoxDetector, Detections, Engine, MaskSegmenter, load_box_detector, load_segmenter
from ...core.layout import Layout
from .folders import full_path, tokenizer_folder


class _Held(nn.Module):
    """A module on which the host may set attributes (transformers' own classes have a read-only `device`)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.held = module


@dataclass(frozen=True)
class Detector:
    """What travels through a STORY_DETECTOR socket: both stages, and the patchers that hold their weights."""

    boxes: BoxDetector
    masks: MaskSegmenter
    patchers: tuple[Any, Any]


def load_detector(dino_name: str, sam_name: str, engine: str) -> Detector:
    """Load both stages from models/grounding-dino and models/sams."""
    boxes = load_box_detector(full_path("grounding-dino", dino_name), tokenizer_folder(), cast(Engine, engine))
    masks = load_segmenter(full_path("sams", sam_name), cast(Engine, engine))
    return Detector(boxes, masks, (patcher_of(boxes.module), patcher_of(masks.module)))


def patcher_of(module: nn.Module) -> Any:
    """The patcher with which the host moves a module between devices."""
    management = comfy.model_management
    return comfy.model_patcher.ModelPatcher(
        _Held(module), management.get_torch_device(), management.unet_offload_device()
    )


def find_layout(
    detector: Detector, image: Tensor, wanted: list[tuple[str, str]], label: str, **settings: Any
) -> Layout:
    """`core.layout_search.find_layout` with each stage loaded by the host just before it runs."""

    def find(image: Tensor, word: str) -> Detections:
        comfy.model_management.throw_exception_if_processing_interrupted()
        comfy.model_management.load_models_gpu([detector.patchers[0]], force_full_load=True)
        return detector.boxes.find(image, word)

    def segment(image: Tensor, boxes: Tensor) -> Tensor:
        comfy.model_management.load_models_gpu([detector.patchers[1]], force_full_load=True)
        return detector.masks.segment(image, boxes)

    return layout_search.find_layout(find, segment, image, wanted, label, **settings)
