"""Face recognition by OpenCV: YuNet (MIT) finds faces and five points, SFace (Apache-2.0) embeds them.

YuNet: Wu et al. 2023. SFace: Zhong et al. 2021 (arXiv:2205.12010). Both files are OpenCV's own, from its model zoo.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..detectors.faces import FoundFace
from ..detectors.files import require_package
from ..quoting import printable
from .alignment import ARCFACE_POINTS, TEMPLATE_PX, aligned, similarity_matrix

DETECTOR_FILE = "face_detection_yunet_2023mar.onnx"
RECOGNISER_FILE = "face_recognition_sface_2021dec.onnx"
LEAST_SCORE, OVERLAP, MOST_FACES = 0.7, 0.3, 200


@dataclass(frozen=True)
class YunetDetector:
    """YuNet: faces with five points (eyes, nose, corners of the mouth).

    Args:
        network: OpenCV's FaceDetectorYN.
    """

    network: Any

    def detect(self, pixels: np.ndarray) -> list[FoundFace]:
        """All faces of an 8-bit RGB picture (h w 3)."""
        height, width = pixels.shape[:2]
        self.network.setInputSize((width, height))
        found = self.network.detect(_bgr(pixels))[1]
        return [_face(row) for row in (() if found is None else found)]


@dataclass(frozen=True)
class SFaceEngine:
    """YuNet and SFace behind `FaceEngine`.

    Args:
        detector: Finds the faces.
        recogniser: OpenCV's FaceRecognizerSF.
    """

    detector: YunetDetector
    recogniser: Any
    name: str = "sface"
    width: int = 128
    threshold: float = 0.363
    """The cosine that OpenCV names (its tutorial DNN-based Face Detection And Recognition)."""

    def detect(self, pixels: np.ndarray) -> list[FoundFace]:
        """See `FaceEngine`."""
        return self.detector.detect(pixels)

    def crop(self, pixels: np.ndarray, face: FoundFace, side: int) -> np.ndarray:
        """See `FaceEngine`."""
        return aligned(pixels, similarity_matrix(face.points, ARCFACE_POINTS * side / TEMPLATE_PX), side)

    def embed(self, pixels: np.ndarray, face: FoundFace) -> np.ndarray:
        """See `FaceEngine`; OpenCV aligns the face by the same points."""
        left, top, right, bottom = face.box
        row = np.array([left, top, right - left, bottom - top, *face.points.flatten(), face.score], np.float32)
        return self.recogniser.feature(self.recogniser.alignCrop(_bgr(pixels), row[None]))[0]


def load_sface(folder: Path) -> SFaceEngine:
    """YuNet and SFace from a folder with OpenCV's two files.

    Raises:
        ModuleNotFoundError: If OpenCV is not installed.
        FileNotFoundError: If a file is missing.
        ValueError: If a file cannot be read.
    """
    for name in (DETECTOR_FILE, RECOGNISER_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"There is no {name} in {printable(str(folder))}: put {DETECTOR_FILE} and {RECOGNISER_FILE} there."
            )
    detector = load_yunet(folder / DETECTOR_FILE)
    with _opencv(folder / RECOGNISER_FILE) as cv2:
        return SFaceEngine(detector, cv2.FaceRecognizerSF.create(str(folder / RECOGNISER_FILE), ""))


def load_yunet(path: Path) -> YunetDetector:
    """YuNet from its file.

    Raises:
        ModuleNotFoundError: If OpenCV is not installed.
        ValueError: If the file cannot be read.
    """
    with _opencv(path) as cv2:
        sizes = (320, 320), LEAST_SCORE, OVERLAP, MOST_FACES
        return YunetDetector(cv2.FaceDetectorYN.create(str(path), "", *sizes))


@contextmanager
def _opencv(path: Path) -> Iterator[Any]:
    """OpenCV, around what it reads from a file."""
    with require_package("opencv-python-headless", "recognising faces with YuNet and SFace"):
        cv2 = import_module("cv2")
    try:
        yield cv2
    except cv2.error as error:
        reason = printable(str(error), 200)
        raise ValueError(f"{printable(str(path))} cannot be read ({reason}): fetch it again.") from error


def _bgr(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels[..., ::-1])


def _face(row: np.ndarray) -> FoundFace:
    left, top, width, height = row[:4]
    return FoundFace(np.array([left, top, left + width, top + height]), row[4:14].reshape(5, 2), float(row[14]))
