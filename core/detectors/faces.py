"""Face embeddings by insightface: an optional package, whose models are for non-commercial research only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ..quoting import printable
from ..shapes import Bool, Float
from .files import require_package

NOTICE = "insightface's models, and every adapter trained with them, are for non-commercial research only."
CROP_PX = 224
"""Side of an aligned crop, as CLIP sees it."""

_DETECTOR_PX = 640


@dataclass(frozen=True)
class Face:
    """One face of a picture.

    Args:
        embedding: A vector of unit length.
        crop: The face cut out and turned upright, in [0, 1].
    """

    embedding: Float[Tensor, " d"]
    crop: Float[Tensor, "side side 3"]


@runtime_checkable
class Recogniser(Protocol):
    """What `FaceRecogniser` is to photographs, for any kind of picture."""

    @property
    def width(self) -> int:
        """The width of its embeddings."""
        ...

    def find(self, image: Float[Tensor, "h w 3"]) -> Face | None: ...

    def find_all(
        self, images: Sequence[Float[Tensor, "_ _ 3"]], masks: Sequence[Bool[Tensor, "_ _"] | None]
    ) -> list[Face | None]: ...


class FaceRecogniser:
    """Finds the largest face of a picture; on the CPU.

    Args:
        analysis: insightface's `FaceAnalysis`, prepared.
        align: insightface's `norm_crop`.
    """

    width = 512
    """The width of the embeddings of all of insightface's models."""

    def __init__(self, analysis: Any, align: Any) -> None:
        self.analysis = analysis
        self.align = align

    def find(self, image: Float[Tensor, "h w 3"], mask: Bool[Tensor, "h w"] | None = None) -> Face | None:
        """The largest face of a picture in [0, 1], or None; with a mask, of the faces whose middle is in it.

        The detector overlooks faces that fill the picture, so where it finds none, it is shown the picture once more,
        with a border as wide as half of it.
        """
        pixels = (image.detach().cpu().float() * 255).round().clamp(0, 255).byte().numpy()
        height, width = pixels.shape[:2]
        bordered = np.pad(pixels, ((height // 2, height // 2), (width // 2, width // 2), (0, 0)))
        for seen, top, left in ((pixels, 0, 0), (bordered, height // 2, width // 2)):
            bgr = np.ascontiguousarray(seen[..., ::-1])
            found = [face for face in self.analysis.get(bgr) if mask is None or _is_in(mask, face, top, left)]
            if found:
                return self._face(bgr, max(found, key=_area))
        return None

    def find_all(
        self, images: Sequence[Float[Tensor, "_ _ 3"]], masks: Sequence[Bool[Tensor, "_ _"] | None]
    ) -> list[Face | None]:
        """`find` in every picture."""
        return [self.find(image, mask) for image, mask in zip(images, masks, strict=True)]

    def _face(self, bgr: np.ndarray, found: Any) -> Face:
        embedding = torch.from_numpy(np.array(found.embedding, dtype=np.float32)).flatten()
        crop = np.ascontiguousarray(self.align(bgr, found.kps, CROP_PX)[..., ::-1])
        return Face(torch.nn.functional.normalize(embedding, dim=0), torch.from_numpy(crop).float() / 255)


def load_face_recogniser(folder: Path) -> FaceRecogniser:
    """The models of one folder, .../models/NAME, as insightface keeps them; nothing is downloaded.

    Raises:
        ModuleNotFoundError: If insightface or something it needs is not installed.
        FileNotFoundError: If the folder has no .onnx files; insightface would begin to download them.
        ValueError: If they do not both find and recognise faces.
    """
    if folder.parent.name != "models" or not any(folder.glob("*.onnx")):
        raise FileNotFoundError(
            f"There are no .onnx files in {printable(str(folder))}; insightface's models belong into models/NAME."
        )
    with require_package("insightface onnxruntime", "recognising faces"):
        insightface, face_align = import_module("insightface.app"), import_module("insightface.utils.face_align")
    needed = ["detection", "recognition"]
    try:
        analysis = insightface.FaceAnalysis(
            name=folder.name,
            root=str(folder.parents[1]),
            allowed_modules=needed,
            providers=["CPUExecutionProvider"],
        )
    except AssertionError as error:  # insightface's word for "no detector"
        raise ValueError(_lacks(folder, "find")) from error
    except ModuleNotFoundError:
        raise
    except Exception as error:  # onnxruntime's errors derive from nothing narrower
        reason = f"{type(error).__name__}: {printable(str(error), 200)}"
        raise ValueError(
            f"A model in {printable(str(folder))} cannot be read ({reason}): fetch the .onnx files again."
        ) from error
    if "recognition" not in analysis.models:
        raise ValueError(_lacks(folder, "recognise"))
    analysis.prepare(ctx_id=-1, det_size=(_DETECTOR_PX, _DETECTOR_PX))
    return FaceRecogniser(analysis, face_align.norm_crop)


def _area(face: Any) -> float:
    left, top, right, bottom = face.bbox[:4]
    return float((right - left) * (bottom - top))


def _is_in(mask: Tensor, face: Any, top: int, left: int) -> bool:
    """Whether the middle of a face, found in a picture with a border above and to the left, is in a mask."""
    x0, y0, x1, y1 = face.bbox[:4]
    row, column = math.floor((y0 + y1) / 2) - top, math.floor((x0 + x1) / 2) - left
    return 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1] and bool(mask[row, column])


def _lacks(folder: Path, what: str) -> str:
    where = printable(str(folder))
    return f"The models in {where} do not {what} faces. Put all .onnx files of insightface's buffalo_l there."
