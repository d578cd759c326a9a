"""Text-prompted masks under the host's memory management."""

from dataclasses import dataclass
from typing import Any, cast

import comfy.model_management
import comfy.model_patcher
import torch
from torch import Tensor, nn

from ...core.detectors import BoxDetector, Engine, MaskSegmenter, load_box_detector, load_segmenter
from ...core.layout import Layout, exclusive_masks, match_boxes
from .folders import full_path, tokenizer_folder


class _Held(nn.Module):
    """A module the host may hang its bookkeeping on (transformers' own classes have a read-only `device`)."""

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
    return Detector(boxes, masks, (_patcher(boxes.module), _patcher(masks.module)))


def _patcher(module: nn.Module) -> Any:
    management = comfy.model_management
    return comfy.model_patcher.ModelPatcher(
        _Held(module), management.get_torch_device(), management.unet_offload_device()
    )


def find_layout(
    detector: Detector,
    image: Tensor,
    wanted: list[tuple[str, str]],
    label: str,
    *,
    box_threshold: float,
    text_threshold: float,
    dilate_px: int,
    skip_missing: bool,
) -> Layout:
    """Boxes for each distinct word, one mask per box, then exclusive masks (IdentityStory, equation 5).

    Raises:
        ValueError: If a character is not found and `skip_missing` is off; it names the frame, the word, the best score
            and the thresholds.
    """
    boxes: dict[str, Tensor] = {}
    for word in dict.fromkeys(word.lower() for _, word in wanted):
        people = [name for name, w in wanted if w.lower() == word]
        found = _boxes_of(detector, image, word, people, label, box_threshold, text_threshold, skip_missing)
        boxes.update(zip(people, found, strict=False))
    names = tuple(name for name, _ in wanted)
    masks = torch.zeros((len(names), *image.shape[:2]), dtype=torch.bool)
    seen = [row for row, name in enumerate(names) if name in boxes]
    if seen:
        comfy.model_management.load_models_gpu([detector.patchers[1]], force_full_load=True)
        masks[seen] = detector.masks.segment(image, torch.stack([boxes[names[row]] for row in seen]))
    masks = exclusive_masks(masks, dilate_px)
    for row in seen:
        if not masks[row].any() and not skip_missing:
            raise ValueError(
                f'{label}: the mask of "{names[row]}" is empty, or another character covers it. Give masks by hand '
                "(Layout from Masks), change the seed, or set on_missing to skip."
            )
    return Layout(names, masks, label)


def _boxes_of(
    detector: Detector,
    image: Tensor,
    word: str,
    people: list[str],
    label: str,
    box_threshold: float,
    text_threshold: float,
    skip_missing: bool,
) -> Tensor:
    """Boxes `(k, 4)` for the characters that share a word, left to right; fewer than asked only with `skip_missing`."""
    comfy.model_management.throw_exception_if_processing_interrupted()
    comfy.model_management.load_models_gpu([detector.patchers[0]], force_full_load=True)
    candidates = detector.boxes.find(image, word)
    good = (candidates.scores > box_threshold) & (candidates.text_scores > text_threshold)
    boxes = match_boxes(candidates.boxes[good], candidates.scores[good], len(people))
    if len(boxes) < len(people) and not skip_missing:
        best = f"{float(candidates.scores.max()):.2f}" if len(candidates.scores) else "none"
        raise ValueError(
            f'{label}: found {len(boxes)} of {len(people)} "{word}" ({", ".join(people)}). The best score was {best}, '
            f"box_threshold is {box_threshold:.2f} and text_threshold {text_threshold:.2f}. Lower the thresholds, "
            "change the seed, or set on_missing to skip, which leaves them as they were drawn."
        )
    return boxes
