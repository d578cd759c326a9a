"""Turning faces upright: the similarity that brings five points nearest to a template, and the picture under it."""

import numpy as np
import torch
from torch.nn import functional as F

TEMPLATE_PX = 112
ARCFACE_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Where ArcFace's models expect the eyes, the tip of the nose and the corners of the mouth, left to right in the
picture, in a crop of 112 pixels (Deng et al. 2019, arXiv:1801.07698; the numbers are those of its published code)."""


def similarity_matrix(points: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Rotation, uniform scale and shift of least squares that bring points to a template (Umeyama 1991, eq. 40-42).

    Args:
        points: (n 2), x y, not all in one place.
        template: (n 2).

    Returns:
        (2 3) float64, which maps x y 1. It never mirrors.
    """
    points, template = np.asarray(points, np.float64), np.asarray(template, np.float64)
    middle, target = points.mean(axis=0), template.mean(axis=0)
    own, wanted = points - middle, template - target
    left, sizes, right = np.linalg.svd(wanted.T @ own / len(own))
    signs = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    rotation = left @ np.diag(signs) @ right
    scale = (sizes * signs).sum() / own.var(axis=0).sum()
    return np.column_stack([scale * rotation, target - scale * rotation @ middle])


def aligned(pixels: np.ndarray, matrix: np.ndarray, side: int) -> np.ndarray:
    """The square crop that a matrix makes of a picture; bilinear, black beyond the picture, as cv2.warpAffine.

    Args:
        pixels: (h w 3), 8-bit.
        matrix: (2 3), from pixels of the picture to those of the crop.
        side: Of the crop, in pixels.

    Returns:
        (side side 3), 8-bit.
    """
    height, width = pixels.shape[:2]
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    columns, rows = np.meshgrid(np.arange(side), np.arange(side))
    places = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ back.T
    grid = torch.from_numpy((2 * places + 1) / (width, height) - 1)[None]
    source = torch.from_numpy(np.ascontiguousarray(pixels)).movedim(-1, 0).double()[None]
    crop = F.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
    return crop.movedim(0, -1).round().clamp(0, 255).byte().numpy()
