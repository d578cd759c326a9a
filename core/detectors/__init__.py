"""Boxes from a word and masks from boxes: GroundingDINO and SAM, read from the files their authors published.

Two engines run the same files: `transformers` (the default; needs neither torchvision nor the authors' packages) and
`original` (groundingdino-py and segment-anything). The architecture is read off the shapes of the tensors, so any size
of either model loads. Nothing here downloads.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..shapes import Bool, Float

Engine = Literal["transformers", "original"]


@dataclass(frozen=True)
class Detections:
    """All candidates of one word, best score first, not yet thresholded; on the CPU.

    Args:
        boxes: x0 y0 x1 y1 in pixels of the image. A box may reach past the edge of the image.
        scores: In [0, 1]: the maximum over all tokens of the prompt. `box_threshold` is compared with it.
        text_scores: In [0, 1]: the maximum over the word's own tokens. `text_threshold` is compared with it.
    """

    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    text_scores: Float[Tensor, " n"]


@runtime_checkable
class BoxDetector(Protocol):
    """Finds everything in an image that a word may name. `module` holds the weights; it runs where they are."""

    module: torch.nn.Module

    def find(self, image: Float[Tensor, "h w 3"], word: str) -> Detections: ...


@runtime_checkable
class MaskSegmenter(Protocol):
    """Gives one mask per box, on the CPU. `module` holds the weights; it runs where they are."""

    module: torch.nn.Module

    def segment(self, image: Float[Tensor, "h w 3"], boxes: Float[Tensor, "n 4"]) -> Bool[Tensor, "n h w"]: ...


def load_box_detector(path: Path, tokenizer_dir: Path, engine: Engine = "transformers") -> BoxDetector:
    """Load GroundingDINO onto the CPU.

    Args:
        path: `groundingdino_swint_ogc.pth`, `groundingdino_swinb_cogcoor.pth`, or a `.safetensors` of the same keys.
        tokenizer_dir: A folder with the tokenizer files of bert-base-uncased.
        engine: Whose implementation runs the weights. Both give the same boxes and scores to rounding.

    Raises:
        FileNotFoundError: If the weights or the tokenizer files are missing.
        ModuleNotFoundError: If the engine's package is not installed.
        ValueError: If the file holds something else, or not all of GroundingDINO.
    """
    from . import grounding_dino, grounding_dino_keys
    from .files import require_file

    require_file(path, "GroundingDINO", "grounding-dino", grounding_dino_keys.FILE_NAMES)
    tokenizer = grounding_dino.load_tokenizer(tokenizer_dir)
    if engine == "original":
        from . import original

        return grounding_dino.GroundingDinoDetector(*original.load_grounding_dino(path, tokenizer), tokenizer)
    return grounding_dino.GroundingDinoDetector(*grounding_dino.load_model(path), tokenizer)


def load_segmenter(path: Path, engine: Engine = "transformers") -> MaskSegmenter:
    """Load SAM onto the CPU.

    Args:
        path: `sam_vit_b_01ec64.pth`, `sam_vit_l_0b3195.pth`, `sam_vit_h_4b8939.pth`, or a `.safetensors` of the same
            keys.
        engine: Whose implementation runs the weights. Both give the same masks to rounding.

    Raises:
        FileNotFoundError: If the weights are missing.
        ModuleNotFoundError: If the engine's package is not installed.
        ValueError: If the file holds something else, or not all of SAM.
    """
    from . import sam, sam_keys
    from .files import require_file

    require_file(path, "SAM", "sams", sam_keys.FILE_NAMES)
    if engine == "original":
        from . import original

        return sam.SamSegmenter(*original.load_sam(path))
    return sam.SamSegmenter(*sam.load_model(path))
