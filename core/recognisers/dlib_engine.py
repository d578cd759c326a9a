"""Face recognition by dlib (King 2009): detector, five points and a recogniser whose weights come in a package.

The packages dlib-bin and face-recognition-models hold all of it. The recogniser's weights and the five-point model are
in the public domain (CC0); the package's model of 68 points is not free for commercial use, and is not read.
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..detectors.faces import FoundFace
from ..detectors.files import require_package
from ..quoting import printable
from .alignment import aligned, similarity_matrix

PACKAGES = "dlib-bin face-recognition-models"
POINTS_FILE = "shape_predictor_5_face_landmarks.dat"
RECOGNISER_FILE = "dlib_face_recognition_resnet_model_v1.dat"
LONGEST_SIDE = 1024
"""Larger pictures are searched at this size. dlib's detector sees faces of 40 pixels and more of it."""
CHIP_PX, PADDING = 150, 0.25
"""The crop that dlib's recogniser takes."""
_MEAN_POINTS = np.array([
    [0.8595674595992, 0.2134981538014],
    [0.6460604764104, 0.2289674387677],
    [0.1205750620789, 0.2137274526848],
    [0.3340850613712, 0.2290642403242],
    [0.4901123135679, 0.6277975316475],
])  # fmt: skip
"""dlib's mean face: outer and inner corner of the eye on the right, the same on the left, and under the nose, as shares
of the face's square."""
_UPSAMPLINGS = 1


@dataclass(frozen=True)
class DlibEngine:
    """dlib behind `FaceEngine`. Its five points: corners of the eyes, and under the nose.

    Args:
        detector: dlib's detector of frontal faces.
        shape: dlib's predictor of five points.
        recogniser: dlib's face_recognition_model_v1.
        dlib: The package.
    """

    detector: Any
    shape: Any
    recogniser: Any
    dlib: Any
    name: str = "dlib"
    width: int = 128
    threshold: float = 0.92
    """dlib's own is a distance of 0.6. Its descriptors are 1.35 to 1.6 long; at 1.5 that is a cosine of 0.92."""

    def detect(self, pixels: np.ndarray) -> list[FoundFace]:
        """See `FaceEngine`."""
        scale = max(1.0, *(side / LONGEST_SIDE for side in pixels.shape[:2]))
        seen = pixels if scale == 1.0 else _smaller(pixels, scale)
        boxes, scores, _ = self.detector.run(seen, _UPSAMPLINGS, 0.0)
        return [self._found(pixels, box, score, scale) for box, score in zip(boxes, scores, strict=True)]

    def _found(self, pixels: np.ndarray, box: Any, score: float, scale: float) -> FoundFace:
        corners = np.array([box.left(), box.top(), box.right() + 1, box.bottom() + 1]) * scale
        shape = self.shape(pixels, self.dlib.rectangle(*(round(each) for each in corners - (0, 0, 1, 1))))
        points = np.array([(point.x, point.y) for point in shape.parts()], np.float64)
        return FoundFace(corners, points, float(score))

    def crop(self, pixels: np.ndarray, face: FoundFace, side: int) -> np.ndarray:
        """See `FaceEngine`."""
        return aligned(pixels, similarity_matrix(face.points, template(side)), side)

    def embed(self, pixels: np.ndarray, face: FoundFace) -> np.ndarray:
        """See `FaceEngine`; dlib aligns the face by the same points."""
        left, top, right, bottom = (round(float(each)) for each in face.box)
        points = [self.dlib.point(int(x), int(y)) for x, y in face.points]
        shape = self.dlib.full_object_detection(self.dlib.rectangle(left, top, right - 1, bottom - 1), points)
        return np.array(self.recogniser.compute_face_descriptor(pixels, shape), np.float32)


def template(side: int) -> np.ndarray:
    """Where dlib puts the five points in its square crop."""
    return (PADDING + _MEAN_POINTS) / (2 * PADDING + 1) * side


def package_folder() -> Path | None:
    """Where the package face-recognition-models has its files; None where it is not installed."""
    found = find_spec("face_recognition_models")  # not imported: it needs pkg_resources, which setuptools gave up
    return None if found is None or found.origin is None else Path(found.origin).parent / "models"


def load_dlib(folder: Path | None = None) -> DlibEngine:
    """The engine with its models.

    Args:
        folder: With `POINTS_FILE` and `RECOGNISER_FILE`; None for those of the package face-recognition-models.

    Raises:
        ModuleNotFoundError: If dlib, or the package of its models, is not installed.
        FileNotFoundError: If a file is missing.
        ValueError: If a file cannot be read.
    """
    with require_package(PACKAGES, "recognising faces with dlib"):
        dlib = import_module("dlib")

        folder = folder or package_folder()
        if folder is None:
            raise ModuleNotFoundError("face-recognition-models", name="face-recognition-models")
    for name in (POINTS_FILE, RECOGNISER_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"There is no {name} in {printable(str(folder))}, which recognising with dlib needs."
            )
    try:
        shape = dlib.shape_predictor(str(folder / POINTS_FILE))
        recogniser = dlib.face_recognition_model_v1(str(folder / RECOGNISER_FILE))
    except RuntimeError as error:
        raise ValueError(
            f"A file of dlib in {printable(str(folder))} cannot be read: {printable(str(error))}."
        ) from error
    return DlibEngine(dlib.get_frontal_face_detector(), shape, recogniser, dlib)


def _smaller(pixels: np.ndarray, scale: float) -> np.ndarray:
    from PIL import Image

    height, width = pixels.shape[:2]
    size = max(1, round(width / scale)), max(1, round(height / scale))
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
