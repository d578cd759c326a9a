"""Portraits as an identity encoder sees them: PhotoMaker, any CLIP vision model, or a face recogniser."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...core.detectors.faces import Face, Recogniser
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
        about: What else the identity's metadata should say of the encoder.
    """

    encoder: str
    embeddings: Tensor
    rows: list[int]
    about: Mapping[str, str] = field(default_factory=dict)


def encode_portraits(encoder: Any, portraits: Tensor, advance: Callable[[int], object]) -> EncodedPortraits:
    """The embeddings of portraits `(m, h, w, 3)` in [0, 1].

    Args:
        encoder: A PHOTOMAKER, a CLIP_VISION or a FACE_RECOGNISER.
        portraits: One batch.
        advance: Called with the number of portraits done.

    Raises:
        ValueError: If the encoder is none of these, gives no embedding per picture, finds a face in no portrait, or is
            PhotoMaker v2 without a face recogniser.
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
    if pm.reads_faces(encoder):
        return _by_photomaker_v2(encoder, portraits, advance)
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
    rows, faces = _faces(encoder, portraits, advance)
    _require_faces(encoder, rows, len(portraits), "Take another encoder, such as Load CLIP Vision's.")
    embeddings = torch.stack([face.embedding.to("cpu", torch.float32) for face in faces])
    return EncodedPortraits(f"face recogniser {encoder.name}", embeddings, rows)


def _by_photomaker_v2(photomaker: Any, portraits: Tensor, advance: Callable[[int], object]) -> EncodedPortraits:
    """The identity tokens of each portrait and its largest face; portraits without a face are left out."""
    recogniser, rows, found = pm.face_recogniser(photomaker), [], []
    for start in range(0, len(portraits), _BATCH):
        batch = portraits[start : start + _BATCH]
        seen, faces = _faces(recogniser, batch, lambda _: None)
        if seen:
            unscaled = torch.stack([face.unscaled for face in faces])
            found.append(pm.embed_portraits(photomaker, batch[seen], _BATCH, lambda _: None, unscaled))
            rows += [start + row for row in seen]
        advance(len(batch))
    _require_faces(recogniser, rows, len(portraits), "Take PhotoMaker v1, which needs no face recogniser.")
    about = {"face_recogniser": recogniser.name}
    return EncodedPortraits(pm.encoder_id(photomaker), torch.cat(found), rows, about)


def _faces(recogniser: Recogniser, portraits: Tensor, advance: Callable[[int], object]) -> tuple[list[int], list[Face]]:
    """The largest face of each portrait that has one, and which portraits these are."""
    rows, faces = [], []
    for row, portrait in enumerate(portraits):
        comfy.model_management.throw_exception_if_processing_interrupted()
        face = recogniser.find(portrait)
        if face is not None:
            faces.append(face)
            rows.append(row)
        advance(1)
    return rows, faces


def _require_faces(recogniser: Recogniser, rows: list[int], count: int, remedy: str) -> None:
    if not rows:
        raise ValueError(
            f"Identity Discovery: {quote(recogniser.name)} finds a face in none of the {count} portraits. Face "
            f"recognisers know photographs, not drawings; the toy world's knows its people. {remedy}"
        )
