"""Finding a frame's characters in a picture, with any detector (IdentityStory, equation 5)."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .detectors import Detections
from .layout import Layout, exclusive_masks
from .quoting import quote, quote_all
from .shapes import Bool, Float

Find = Callable[[Tensor, str], Detections]
Segment = Callable[[Tensor, Tensor], Tensor]

SAME = 0.8
"""Boxes that overlap more than this (intersection over union) are one thing."""


def find_layout(
    find: Find,
    segment: Segment,
    image: Float[Tensor, "h w 3"],
    wanted: Sequence[tuple[str, str]],
    label: str,
    *,
    box_threshold: int | float,
    text_threshold: int | float,
    dilate_px: int,
    skip_missing: bool,
) -> Layout:
    """Boxes for each distinct word, one mask per box, then exclusive masks.

    Args:
        find: All candidates for a word in the picture, as `BoxDetector.find`.
        segment: One mask per box, as `MaskSegmenter.segment`.
        image: The decoded template, in [0, 1].
        wanted: Name and class word of each character to find, in the order in which the prompt names them.
        label: What messages call the frame.
        box_threshold: Least score of a box.
        text_threshold: Least score of the word itself.
        dilate_px: Half-width of the square by which masks grow, in pixels.
        skip_missing: Give a character who is not found an empty mask, which leaves them as they were drawn.

    Raises:
        ValueError: If a character is not found and `skip_missing` is off; it names the frame, the word, the best score
            and the thresholds.
    """
    words = list(dict.fromkeys(word.lower() for _, word in wanted))
    sought = [[name for name, own in wanted if own.lower() == word] for word in words]
    candidates = [find(image, word) for word in words]
    good = [(each.scores > box_threshold) & (each.text_scores > text_threshold) for each in candidates]
    boxes: dict[str, Tensor] = {}
    usable = [(each.boxes[keep], each.scores[keep]) for each, keep in zip(candidates, good, strict=True)]
    assigned = assign_boxes(usable, [len(names) for names in sought])
    for word, names, seen, found in zip(words, sought, candidates, assigned, strict=True):
        if len(found) < len(names) and not skip_missing:
            best = f"{float(seen.scores.max()):.2f}" if len(seen.scores) else "none"
            raise ValueError(
                f"{label}: found {len(found)} of {len(names)} {quote(word)} ({quote_all(names)}). The best score was "
                f"{best}, box_threshold is {box_threshold:.2f} and text_threshold {text_threshold:.2f}. Lower the "
                "thresholds, change the seed, or set on_missing to skip, which leaves them as they were drawn."
            )
        boxes.update(zip(names, found, strict=False))
    masks = exclusive_masks(_segment(segment, image, wanted, boxes), dilate_px)
    for (name, _), mask in zip(wanted, masks, strict=True):
        if name in boxes and not mask.any() and not skip_missing:
            raise ValueError(
                f"{label}: the mask of {quote(name)} is empty, or another character covers it. Give masks by hand "
                "(Layout from Masks in ComfyUI), change the seed, or set on_missing to skip."
            )
    return Layout(tuple(name for name, _ in wanted), masks, label)


def assign_boxes(candidates: Sequence[tuple[Tensor, Tensor]], counts: Sequence[int]) -> list[Tensor]:
    """Choose the boxes of every word so that no two characters get the same figure.

    As many figures as possible are given out; among the ways to do so, the one whose scores have the largest product
    wins. Where words do not contest a figure, that is the best-scoring boxes of each word, as published. A word's boxes
    come ordered left to right by their centres, so that they match its characters in the order in which the prompt
    names them. (The published code takes them in order of score.)

    Args:
        candidates: Boxes `(n, 4)` and scores `(n,)` in (0, 1] of every word.
        counts: How many characters have each word.

    Returns:
        For each word its boxes `(k, 4)`, at most as many as it has characters.
    """
    figures = _figures([boxes for boxes, _ in candidates])
    slots = [word for word, count in enumerate(counts) for _ in range(count)]
    lost = 1e6  # more than any sum of logarithms of scores
    there = 1 + max((int(each.max()) for each in figures if len(each)), default=-1)
    costs = np.full((len(slots), there), lost)
    for row, word in enumerate(slots):
        for figure, score in zip(figures[word].tolist(), candidates[word][1].tolist(), strict=True):
            costs[row, figure] = min(costs[row, figure], -float(np.log(max(score, 1e-30))))
    chosen: list[list[Tensor]] = [[] for _ in counts]
    for row, figure in zip(*linear_sum_assignment(costs), strict=True):
        if costs[row, figure] < lost:
            boxes, scores = candidates[slots[row]]
            own = figures[slots[row]] == int(figure)
            chosen[slots[row]].append(boxes[own][scores[own].argmax()])
    ordered = [sorted(boxes, key=lambda box: float(box[0] + box[2])) for boxes in chosen]
    return [torch.stack(boxes) if boxes else torch.zeros(0, 4) for boxes in ordered]


def _figures(boxes: Sequence[Tensor]) -> list[Tensor]:
    """Which figure each box is around, counted from 0 over all words; boxes that nearly coincide are around one."""
    seen: list[Tensor] = []
    numbers: list[Tensor] = []
    for each in boxes:
        row = []
        for box in each:
            same = [number for number, other in enumerate(seen) if _overlap(box, other) > SAME]
            row.append(same[0] if same else len(seen))
            if not same:
                seen.append(box)
        numbers.append(torch.tensor(row, dtype=torch.long))
    return numbers


def _overlap(box: Tensor, other: Tensor) -> float:
    """Intersection over union."""
    sides = (torch.minimum(box[2:], other[2:]) - torch.maximum(box[:2], other[:2])).clamp(min=0)
    both = float(sides.prod())
    return both / (float((box[2:] - box[:2]).prod() + (other[2:] - other[:2]).prod()) - both + 1e-9)


def _segment(
    segment: Segment, image: Tensor, wanted: Sequence[tuple[str, str]], boxes: dict[str, Tensor]
) -> Bool[Tensor, "s h w"]:
    masks = torch.zeros((len(wanted), *image.shape[:2]), dtype=torch.bool)
    seen = [row for row, (name, _) in enumerate(wanted) if name in boxes]
    if seen:
        masks[seen] = segment(image, torch.stack([boxes[wanted[row][0]] for row in seen]))
    return masks
