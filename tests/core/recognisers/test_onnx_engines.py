"""SFace and AuraFace with stand-in onnx files of the layouts of the published ones, through the real packages."""

import sys

import numpy as np
import pytest
import torch
from story_identity.core.detectors.faces import CROP_PX, FaceEngine, FoundFace, Recogniser
from story_identity.core.recognisers import ENGINES, load_recogniser
from story_identity.core.recognisers.alignment import ARCFACE_POINTS, aligned, similarity_matrix
from story_identity.core.recognisers.auraface import ScrfdDetector
from story_identity.core.recognisers.sface import YunetDetector

from tests.closeness import assert_close

onnx = pytest.importorskip("onnx")
from tests.stand_ins import face_models  # noqa: E402

PACKAGES = {"sface": "cv2", "auraface": "onnxruntime", "auraface with SCRFD": "onnxruntime"}
FILES = {
    "sface": ("face_detection_yunet_2023mar.onnx", "face_recognition_sface_2021dec.onnx"),
    "auraface": ("face_detection_yunet_2023mar.onnx", "glintr100.onnx"),
    "auraface with SCRFD": ("scrfd_10g_bnkps.onnx", "glintr100.onnx"),
}
WIDTHS = {"sface": 128, "auraface": 512}


def write_files(kind, folder):
    for package in {"cv2", PACKAGES[kind]}:
        pytest.importorskip(package, exc_type=ImportError)
    detector, recogniser = FILES[kind]
    write = face_models.write_scrfd if "scrfd" in detector else face_models.write_yunet
    write(folder / detector)
    face_models.write_recogniser(folder / recogniser, WIDTHS[kind.split()[0]])


@pytest.fixture(params=list(FILES))
def kind(request):
    return request.param


@pytest.fixture
def engine(kind, tmp_path):
    write_files(kind, tmp_path)
    return load_recogniser(kind.split()[0], tmp_path)


def shown(pixels):
    return torch.from_numpy(pixels).float() / 255


def grid_picture(engine, *faces):
    """A picture whose grid the detector sees unscaled; SCRFD scales pictures to 640 pixels."""
    side = 640 if isinstance(engine.engine.detector, ScrfdDetector) else 160
    return face_models.picture(*faces, height=side, width=side)


def test_the_protocols_are_kept(engine):
    assert isinstance(engine, Recogniser)
    assert isinstance(engine.engine, FaceEngine)
    assert engine.width == WIDTHS[engine.name]
    assert 0 < engine.threshold < 1


def test_boxes_and_points_are_in_pixels_of_the_picture(engine):
    found = engine.engine.detect(grid_picture(engine, (1, 2), (3, 0)))
    found.sort(key=lambda face: face.box[1])
    assert len(found) == 2
    for face, (row, column) in zip(found, [(1, 2), (3, 0)], strict=True):
        corner = np.array([32 * column, 32 * row])
        assert np.allclose(face.box, [*corner, *(corner + 32)], atol=1e-3)
        assert np.allclose(face.points, corner + 32 * face_models.POINTS, atol=1e-3)
        assert face.score > 0.8
    assert engine.engine.detect(grid_picture(engine)) == []


def test_scrfd_sees_large_pictures_at_640_pixels(tmp_path):
    pytest.importorskip("onnxruntime")
    face_models.write_scrfd(tmp_path / "scrfd_10g_bnkps.onnx")
    face_models.write_recogniser(tmp_path / "glintr100.onnx", 512)
    engine = load_recogniser("auraface", tmp_path).engine
    small = face_models.picture((1, 2), height=640, width=320).repeat(2, axis=0).repeat(2, axis=1)  # 1280 x 640
    (face,) = engine.detect(small)
    assert np.allclose(face.box, [128, 64, 192, 128], atol=1e-3)
    assert np.allclose(face.points, [128, 64] + 64 * face_models.POINTS, atol=1e-3)


def test_the_embedding_is_that_of_the_aligned_crop(engine):
    pixels = grid_picture(engine, (1, 2))
    pixels[40:50, 70:80] = (10, 200, 90)
    pixels[44:56, 84:90] = (250, 240, 0)
    corner = np.array([64.0, 32.0])
    face = FoundFace(np.concatenate([corner, corner + 32]), corner + 32 * face_models.POINTS.astype(np.float64), 0.9)
    found = engine.engine.embed(pixels, face)
    chip = aligned(pixels, similarity_matrix(face.points, ARCFACE_POINTS), 112).astype(np.float64)
    given = chip if engine.name == "sface" else (chip - 127.5) / 127.5
    weights = np.random.default_rng(0).normal(size=(3 * 7 * 7, engine.width)) / 100
    means = given.reshape(7, 16, 7, 16, 3).mean(axis=(1, 3)).transpose(2, 0, 1).reshape(-1)
    cosine = found @ (means @ weights) / np.linalg.norm(found) / np.linalg.norm(means @ weights)
    assert cosine > 0.9999


