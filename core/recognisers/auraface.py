"""Face recognition by AuraFace (Apache-2.0), an ArcFace network that onnxruntime runs, after one of two detectors.

AuraFace is ArcFace (Deng et al. 2019, arXiv:1801.07698) trained by its makers on pictures that they may use. Faces are
found by YuNet (see `sface`), or by SCRFD (Guo et al. 2021, arXiv:2105.04714), whose file lies next to AuraFace's where
that is published, but is the same as insightface's, which is for non-commercial research only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..detectors.faces import FoundFace
from ..detectors.files import require_package
from ..quoting import printable
from .alignment import ARCFACE_POINTS, TEMPLATE_PX, aligned, similarity_matrix
from .sface import DETECTOR_FILE, YunetDetector, load_yunet

SCRFD_FILE, RECOGNISER_FILE = "scrfd_10g_bnkps.onnx", "glintr100.onnx"
DETECTOR_PX = 640
LEAST_SCORE, OVERLAP = 0.5, 0.4
STRIDES = (8, 16, 32)
_ANCHORS = 2
"""How many anchors SCRFD has in every cell."""


@dataclass(frozen=True)
class ScrfdDetector:
    """SCRFD: faces with five points (eyes, nose, corners of the mouth).

    Args:
        session: onnxruntime's, of the file.
    """

    session: Any

    def detect(self, pixels: np.ndarray) -> list[FoundFace]:
        """All faces of an 8-bit RGB picture (h w 3), which is scaled to fit 640 pixels, as insightface does."""
        seen, scale = _fitted(pixels, DETECTOR_PX)
        return decode(_run(self.session, (seen.astype(np.float32) - 127.5) / 128), DETECTOR_PX, scale)


@dataclass(frozen=True)
class AuraFaceEngine:
    """An ArcFace network behind `FaceEngine`.

    Args:
        detector: Finds the faces, and eyes, nose and corners of the mouth.
        recogniser: onnxruntime's session of the ArcFace network.
        width: The width of its embeddings.
    """

    detector: YunetDetector | ScrfdDetector
    recogniser: Any
    width: int = 512
    name: str = "auraface"
    threshold: float = 0.4
    """A usual choice for ArcFace's networks; AuraFace's makers name none."""

    def detect(self, pixels: np.ndarray) -> list[FoundFace]:
        """See `FaceEngine`."""
        return self.detector.detect(pixels)

    def crop(self, pixels: np.ndarray, face: FoundFace, side: int) -> np.ndarray:
        """See `FaceEngine`."""
        return aligned(pixels, similarity_matrix(face.points, ARCFACE_POINTS * side / TEMPLATE_PX), side)

    def embed(self, pixels: np.ndarray, face: FoundFace) -> np.ndarray:
        """See `FaceEngine`."""
        chip = self.crop(pixels, face, TEMPLATE_PX)
        return _run(self.recogniser, (chip.astype(np.float32) - 127.5) / 127.5)[0][0]


def decode(outputs: Sequence[np.ndarray], side: int, scale: float) -> list[FoundFace]:
    """Faces from SCRFD's nine outputs: scores, distances to the box's sides, and points, at three strides.

    Distances and points are in strides and counted from the cell's corner, two anchors to a cell. Of faces that overlap
    the best stays.

    Args:
        outputs: Scores, distances (4) and points (10), each at strides 8, 16 and 32.
        side: Of the square that the network saw.
        scale: Pixels of the picture per pixel of that square.
    """
    found = []
    for place, stride in enumerate(STRIDES):
        scores, distances, points = (
            outputs[place + kind * len(STRIDES)].reshape(-1, width) for kind, width in enumerate((1, 4, 10))
        )
        cells = np.stack(np.meshgrid(np.arange(side // stride), np.arange(side // stride)), axis=-1).reshape(-1, 2)
        corners = np.repeat(cells, _ANCHORS, axis=0)
        for row in np.flatnonzero(scores[:, 0] >= LEAST_SCORE):
            left, top, right, bottom = distances[row]
            x, y = corners[row]
            box = np.array([x - left, y - top, x + right, y + bottom]) * stride * scale
            found.append(
                FoundFace(box, (corners[row] + points[row].reshape(5, 2)) * stride * scale, float(scores[row, 0]))
            )
    return without_doubles(found)


def without_doubles(faces: list[FoundFace]) -> list[FoundFace]:
    """Faces, best first, none of which overlaps a better one by more than `OVERLAP` (intersection over union)."""
    kept: list[FoundFace] = []
    for face in sorted(faces, key=lambda each: -each.score):
        if all(_overlap(face.box, other.box) <= OVERLAP for other in kept):
            kept.append(face)
    return kept


def load_auraface(folder: Path) -> AuraFaceEngine:
    """AuraFace from a folder with its file, and that of YuNet or of SCRFD; where both are there, YuNet is used.

    Raises:
        ModuleNotFoundError: If onnxruntime, or OpenCV for YuNet, is not installed.
        FileNotFoundError: If a file is missing.
        ValueError: If a file cannot be read, or does not have the layout of such a model.
    """
    for names in ((RECOGNISER_FILE,), (DETECTOR_FILE, SCRFD_FILE)):
        if not any((folder / name).is_file() for name in names):
            raise FileNotFoundError(
                f"There is no {' or '.join(names)} in {printable(str(folder))}: put AuraFace's {RECOGNISER_FILE} and "
                f"YuNet's {DETECTOR_FILE} there."
            )
    recogniser = _session(folder / RECOGNISER_FILE)
    width = recogniser.get_outputs()[0].shape[-1]
    if len(recogniser.get_outputs()) != 1 or not isinstance(width, int):
        raise ValueError(f"{printable(str(folder / RECOGNISER_FILE))} is no network of ArcFace: it gives no vector.")
    is_yunet = (folder / DETECTOR_FILE).is_file()
    detector = load_yunet(folder / DETECTOR_FILE) if is_yunet else load_scrfd(folder / SCRFD_FILE)
    return AuraFaceEngine(detector, recogniser, width)


def load_scrfd(path: Path) -> ScrfdDetector:
    """SCRFD with five points from its file.

    Raises:
        ModuleNotFoundError: If onnxruntime is not installed.
        ValueError: If the file cannot be read, or has other outputs.
    """
    session = _session(path)
    outputs, wanted = len(session.get_outputs()), 3 * len(STRIDES)
    if outputs != wanted:
        raise ValueError(f"{printable(str(path))} has {outputs} outputs; SCRFD with points has {wanted}.")
    return ScrfdDetector(session)


def _run(session: Any, pixels: np.ndarray) -> Sequence[np.ndarray]:
    """What a network makes of one normalised picture (h w 3)."""
    return session.run(None, {session.get_inputs()[0].name: pixels.transpose(2, 0, 1)[None]})


def _session(path: Path) -> Any:
    with require_package("onnxruntime", "recognising faces with AuraFace"):
        onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors derive from nothing narrower
        reason = f"{type(error).__name__}: {printable(str(error), 200)}"
        raise ValueError(f"{printable(str(path))} cannot be read ({reason}): fetch it again.") from error


def _fitted(pixels: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    """A picture in the upper left corner of a black square, and its pixels per pixel of the square."""
    from PIL import Image

    height, width = pixels.shape[:2]
    scale = max(height, width) / side
    size = max(1, round(width / scale)), max(1, round(height / scale))
    square = np.zeros((side, side, 3), np.uint8)
    square[: size[1], : size[0]] = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    return square, scale


def _overlap(box: np.ndarray, other: np.ndarray) -> float:
    sides = (np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])).clip(min=0)
    both = sides.prod()
    return float(both / ((box[2:] - box[:2]).prod() + (other[2:] - other[:2]).prod() - both + 1e-9))
