"""Face recognisers for photographs: four engines behind `core.detectors.faces.FaceEngine`.

| engine | packages | licence of the weights | usual threshold (cosine) |
|---|---|---|---|
| sface | opencv-python-headless | MIT and Apache-2.0 | 0.363, OpenCV's |
| auraface | onnxruntime, opencv-python-headless | Apache-2.0 and MIT | 0.4, as for other ArcFace networks |
| dlib | dlib-bin, face-recognition-models (with the weights) | CC0 | 0.92, from dlib's distance of 0.6 |
| insightface | insightface, onnxruntime | non-commercial research only | 0.4, usual for buffalo_l |

Nothing is imported before an engine is loaded, and nothing is downloaded. Cosines of two engines are not comparable:
dlib's of two people are about 0.84, the others' about 0.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..detectors.faces import FaceRecogniser, load_face_recogniser
from ..quoting import quote


@dataclass(frozen=True)
class Engine:
    """How an engine is loaded.

    Args:
        load: A folder to the recogniser; None for what its packages hold.
        folder: Where ComfyUI has its files, under models/; empty if they come in a package.
        files: What must be in that folder.
        commercial: Whether the weights may be used for more than research.
    """

    load: Callable[[Path | None], FaceRecogniser]
    folder: str
    files: tuple[str, ...]
    commercial: bool = True


def _sface(folder: Path | None) -> FaceRecogniser:
    from .sface import load_sface

    return FaceRecogniser(load_sface(_needed(folder, "sface")))


def _auraface(folder: Path | None) -> FaceRecogniser:
    from .auraface import load_auraface

    return FaceRecogniser(load_auraface(_needed(folder, "auraface")))


def _dlib(folder: Path | None) -> FaceRecogniser:
    from .dlib_engine import load_dlib

    return FaceRecogniser(load_dlib(folder))


def _insightface(folder: Path | None) -> FaceRecogniser:
    return load_face_recogniser(_needed(folder, "insightface"))


ENGINES: Mapping[str, Engine] = {
    "sface": Engine(
        _sface, "face_recognition", ("face_detection_yunet_2023mar.onnx", "face_recognition_sface_2021dec.onnx")
    ),
    "auraface": Engine(_auraface, "face_recognition", ("face_detection_yunet_2023mar.onnx", "glintr100.onnx")),
    "dlib": Engine(_dlib, "", ()),
    "insightface": Engine(_insightface, "insightface/models/buffalo_l", (), commercial=False),
}


def load_recogniser(engine: str, folder: Path | None = None) -> FaceRecogniser:
    """A face recogniser with its weights, on the CPU.

    Args:
        engine: One of `ENGINES`.
        folder: Where its files are. dlib's come with its package.

    Raises:
        ModuleNotFoundError: If a package is missing; one sentence says how to install it.
        FileNotFoundError: If a file is missing.
        ValueError: If there is no such engine, no folder where one is needed, or a file cannot be read.
    """
    if engine not in ENGINES:
        raise ValueError(f"There is no face recogniser {quote(engine)}; there are {', '.join(ENGINES)}.")
    return ENGINES[engine].load(folder)


def _needed(folder: Path | None, engine: str) -> Path:
    if folder is None:
        files = " and ".join(ENGINES[engine].files) or "its .onnx files"
        raise ValueError(f"The face recogniser {engine} needs the folder that has {files}.")
    return folder
