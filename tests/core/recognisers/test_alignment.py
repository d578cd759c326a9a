"""Alignment: laws, Umeyama's formula as it is printed, and OpenCV's warp."""

import numpy as np
import pytest
from story_identity.core.recognisers.alignment import ARCFACE_POINTS, aligned, similarity_matrix


def umeyama(source, target):
    """Equations 34 to 43 of Umeyama (1991), point by point."""
    count = len(source)
    mean_x, mean_y = sum(source) / count, sum(target) / count
    variance = sum(((x - mean_x) ** 2).sum() for x in source) / count
    covariance = sum(np.outer(y - mean_y, x - mean_x) for x, y in zip(source, target, strict=True)) / count
    u, d, vt = np.linalg.svd(covariance)
    s = np.eye(2)
    if np.linalg.det(u) * np.linalg.det(vt) < 0:
        s[1, 1] = -1
    rotation = u @ s @ vt
    scale = np.trace(np.diag(d) @ s) / variance
    return np.column_stack([scale * rotation, mean_y - scale * rotation @ mean_x])


def turned(points, angle, scale, shift):
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * points @ rotation.T + shift


@pytest.mark.parametrize("seed", range(20))
def test_the_matrix_is_umeyamas(seed):
    random = np.random.default_rng(seed)
    points = random.normal(size=(5, 2)) * 40 + random.normal(size=2) * 200
    assert np.allclose(similarity_matrix(points, ARCFACE_POINTS), umeyama(points, ARCFACE_POINTS), atol=1e-9)


@pytest.mark.parametrize(("angle", "scale"), [(0.0, 1.0), (0.5, 2.0), (-2.0, 0.3), (3.1, 7.0)])
def test_a_turned_face_is_brought_back_exactly(angle, scale):
    points = turned(ARCFACE_POINTS, angle, scale, (31, -7))
    matrix = similarity_matrix(points, ARCFACE_POINTS)
    assert np.allclose(points @ matrix[:, :2].T + matrix[:, 2], ARCFACE_POINTS)
    assert np.linalg.det(matrix[:, :2]) == pytest.approx(scale**-2)


def test_a_mirrored_face_is_not_mirrored_back():
    matrix = similarity_matrix(ARCFACE_POINTS * (-1, 1), ARCFACE_POINTS)
    assert np.linalg.det(matrix[:, :2]) > 0


def test_whole_shifts_copy_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    crop = aligned(pixels, np.array([[1.0, 0, -6], [0, 1, -9]]), 16)
    assert np.array_equal(crop, pixels[9:25, 6:22])
    beyond = aligned(pixels, np.array([[1.0, 0, 20], [0, 1, 0]]), 16)
    assert not beyond.any()


def test_the_crop_is_opencvs_up_to_a_level():
    cv2 = pytest.importorskip("cv2", exc_type=ImportError)
    smooth = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8), (0, 0), 3)
    matrix = similarity_matrix(turned(ARCFACE_POINTS, 0.4, 0.6, (20, 5)), ARCFACE_POINTS)
    expected = cv2.warpAffine(smooth, matrix, (112, 112))
    difference = np.abs(aligned(smooth, matrix, 112).astype(int) - expected.astype(int))
    assert difference.max() <= 3
    assert difference.mean() < 0.5
