"""A CLIP_VISION of ComfyUI as an encoder of `core.scores`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...core.encoders import ImageEncoder, ImageTextEncoder
from ...core.scores.measuring import Encoders

CLIP, DINO = ("clip_vision_model",), ("dinov2", "dinov3")
"""ComfyUI's names of the kinds whose vectors compare pictures."""


@dataclass(frozen=True)
class ClipVisionEncoder:
    """The image side of CLIP, or DINO, under the host's memory management; it sees the middle square of a picture.

    Args:
        clip_vision: ComfyUI's CLIP_VISION.
        name: What reports call it.
    """

    clip_vision: Any
    name: str

    def embed_images(self, images: Sequence[Tensor]) -> Tensor:
        """See `core.encoders.ImageEncoder`."""
        rows = []
        for image in images:
            comfy.model_management.throw_exception_if_processing_interrupted()
            rows.append(self.clip_vision.encode_image(image[None])["image_embeds"].float().cpu())
        return torch.cat(rows) if rows else torch.zeros(0, 1)


def encoders_of(clip_visions: Sequence[Any], recogniser: Any, encoder: ImageTextEncoder | None = None) -> Encoders:
    """What measures: the recogniser, the encoder of captions, and a CLIP_VISION of each kind that is there.

    Raises:
        ValueError: If a CLIP_VISION is of a kind that compares no pictures, or two are of one kind.
    """
    found: dict[str, ImageEncoder] = {} if encoder is None else {"clip": encoder}
    for each in clip_visions:
        kind = "clip" if each.model_type in CLIP else "dino" if each.model_type in DINO else None
        if kind is None:
            raise ValueError(f"Score Story: the image encoder is {each.model_type}; connect CLIP or DINO.")
        if kind in found:
            raise ValueError(
                f"Score Story: two image encoders are of the kind {kind}; connect one of CLIP, one of DINO."
            )
        found[kind] = ClipVisionEncoder(each, each.model_type)
    return Encoders(found.get("clip"), found.get("dino"), recogniser)
