"""Character layout extraction (IdentityStory, section 3.2, equation 5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int
from scipy import ndimage
from torch import Tensor

from .quoting import quote_all


@dataclass(frozen=True)
class Layout:
    """Who is where in one frame.

    Args:
        names: The characters, one per mask; a name appears once. Kept as a tuple.
        masks: On the CPU, at the picture's resolution; no pixel belongs to two characters; a mask may be empty.
        label: What messages call the frame.
    """

    names: Sequence[str]
    masks: Bool[Tensor, "s h w"]
    label: str = "the frame"

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if len(self.names) != len(self.masks):
            raise ValueError(f"{self.label}: {len(self.names)} names for {len(self.masks)} masks.")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"{self.label}: a character appears twice in {quote_all(self.names)}.")
        if len(self.masks) and int(self.masks.sum(dim=0).max()) > 1:
            raise ValueError(f"{self.label}: masks overlap; make them exclusive first (exclusive_masks).")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.masks.shape[1]), int(self.masks.shape[2])

    @cached_property
    def background(self) -> Bool[Tensor, "h w"]:
        """The complement of all characters."""
        return ~self.masks.any(dim=0)


def chessboard_distance(mask: Bool[Tensor, "h w"]) -> Int[Tensor, "h w"]:
    """Distance of every pixel to the mask: `distance <= k` is the mask dilated by a square of half-width k.

    One distance transform serves every k. An empty mask is farther away than any k in use.
    """
    pixels = mask.cpu().numpy()
    if not pixels.any():
        return torch.full(mask.shape, np.iinfo(np.int32).max, dtype=torch.int32)
    return torch.from_numpy(np.asarray(ndimage.distance_transform_cdt(~pixels, metric="chessboard"), dtype=np.int32))


def subtract_smaller_first(masks: Bool[Tensor, "s h w"]) -> Bool[Tensor, "s h w"]:
    """Give every contested pixel to the smallest mask that claims it (equal areas: to the earlier one)."""
    result = masks.clone()
    order = _smallest_first(masks)
    for place, index in enumerate(order):
        for larger in order[place + 1 :]:
            result[larger] &= ~masks[index]
    return result


def exclusive_masks(masks: Bool[Tensor, "s h w"], dilate_px: int = 10) -> Bool[Tensor, "s h w"]:
    """Make character masks exclusive (IdentityStory, section 3.2, as published).

    From the smallest area to the largest: subtract what is already covered, keep the largest 4-connected component,
    dilate by a square, subtract again.

    Args:
        masks: One mask per character, in pixels; an empty mask stays empty.
        dilate_px: Half-width of the square, 0 or more.

    Returns:
        Masks without overlap, in the order given, on the CPU.

    Raises:
        ValueError: If `dilate_px` is negative.
    """
    if dilate_px < 0:
        raise ValueError(f"dilate_px is {dilate_px}; it must be 0 or more.")
    masks = masks.cpu()
    result = torch.zeros_like(masks)
    covered = torch.zeros(masks.shape[1:], dtype=torch.bool)
    for index in _smallest_first(masks):
        component = _largest_component(masks[index] & ~covered)
        result[index] = (chessboard_distance(component) <= dilate_px) & ~covered
        covered |= result[index]
    return result


def _smallest_first(masks: Bool[Tensor, "s h w"]) -> list[int]:
    return torch.count_nonzero(masks, dim=(1, 2)).argsort(stable=True).tolist()


def _largest_component(mask: Bool[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    labels = np.zeros(mask.shape, dtype=np.int32)
    ndimage.label(mask.numpy(), output=labels)
    sizes = np.bincount(labels.ravel())[1:]
    return torch.from_numpy(labels == 1 + int(sizes.argmax())) if len(sizes) else mask
