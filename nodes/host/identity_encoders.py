"""Portraits as an identity encoder sees them: PhotoMaker, any CLIP vision model, or a face recogniser."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...core.detectors.faces import Recogniser
from ...core.quoting import quote
from . import photomaker as pm

_BATCH = 8


@dataclass(frozen=True)
class EncodedPortraits:
    """What an encoder makes of portraits.

    Args:
        encoder: The encoder's name, for the identity.
        embeddings: `(m, d)`, float32 on the CPU; one row for every portrait that the encoder can read.
        rows: Which portraits these are, positions in the batch.
    """

    encoder: str
    embeddings: Tensor
    rows: list[int]


def encode_portraits(encoder: Any, portraits: Tensor, advance: Callable[[int], object]) -> EncodedPortraits:
    """The embeddings of portraits `(m, h, w, 3)` in [0, 1].

    Args:
        encoder: A PHOTOMAKER, a CLIP_VISION or a FACE_RECOGNISER.
        portraits: One batch.
        advance: Called with the number of portraits done.

    Raises:
        ValueError: If the encoder is none of these, gives no embedding per picture, or finds a face in no portrait.
    """
    if isinstance(encoder, Recogniser):
        return _by_faces(encoder, portraits, advance)
    if hasattr(encoder, "encode_image"):
        return _by_clip_vision(encoder, portraits, advance)
    if not hasattr(encoder, "fuse_module"):
        raise ValueError(
            f"Identity Discovery: the encoder is {quote(type(encoder).__name__)}. Connect PhotoMaker Loader, Load CLIP "
            "Vision or Load Face Recogniser."
        )
    embeddings = pm.embed_portraits(encoder, portraits, batch_size=_BATCH, advance=advance)
    return EncodedPortraits(pm.encoder_id(encoder), embeddings, list(range(len(portraits))))


def _by_clip_vision(clip_vision: Any, portraits: Tensor, advance: Callable[[int], object]) -> EncodedPortraits:
    """The image embeddings that the host's image encoder gives."""
    found = []
    for batch in portraits.split(_BATCH):
        comfy.model_management.throw_exception_if_processing_interrupted()
        found.append(clip_vision.encode_image(batch)["image_embeds"].to("cpu", torch.float32))
        if found[-1].ndim != 2:
            raise ValueError(
                f"Identity Discovery: the image encoder {quote(clip_vision.model_type)} gives no embedding of a whole "
                "picture. Load another with Load CLIP Vision, such as CLIP ViT-H."
            )
        advance(len(batch))
    return EncodedPortraits(clip_vision_id(clip_vision), torch.cat(found), list(range(len(portraits))))


def clip_vision_id(clip_vision: Any) -> str:
    """Which encoder identities of this CLIP_VISION belong to: its kind and its sizes, since it has no name."""
    config = clip_vision.config
    sizes = [str(config.get(key, "?")) for key in ("num_hidden_layers", "hidden_size", "patch_size")]
    return f"{clip_vision.model_type} {'-'.join(sizes)}-{clip_vision.image_size}"


def _by_faces(encoder: Recogniser, portraits: Tensor, advance: Callable[[int], object]) -> EncodedPortraits:
    """The embedding of the largest face of each portrait; portraits without a face are left out."""
    found, rows = [], []
    for row, portrait in enumerate(portraits):
        comfy.model_management.throw_exception_if_processing_interrupted()
        face = encoder.find(portrait)
        if face is not None:
            found.append(face.embedding.to("cpu", torch.float32))
            rows.append(row)
        advance(1)
    if not found:
        raise ValueError(
            f"Identity Discovery: {quote(encoder.name)} finds a face in none of the {len(portraits)} portraits. "
            "Face recognisers know photographs, not drawings; the toy world's knows its people. Take another "
            "encoder, such as Load CLIP Vision's."
        )
    return EncodedPortraits(f"face recogniser {encoder.name}", torch.stack(found), rows)
