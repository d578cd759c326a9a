"""The mask schedule of one 1024 x 1024 frame: one distance transform against a binary dilation per step.

Run from the repository: `make bench`, or `python -m story_identity.lab.bench.masks`. Both do the same work (two
characters, 50 steps from step 10, kernel 50) in one run, so their ratio can be compared, and their masks must agree.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage

from ...core.layout import exclusive_masks, subtract_smaller_first
from ...core.redenoise import ProgressiveMasks

SIDE, STEPS, START, KERNEL = 1024, 50, 10, 50


def people() -> torch.Tensor:
    """Two ragged figures, as a segmenter gives them."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    rough = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(SIDE, SIDE)), 12) * 6
    figures = [((rows - y) / 300) ** 2 + ((columns - x) / 120) ** 2 + rough < 1 for y, x in ((600, 340), (560, 700))]
    return exclusive_masks(torch.from_numpy(np.stack(figures)))


def by_distance(masks: torch.Tensor) -> list[torch.Tensor]:
    schedule = ProgressiveMasks(masks, STEPS, START, KERNEL)
    return [schedule.at(step) for step in range(START, STEPS)]


def by_dilation(masks: torch.Tensor) -> list[torch.Tensor]:
    schedule = ProgressiveMasks(masks, STEPS, START, KERNEL)
    result = []
    for step in range(START, STEPS):
        side = 2 * schedule.kernel(step) + 1
        square = np.ones((side, side), dtype=bool)
        grown = [torch.from_numpy(ndimage.binary_dilation(mask.numpy(), structure=square)) for mask in masks]
        result.append(subtract_smaller_first(torch.stack(grown)))
    return result


def timed(work: Callable[[torch.Tensor], list[torch.Tensor]], masks: torch.Tensor) -> tuple[float, list[torch.Tensor]]:
    start = time.perf_counter()
    result = work(masks)
    return time.perf_counter() - start, result


def main() -> None:
    masks = people()
    timed(by_distance, masks)  # warm up
    ours, grown = timed(by_distance, masks)
    theirs, expected = timed(by_dilation, masks)
    same = all(torch.equal(a, b) for a, b in zip(grown, expected, strict=True))
    print(f"{STEPS - START} steps, {len(masks)} characters, {SIDE} x {SIDE}; same masks: {same}")
    print(f"one distance transform  {ours:8.2f} s")
    print(f"a dilation per step     {theirs:8.2f} s")
    print(f"ratio                   {theirs / ours:8.1f}")


if __name__ == "__main__":
    main()
