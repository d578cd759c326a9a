"""Scores as plain formulas, and how sure one may be of their means."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.shapes import Bool, Float

RESAMPLES = 10_000
LEVEL = 0.95
UNCHANGED = 0.1
"""A pixel none of whose channels (in [0, 1]) moved farther than this looks as it did."""


@dataclass(frozen=True)
class Interval:
    """A mean over `count` stories, and the ends of its confidence interval."""

    mean: float
    low: float
    high: float
    count: int


def bootstrap_interval(values: Sequence[int | float], seed: int = 0) -> Interval:
    """The mean, with the percentile bootstrap's 95 % interval over 10,000 resamples (Efron 1979).

    Raises:
        ValueError: If there are no values.
    """
    if not len(values):
        raise ValueError("There is nothing to average: no story has this value.")
    sample = np.asarray(values, np.float64)
    chosen = np.random.default_rng(seed).integers(len(sample), size=(RESAMPLES, len(sample)))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(sample[chosen].mean(axis=1), (tail, 1 - tail))
    return Interval(float(sample.mean()), float(low), float(high), len(sample))


def paired_differences(values: Sequence[float | None], others: Sequence[float | None]) -> list[float]:
    """`values - others`, story by story, where a story has both."""
    pairs = zip(values, others, strict=True)
    return [value - other for value, other in pairs if value is not None and other is not None]


def mean_cosine_between(vectors: Float[Tensor, "n d"], others: Float[Tensor, "k d"]) -> float | None:
    """The mean cosine of every row with every other one; None where either side has no rows."""
    if not len(vectors) or not len(others):
        return None
    return float(F.normalize(vectors.double(), dim=1).mean(dim=0) @ F.normalize(others.double(), dim=1).mean(dim=0))


def mean_of_known(values: Sequence[int | float | None]) -> float | None:
    """The mean of those that are there; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def psnr(
    picture: Float[Tensor, "h w 3"], reference: Float[Tensor, "h w 3"], where: Bool[Tensor, "h w"]
) -> float | None:
    """Peak signal-to-noise ratio, in dB, of the pixels of a mask; infinite where they agree, None for an empty mask."""
    if not where.any():
        return None
    error = (picture.double() - reference.double())[where].square().mean()
    return float(-10 * error.log10())


def same_share(values: Sequence[str | None]) -> float | None:
    """The share of every two values that are the same, of those that are there; None where fewer than two are."""
    known = [value for value in values if value is not None]
    pairs = [one == other for one, other in combinations(known, 2)]
    return sum(pairs) / len(pairs) if pairs else None


def varied_share(read: Sequence[str | None], true: Sequence[str]) -> float | None:
    """The share of every two values that differ, of those that are there and should differ; None where none are."""
    known = [each for each in zip(read, true, strict=True) if each[0] is not None]
    pairs = [one[0] != other[0] for one, other in combinations(known, 2) if one[1] != other[1]]
    return sum(pairs) / len(pairs) if pairs else None


def mean_difference(
    picture: Float[Tensor, "h w 3"], other: Float[Tensor, "h w 3"], where: Bool[Tensor, "h w"]
) -> float | None:
    """The mean absolute difference over the pixels of a mask and their channels; None for an empty mask."""
    return float((picture - other).abs()[where].mean()) if where.any() else None


def ghost_share(
    picture: Float[Tensor, "h w 3"],
    template: Float[Tensor, "h w 3"],
    figure: Bool[Tensor, "h w"],
    old_figure: Bool[Tensor, "h w"],
) -> float | None:
    """How much of somebody who was replaced is still there, apart from the one who took the place.

    The share of the old figure's pixels that are not the new figure's and look as they did (within `UNCHANGED`). None
    where there was no old figure.
    """
    if not old_figure.any():
        return None
    same = (picture - template).abs().amax(dim=-1) < UNCHANGED
    return float((old_figure & ~figure & same).sum() / old_figure.sum())


def seam_step(picture: Float[Tensor, "h w 3"], pasted: Bool[Tensor, "h w"]) -> float | None:
    """How much sharper a picture is across the edge of what was pasted into it than right next to that edge.

    The mean absolute step between the two pixels on either side of the edge, less the mean of the two neighbouring
    parallel steps, over all pixels along the edge: a picture whose own contours do not follow the edge has 0. It is the
    measure of blocks in compressed pictures (Wang, Bovik and Evans 2000) taken along one edge.

    Args:
        picture: In [0, 1].
        pasted: Where something else was put in; its edge should keep a pixel away from the picture's.

    Returns:
        In units of the picture, or None where there is no edge.
    """
    steps = []
    for pixels, mask in ((picture, pasted), (picture.transpose(0, 1), pasted.transpose(0, 1))):
        change = pixels.diff(dim=1).abs().mean(dim=-1)
        excess = change[:, 1:-1] - (change[:, :-2] + change[:, 2:]) / 2
        edge = mask[:, 1:] != mask[:, :-1]
        steps.append(excess[edge[:, 1:-1]])
    along = torch.cat(steps)
    return float(along.mean()) if len(along) else None
