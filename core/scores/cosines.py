"""Cosines of features: within a set, between two sets, and frame by frame."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..shapes import Float


def mean_pairwise_cosine(rows: Float[Tensor, "m d"]) -> float | None:
    """The mean cosine of every two rows, in [-1, 1], computed in double precision; None if there are fewer than two."""
    count = len(rows)
    if count < 2:
        return None
    unit = F.normalize(rows.cpu().double(), dim=1)
    total = unit.sum(dim=0).square().sum() - unit.square().sum()
    return float(total / (count * (count - 1)))


def mean_cosine_between(vectors: Float[Tensor, "n d"], others: Float[Tensor, "k d"]) -> float | None:
    """The mean cosine of every row with every other one; None where either side has no rows."""
    if not len(vectors) or not len(others):
        return None
    return float(F.normalize(vectors.double(), dim=1).mean(dim=0) @ F.normalize(others.double(), dim=1).mean(dim=0))


def cosines_of_rows(vectors: Float[Tensor, "n d"], others: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """The cosine of each row with the row of the same number, in double precision."""
    return (F.normalize(vectors.cpu().double(), dim=1) * F.normalize(others.cpu().double(), dim=1)).sum(dim=1)


def cosine_matrix(features: Sequence[Float[Tensor, " d"] | None]) -> Float[Tensor, "n n"]:
    """The cosine of every two features, in double precision; NaN in the row and the column of one that is missing."""
    matrix = torch.full((len(features), len(features)), torch.nan, dtype=torch.double)
    seen = [row for row, feature in enumerate(features) if feature is not None]
    if seen:
        unit = F.normalize(torch.stack([each.cpu().double() for each in features if each is not None]), dim=1)
        rows = torch.tensor(seen)
        matrix[rows[:, None], rows] = (unit @ unit.T).clamp(-1, 1)
    return matrix


@dataclass(frozen=True)
class Likeness:
    """How alike one character's features are over the frames of a story.

    Args:
        to_others: Per frame, the mean cosine of the feature with those of the other frames; None where the frame has no
            feature, or no other frame has.
        mean: Over every two features, which is the mean of `to_others` as well; None for fewer than two.
        faces: How many features there are.
    """

    to_others: tuple[float | None, ...]
    mean: float | None
    faces: int


def likeness(faces: Sequence[Float[Tensor, " d"] | None]) -> Likeness:
    """Compare one character's faces, one unit vector per frame or None where there is no face (Face-Sim)."""
    seen = [frame for frame, face in enumerate(faces) if face is not None]
    if len(seen) < 2:
        return Likeness((None,) * len(faces), None, len(seen))
    vectors = torch.stack([face for face in faces if face is not None])
    cosines = vectors @ vectors.T
    others = (cosines.sum(dim=1) - cosines.diagonal()) / (len(seen) - 1)
    to_others: list[float | None] = [None] * len(faces)
    for frame, value in zip(seen, others.tolist(), strict=True):
        to_others[frame] = value
    return Likeness(tuple(to_others), float(others.mean()), len(seen))
