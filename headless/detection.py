"""The detectors a run can use."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..core.detectors import Detections, load_box_detector, load_segmenter
from ..core.layout import Layout
from ..core.layout_search import find_layout
from ..core.redenoise import scaled_kernel
from ..core.shapes import Bool, Float
from ..core.story import Frame
from .option_values import TOYWORLD
from .run_files import read_masks
from .run_settings import RunSettings
from .toyworld_files import folder_of


@runtime_checkable
class Detector(Protocol):
    """Finds what a word may name, and gives one mask per box."""

    def find(self, image: Float[Tensor, "h w 3"], word: str) -> Detections: ...

    def segment(self, image: Float[Tensor, "h w 3"], boxes: Float[Tensor, "n 4"]) -> Bool[Tensor, "n h w"]: ...


@dataclass(frozen=True)
class GroundedSAM:
    """GroundingDINO and SAM as one detector."""

    boxes: Any
    masks: Any

    def find(self, image: Float[Tensor, "h w 3"], word: str) -> Detections:
        return self.boxes.find(image, word)

    def segment(self, image: Float[Tensor, "h w 3"], boxes: Float[Tensor, "n 4"]) -> Bool[Tensor, "n h w"]:
        return self.masks.segment(image, boxes)


def load_detector(settings: RunSettings, device: str) -> Detector | None:
    """Load the detector the settings name; None where they name none, or give masks."""
    if settings.detector == "none" or settings.masks:
        return None
    if settings.detector == TOYWORLD:
        from ..core.toyworld.detector import load_detector as load_toy_detector

        return load_toy_detector(folder=toyworld_folder(settings))
    return load_grounded_sam(Path(settings.grounding_dino), Path(settings.sam), Path(settings.bert), device)


def load_grounded_sam(grounding_dino: Path, sam: Path, bert: Path, device: str) -> GroundedSAM:
    """GroundingDINO and SAM from their files, with the tokenizer of bert-base-uncased from a folder.

    Raises:
        FileNotFoundError: If one of them is missing.
        ValueError: If a file holds something else.
    """
    boxes = load_box_detector(grounding_dino, bert)
    masks = load_segmenter(sam)
    boxes.module.to(device)
    masks.module.to(device)
    return GroundedSAM(boxes, masks)


def toyworld_folder(settings: RunSettings) -> Path:
    """Where "toyworld" is: the checkpoint's folder if that is one of toy world weights, or the weights of the pack."""
    return folder_of(settings.checkpoint)


def find_characters(
    settings: RunSettings, detector: Detector | None, frame: Frame, picture: Float[Tensor, "h w 3"], masks: Path | None
) -> Layout:
    """Who is where in a picture of a frame: from a mask file, or by the detector."""
    size = (settings.height, settings.width)
    if masks is not None:
        return read_masks(masks, frame, *size)
    if not frame.cast or detector is None:
        return Layout((), torch.zeros((0, *size), dtype=torch.bool), frame.label)
    return find_layout(
        detector.find,
        detector.segment,
        picture,
        [(character.name, character.word) for character in frame.cast],
        frame.label,
        box_threshold=settings.box_threshold,
        text_threshold=settings.text_threshold,
        dilate_px=round(scaled_kernel(settings.dilate, *size)),
        skip_missing=settings.on_missing == "skip",
    )
