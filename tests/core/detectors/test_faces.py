"""The way to and from insightface, with a stand-in for its package: its models are not ours to ship."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from story_identity.core.detectors.faces import CROP_PX, load_face_recogniser

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def picture(*boxes, height=41, width=67) -> torch.Tensor:
    """Black, with (colour, top, left, side) squares, which the stand-in takes for faces."""
    image = torch.zeros(height, width, 3)
    for colour, top, left, side in boxes:
        image[top : top + side, left : left + side] = torch.tensor(colour)
    return image


class Analysis:
    """Sees squares of one colour that do not touch the border; the embedding says which colour it saw, in BGR."""

    made: dict = {}
    models: dict = {"detection": 1, "recognition": 1}

    def __init__(self, **options):
        Analysis.made = options
        assert "detection" in self.models

    def prepare(self, **options):
        Analysis.made |= options

    def get(self, bgr):
        assert bgr.dtype == np.uint8
        assert bgr.flags["C_CONTIGUOUS"]
        found = []
        for channel in range(3):
            rows, columns = np.nonzero(bgr[..., channel])
            if len(rows) and 0 < rows.min() and rows.max() + 1 < bgr.shape[0]:
                box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                embedding = 4 * np.eye(3)[channel]
                found.append(types.SimpleNamespace(bbox=box, kps=box, embedding=embedding))
        return found


def align(bgr, box, side):
    left, top, right, bottom = box
    face = bgr[top:bottom, left:right]
    return np.resize(face[:1, :1], (side, side, 3))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(Analysis, "models", {"detection": 1, "recognition": 1})
    package = types.ModuleType("insightface")
    package.__path__ = []  # type: ignore[attr-defined]
    app, utils, face_align = (types.ModuleType(f"insightface.{name}") for name in ("app", "utils", "utils.face_align"))
    app.FaceAnalysis, face_align.norm_crop = Analysis, align  # type: ignore[attr-defined]
    for module in (package, app, utils, face_align):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    models = tmp_path / "models" / "buffalo_l"
    models.mkdir(parents=True)
    (models / "det.onnx").touch()
    return models


def test_the_largest_face_is_found_in_its_colours_and_measured(folder):
    recogniser = load_face_recogniser(folder)
    found = recogniser.find(picture((RED, 5, 3, 9), (BLUE, 12, 30, 14)))
    assert found is not None
    assert found.embedding.tolist() == [1.0, 0.0, 0.0]  # the stand-in's vector for blue, its first channel
    assert found.crop.shape == (CROP_PX, CROP_PX, 3)
    assert torch.equal(found.crop, torch.tensor(BLUE).expand(CROP_PX, CROP_PX, 3))


def test_a_face_that_fills_the_picture_is_found_with_a_border(folder):
    recogniser = load_face_recogniser(folder)
    found = recogniser.find(picture((RED, 0, 0, 41), width=41))
    assert found is not None
    assert torch.equal(found.crop[0, 0], torch.tensor(RED))
    assert recogniser.find(picture()) is None


def test_a_mask_says_whose_face_is_wanted(folder):
    recogniser = load_face_recogniser(folder)
    both, masks = picture((RED, 5, 3, 9), (BLUE, 12, 30, 14)), torch.zeros(3, 41, 67, dtype=torch.bool)
    masks[0, :, :20], masks[1, :, 20:] = True, True
    found = recogniser.find_all([both] * 3, list(masks))
    assert [None if face is None else face.embedding.tolist() for face in found] == [[0, 0, 1], [1, 0, 0], None]
    filling = picture((RED, 0, 0, 41), width=41)
    middle = torch.zeros(41, 41, dtype=torch.bool)
    middle[20, 20] = True  # found in the picture with the border, but counted in the picture's own pixels
    assert recogniser.find(filling, middle) is not None
    assert recogniser.find(filling, ~middle) is None


def test_only_what_is_needed_is_loaded_and_on_the_cpu(folder):
    load_face_recogniser(folder)
    assert Analysis.made["name"] == "buffalo_l"
    assert Path(Analysis.made["root"]) == folder.parents[1]
    assert Analysis.made["allowed_modules"] == ["detection", "recognition"]
    assert Analysis.made["providers"] == ["CPUExecutionProvider"]


def test_nothing_is_asked_of_insightface_where_it_would_download(folder):
    Analysis.made = {}
    (folder / "det.onnx").unlink()
    with pytest.raises(FileNotFoundError, match="There are no .onnx files in .*buffalo_l"):
        load_face_recogniser(folder)
    assert Analysis.made == {}


@pytest.mark.parametrize(("models", "what"), [({"recognition": 1}, "find"), ({"detection": 1}, "recognise")])
def test_half_a_set_of_models_is_refused(folder, monkeypatch, models, what):
    monkeypatch.setattr(Analysis, "models", models)
    with pytest.raises(ValueError, match=f"do not {what} faces. Put all .onnx files"):
        load_face_recogniser(folder)


def test_a_damaged_model_is_refused_with_its_folder(folder, monkeypatch):
    class Damaged(Analysis):
        def __init__(self, **options):
            raise Exception("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF\n Protobuf parsing failed.")

    monkeypatch.setattr(sys.modules["insightface.app"], "FaceAnalysis", Damaged)
    with pytest.raises(ValueError, match="A model in .*buffalo_l cannot be read .*INVALID_PROTOBUF") as caught:
        load_face_recogniser(folder)
    assert str(caught.value).isprintable()


def test_a_missing_package_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "insightface.app", None)
    with pytest.raises(ModuleNotFoundError, match="recognising faces needs: run pip install insightface onnxruntime"):
        load_face_recogniser(folder)
