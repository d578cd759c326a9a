"""Measures of pictures of the toy world as plain formulas; what the papers score is in `core.scores`."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from ...core.shapes import Bool, Float

UNCHANGED = 0.1
"""A pixel none of whose channels (in [0, 1]) moved farther than this looks as it did."""
HIGHEST_PSNR = 100.0
"""In dB: an error of 1e-5 of the largest value, far less than a step of 8 bits."""


def psnr(
    picture: Float[Tensor, "h w 3"], reference: Float[Tensor, "h w 3"], where: Bool[Tensor, "h w"]
) -> float | None:
    """Peak signal-to-noise ratio, in dB, of the pixels of a mask; None for an empty mask.

    Equal pixels get `HIGHEST_PSNR` and not infinity, so that means over frames and stories stay numbers.
    """
    if not where.any():
        return None
    error = (picture.double() - reference.double())[where].square().mean()
    return min(HIGHEST_PSNR, float(-10 * error.log10()))


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
