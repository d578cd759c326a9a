"""Faces in photographs: what any engine of face recognition is, and how the pack uses one; the engine insightface.

insightface is an optional package, whose models are for non-commercial research only. Engines with free licences are
in `core.recognisers`.
"""

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
        length: How long the vector was that the engine gave, above 0.
    """

    embedding: Float[Tensor, " d"]
    crop: Float[Tensor, "side side 3"]
    length: float = 1.0

    @property
    def unscaled(self) -> Float[Tensor, " d"]:
        """The embedding as the engine gave it, of any length: what PhotoMaker v2 was trained with."""
        return self.embedding * self.length


@dataclass(frozen=True)
class FoundFace:
    """A face as a detector found it, in pixels of the picture.

    Args:
        box: x0 y0 x1 y1.
        points: Five points x y; which ones, and in which order, the engine says.
        score: How sure the detector is.
        embedding: Where an engine gives it along with the face; of any length.
    """

    box: np.ndarray
    points: np.ndarray
    score: float = 1.0
    embedding: np.ndarray | None = None


@runtime_checkable
class FaceEngine(Protocol):
    """Detection, alignment by five points, and embedding, of pictures as 8-bit RGB arrays (h w 3); on the CPU."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def width(self) -> int:
        """The width of its embeddings."""
        ...

    @property
    def threshold(self) -> float:
        """The cosine of two embeddings above which faces usually count as one person's."""
        ...

    def detect(self, pixels: np.ndarray) -> list[FoundFace]:
        """All faces of a picture, in any order."""
        ...

    def crop(self, pixels: np.ndarray, face: FoundFace, side: int) -> np.ndarray:
        """A face turned upright, (side side 3), 8-bit RGB."""
        ...

    def embed(self, pixels: np.ndarray, face: FoundFace) -> np.ndarray:
        """The vector of a face, of any length."""
        ...


@runtime_checkable
class Recogniser(Protocol):
    """What `FaceRecogniser` is to photographs, for any kind of picture."""

    @property
    def name(self) -> str:
        """What reports and identities call it."""
        ...

    @property
    def width(self) -> int:
        """The width of its embeddings."""
        ...

    def find(self, image: Float[Tensor, "h w 3"]) -> Face | None: ...

    def find_all(
        self, images: Sequence[Float[Tensor, "_ _ 3"]], masks: Sequence[Bool[Tensor, "_ _"] | None]
    ) -> list[Face | None]: ...


@dataclass(frozen=True)
class FaceRecogniser:
    """Finds the largest face of a picture, with any engine; on the CPU."""

    engine: FaceEngine

    @property
    def name(self) -> str:
        return self.engine.name

    @property
    def width(self) -> int:
        return self.engine.width

    @property
    def threshold(self) -> float:
        return self.engine.threshold

    def find(self, image: Float[Tensor, "h w 3"], mask: Bool[Tensor, "h w"] | None = None) -> Face | None:
        """The largest face of a picture in [0, 1], or None; with a mask, of the faces whose middle is in it.

        Detectors overlook faces that fill the picture, so where one finds none, it is shown the picture once more, with
        a border as wide as half of it.
        """
        pixels = (image.detach().cpu().float() * 255).round().clamp(0, 255).byte().numpy()
        height, width = pixels.shape[:2]
        bordered = np.pad(pixels, ((height // 2, height // 2), (width // 2, width // 2), (0, 0)))
        for seen, top, left in ((pixels, 0, 0), (bordered, height // 2, width // 2)):
            seen = np.ascontiguousarray(seen)
            found = [face for face in self.engine.detect(seen) if mask is None or _is_in(mask, face, top, left)]
            if found:
                return self._face(seen, max(found, key=_area))
        return None

    def find_all(
        self, images: Sequence[Float[Tensor, "_ _ 3"]], masks: Sequence[Bool[Tensor, "_ _"] | None]
    ) -> list[Face | None]:
        """`find` in every picture."""
        return [self.find(image, mask) for image, mask in zip(images, masks, strict=True)]

    def _face(self, pixels: np.ndarray, found: FoundFace) -> Face:
        embedding = torch.from_numpy(np.array(self.engine.embed(pixels, found), dtype=np.float32)).flatten()
        crop = np.ascontiguousarray(self.engine.crop(pixels, found, CROP_PX))
        unit = torch.nn.functional.normalize(embedding, dim=0)
        return Face(unit, torch.from_numpy(crop).float() / 255, float(embedding.norm()))


@dataclass(frozen=True)
class InsightfaceEngine:
    """insightface behind `FaceEngine`; it finds and embeds at once. Its five points: eyes, nose, corners of the mouth.

    Args:
        analysis: insightface's `FaceAnalysis`, prepared.
        align: insightface's `norm_crop`.
    """

    analysis: Any
    align: Any
    name: str = "insightface"
    width: int = 512
    """The width of the embeddings of all of insightface's models."""
    threshold: float = 0.4
    """A usual choice for buffalo_l; its makers name none."""

    def detect(self, pixels: np.ndarray) -> list[FoundFace]:
        """See `FaceEngine`."""
        found = self.analysis.get(np.ascontiguousarray(pixels[..., ::-1]))
        return [FoundFace(face.bbox[:4], face.kps, embedding=face.embedding) for face in found]

    def crop(self, pixels: np.ndarray, face: FoundFace, side: int) -> np.ndarray:
        """See `FaceEngine`."""
        return self.align(np.ascontiguousarray(pixels[..., ::-1]), face.points, side)[..., ::-1]

    def embed(self, pixels: np.ndarray, face: FoundFace) -> np.ndarray:
        """See `FaceEngine`."""
        assert face.embedding is not None  # `detect` gives it
        return face.embedding


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
    return FaceRecogniser(InsightfaceEngine(analysis, face_align.norm_crop))


def _area(face: FoundFace) -> float:
    left, top, right, bottom = face.box
    return float((right - left) * (bottom - top))


def _is_in(mask: Tensor, face: FoundFace, top: int, left: int) -> bool:
    """Whether the middle of a face, found in a picture with a border above and to the left, is in a mask."""
    x0, y0, x1, y1 = face.box
    row, column = math.floor((y0 + y1) / 2) - top, math.floor((x0 + x1) / 2) - left
    return 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1] and bool(mask[row, column])


def _lacks(folder: Path, what: str) -> str:
    where = printable(str(folder))
    return f"The models in {where} do not {what} faces. Put all .onnx files of insightface's buffalo_l there."
