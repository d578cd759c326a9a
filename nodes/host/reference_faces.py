"""Reference pictures as the adapters' image side reads them, under the host's memory management."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...core.detectors.faces import NOTICE, Recogniser, load_face_recogniser
from ...core.injector import ReferenceFeatures
from ...core.toyworld.recogniser import load_recogniser
from .folders import TOY_FACE_MODELS, face_models_folder

CENTRE_SQUARE, WHOLE_PICTURE, FOUND_FACE = CROPS = ("centre square", "whole picture", "found face")
"""What the image encoder sees: the middle, all of it squeezed into a square, or the aligned face."""


def load_named_recogniser(face_models: str, node: str) -> Recogniser:
    """The face recogniser of a choice of `folders.face_models`.

    Args:
        face_models: The choice.
        node: The display name of the node, for the log.

    Raises:
        FileNotFoundError, ModuleNotFoundError, ValueError: If its models or its package are missing or damaged.
    """
    if face_models == TOY_FACE_MODELS:
        return load_recogniser()
    recogniser = load_face_recogniser(face_models_folder(face_models))
    logging.warning("%s: %s", node, NOTICE)
    return recogniser


def reference_features(
    pictures: Sequence[Tensor],
    clip_vision: Any | None,
    recogniser: Recogniser | None,
    crop: str,
    advance: Callable[[int], None],
) -> ReferenceFeatures:
    """What a CLIP_VISION and a face recogniser make of pictures `(h, w, 3)` of any sizes; float32 on the CPU.

    Args:
        pictures: One or more pictures of one character.
        clip_vision: None for adapters that read face embeddings only.
        recogniser: None for adapters that read no face embeddings.
        crop: One of `CROPS`.
        advance: Called after every picture.

    Raises:
        ValueError: If a face is wanted and there is none, or the CLIP_VISION is not CLIP's.
    """
    if clip_vision is not None and clip_vision.model_type != "clip_vision_model":
        raise ValueError(
            f"Face Features: the image encoder is {clip_vision.model_type}; the adapters read CLIP. Load CLIP ViT-H."
        )
    clip, face = [], []
    for number, picture in enumerate(pictures, start=1):
        comfy.model_management.throw_exception_if_processing_interrupted()
        if recogniser is not None:
            found = recogniser.find(picture)
            if found is None:
                raise ValueError(
                    f"Face Features: there is no face in picture {number} of {len(pictures)} that these face models "
                    "can find (insightface's know photographs, not drawings; the toy world's know its people). Take "
                    "another picture, or an adapter of the kind plus-face, which needs no face recogniser."
                )
            face.append(found.embedding)
            picture = found.crop if crop == FOUND_FACE else picture
        if clip_vision is not None:
            clip.append(_hidden_states(clip_vision, picture, crop))
        advance(1)
    return ReferenceFeatures(
        clip=torch.cat(clip) if clip else None,
        blank_clip=None if clip_vision is None else _blank_hidden_states(clip_vision),
        face=torch.stack(face) if face else None,
    )


def _hidden_states(clip_vision: Any, picture: Tensor, crop: str) -> Tensor:
    output = clip_vision.encode_image(picture.unsqueeze(0), crop=crop != WHOLE_PICTURE)
    return output["penultimate_hidden_states"].to("cpu", torch.float32)


def _blank_hidden_states(clip_vision: Any) -> Tensor:
    """The hidden states of a picture that is exactly 0 after normalisation, which no 8-bit picture is."""
    comfy.model_management.load_models_gpu([clip_vision.patcher])
    side = clip_vision.image_size
    pixels = torch.zeros(1, 3, side, side, device=clip_vision.load_device)
    return clip_vision.model(pixel_values=pixels, intermediate_output=-2)[1].to("cpu", torch.float32)
