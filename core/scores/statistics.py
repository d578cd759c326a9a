"""Means of what could be measured, and how sure one may be of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..shapes import Float

RESAMPLES = 10_000
LEVEL = 0.95
FEWEST_FRAMES = 3
"""With fewer features there is at most one pair, and nothing to say how much it varies."""


@dataclass(frozen=True)
class Interval:
    """A mean over `count` stories or frames, and the ends of its confidence interval."""

    mean: float
    low: float
    high: float
    count: int


def bootstrap_interval(values: Sequence[int | float], seed: int | np.random.Generator = 0) -> Interval:
    """The mean, with the percentile bootstrap's 95 % interval over 10,000 resamples (Efron 1979).

    Args:
        values: One of each story, or of each frame.
        seed: Of the resamples, or the generator that draws them.

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


def bootstrap_pairs(
    matrices: Sequence[Float[Tensor, "n n"]], seed: int | np.random.Generator = 0, resamples: int = RESAMPLES
) -> Interval | None:
    """The mean over every two frames of one story, with a bootstrap interval over its frames.

    Pairs that share a frame vary together, so frames are drawn, not pairs, and with a frame everybody in it. Two draws
    of one frame make no pair: its cosine with itself is 1 whatever was drawn. A resample that leaves nobody a pair does
    not count.

    Args:
        matrices: Per character, the cosines of every two of the story's frames; NaN where a frame has no feature.
        seed: Of the resamples, or the generator that draws them.
        resamples: How many.

    Returns:
        The mean over the characters of each one's mean over pairs; None where nobody has a pair. `count` is the number
        of frames that are part of a pair. Where they are fewer than three, both ends are the mean.
    """
    if not len(matrices):
        return None
    cosines = torch.stack(list(matrices)).numpy()
    known = ~np.isnan(cosines) & ~np.eye(cosines.shape[1], dtype=bool)
    cosines, weights = np.where(known, cosines, 0.0), known.astype(np.float64)

    def totals(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _pair_sums(times, cosines), _pair_sums(times, weights)

    return _resampled(totals, np.asarray(known.any(axis=(0, 1))), seed, resamples)


def bootstrap_frames(
    values: Float[Tensor, "c n"], seed: int | np.random.Generator = 0, pooled: bool = False, resamples: int = RESAMPLES
) -> Interval | None:
    """The mean over the frames of one story, with a bootstrap interval over its frames.

    Args:
        values: Per character and frame; NaN where there is none.
        seed: Of the resamples, or the generator that draws them.
        pooled: The mean over all values, in place of the mean over the characters of each one's mean.
        resamples: How many.

    Returns:
        None where there are no values. `count` is the number of frames that have one; where they are fewer than three,
        both ends are the mean.
    """
    known = ~values.isnan().numpy()
    numbers, weights = np.where(known, values.numpy(), 0.0), known.astype(np.float64)

    def totals(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sums, counts = numbers @ times.T, weights @ times.T
        return (sums.sum(axis=0, keepdims=True), counts.sum(axis=0, keepdims=True)) if pooled else (sums, counts)

    return _resampled(totals, np.asarray(known.any(axis=0)), seed, resamples)


def _resampled(
    totals: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    used: np.ndarray,
    seed: int | np.random.Generator,
    resamples: int,
) -> Interval | None:
    """The mean over groups of their means, and its interval over frames.

    Args:
        totals: How often each frame counts, (r n), to the sum of each group and what it is divided by, both (g r).
        used: Which frames have anything, (n).
        seed: Of the resamples, or the generator that draws them.
        resamples: How many.
    """
    frames, size = int(used.sum()), len(used)
    if not frames:
        return None
    mean = float(_mean_of_groups(*totals(np.ones((1, size))))[0])
    if frames < FEWEST_FRAMES:
        return Interval(mean, mean, mean, frames)
    times = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=resamples)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(_mean_of_groups(*totals(times.astype(np.float64))), (tail, 1 - tail))
    return Interval(mean, float(low), float(high), frames)


def _pair_sums(times: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """The sum of every matrix over all pairs of draws, (g r)."""
    return np.stack([((times @ each) * times).sum(axis=1) for each in matrices])


def _mean_of_groups(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Per resample, the mean over the groups that have anything; resamples in which none has are left out."""
    groups = (counts > 0).sum(axis=0)
    means = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0).sum(axis=0)
    return means[groups > 0] / groups[groups > 0]


def paired_differences(values: Sequence[float | None], others: Sequence[float | None]) -> list[float]:
    """`values - others`, story by story, where a story has both."""
    pairs = zip(values, others, strict=True)
    return [value - other for value, other in pairs if value is not None and other is not None]


def mean_of_known(values: Sequence[int | float | None]) -> float | None:
    """The mean of those that are there; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