def test_find_gives_unit_vectors_and_the_face_of_the_mask(engine):
    pixels = grid_picture(engine, (1, 1), (1, 3))
    pixels[52:56, 112:118] = (60, 60, 250)  # the second face has something of its own, small enough to stay a face
    mask = torch.zeros(pixels.shape[:2], dtype=torch.bool)
    mask[:, 90:] = True
    first, second = engine.find_all([shown(pixels)] * 2, [~mask, mask])
    assert first is not None
    assert second is not None
    assert first.crop.shape == (CROP_PX, CROP_PX, 3)
    for face in (first, second):
        assert_close(face.embedding.norm(), torch.tensor(1.0))
    assert float(first.embedding @ second.embedding) < 0.9999
    again = engine.find(shown(pixels), ~mask)
    assert_close(again.embedding, first.embedding)
    assert engine.find(shown(pixels), torch.zeros_like(mask)) is None
    assert engine.find(shown(grid_picture(engine))) is None


def test_missing_files_and_packages_are_named(kind, engine, tmp_path, monkeypatch):
    wanted = " and ".join(ENGINES[engine.name].files)
    with pytest.raises(ValueError, match=f"{engine.name} needs the folder that has {wanted}"):
        load_recogniser(engine.name)
    monkeypatch.setitem(sys.modules, PACKAGES[kind], None)
    with pytest.raises(ModuleNotFoundError, match="recognising faces with .* needs: run pip install"):
        load_recogniser(engine.name, tmp_path)
    (tmp_path / FILES[kind][1]).unlink()
    with pytest.raises(FileNotFoundError, match=f"There is no {FILES[kind][1]} in .*: put "):
        load_recogniser(engine.name, tmp_path)


@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_file_is_named(kind, engine, tmp_path, which):
    (tmp_path / FILES[kind][which]).write_bytes(b"<html>not here</html>")
    with pytest.raises(ValueError, match=f"{FILES[kind][which]} cannot be read .*: fetch it again"):
        load_recogniser(engine.name, tmp_path)


def test_where_both_detectors_are_the_free_one_is_used(tmp_path):
    for kind in ("auraface", "auraface with SCRFD"):
        write_files(kind, tmp_path)
    assert isinstance(load_recogniser("auraface", tmp_path).engine.detector, YunetDetector)


def test_files_of_another_layout_are_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    face_models.write_recogniser(tmp_path / "scrfd_10g_bnkps.onnx", 5)
    face_models.write_recogniser(tmp_path / "glintr100.onnx", 512)
    with pytest.raises(ValueError, match="has 1 outputs; SCRFD with points has 9"):
        load_recogniser("auraface", tmp_path)
    face_models.write_scrfd(tmp_path / "glintr100.onnx")
    with pytest.raises(ValueError, match="is no network of ArcFace"):
        load_recogniser("auraface", tmp_path)


def test_an_engine_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match='There is no face recogniser "facenet"; there are sface, auraface, dlib'):
        load_recogniser("facenet")


@pytest.mark.filterwarnings("ignore")  # of what insightface imports
def test_scrfd_and_the_alignment_are_those_of_the_package_insightface(tmp_path):
    """Where the package is installed, which the tests' environment leaves out: it brings 600 MB along."""
    pytest.importorskip("insightface", exc_type=ImportError)
    folder = tmp_path / "models" / "tiny"
    folder.mkdir(parents=True)
    write_files("auraface with SCRFD", folder)
    pixels = face_models.picture((1, 2), (5, 9), height=640, width=640)
    pixels[44:52, 72:80] = (200, 30, 60)
    ours, theirs = (load_recogniser(engine, folder) for engine in ("auraface", "insightface"))
    own, expected = (sorted(each.engine.detect(pixels), key=lambda face: face.box[1]) for each in (ours, theirs))
    assert len(own) == len(expected) == 2
    for face, other in zip(own, expected, strict=True):
        assert np.allclose(face.box, other.box, atol=1e-3)
        assert np.allclose(face.points, other.points, atol=1e-3)
    found, wanted = ours.find(shown(pixels)), theirs.find(shown(pixels))
    assert float((found.crop - wanted.crop).abs().max()) < 1.5 / 255
    assert float(found.embedding @ wanted.embedding) > 0.9999
