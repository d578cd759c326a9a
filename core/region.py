"""The part of a picture that an identity generator sees of it: a box around a character's mask.

IdentityStory predicts each character on the whole picture and keeps what is in their mask. Here the network is given
the box around the mask alone, so that a small character costs little. That is an approximation, and no part of the
paper: what the network draws inside the mask no longer depends on what lies outside the box.

A box stays the same in all steps, so that a network sees one size of picture and is prepared once. It begins where the
network's own grid does (a patch, or a cell after all downsampling), so that its cells are grouped as in the whole.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .redenoise import ProgressiveMasks, scaled_kernel, to_latent_grid
from .shapes import Float, Shaped

MARGIN = 128
"""How far a box reaches beyond the mask at its largest, in pixels of a 1024-pixel picture; our choice."""
LEAST_SIDE = 512
"""The least side of a box, in pixels of a 1024-pixel picture: networks draw poorly what is far smaller than what they
were trained on; our choice."""


@dataclass(frozen=True)
class Region:
    """A box of latent cells.

    Args:
        top, left: Its first row and column.
        height, width: Its size, 1 or more.
        whole: Height and width of the picture's latent.
    """

    top: int
    left: int
    height: int
    width: int
    whole: tuple[int, int]

    @classmethod
    def everything(cls, height: int, width: int) -> "Region":
        """The whole picture."""
        return cls(0, 0, height, width, (height, width))

    @property
    def is_everything(self) -> bool:
        return (self.height, self.width) == self.whole

    @property
    def share(self) -> float:
        """Of the picture's cells, those that it has: what an evaluation costs, to networks without attention."""
        return self.height * self.width / math.prod(self.whole)

    def crop(self, picture: Shaped[Tensor, "*any h w"], cell: int = 1) -> Shaped[Tensor, "*any rh rw"]:
        """What it has of a latent, or of a picture with `cell` pixels to a latent cell's side: a view."""
        if self.is_everything:
            return picture
        rows = slice(self.top * cell, (self.top + self.height) * cell)
        return picture[..., rows, self.left * cell : (self.left + self.width) * cell]

    def paste(self, part: Float[Tensor, "*any rh rw"], picture: Float[Tensor, "*any h w"]) -> Float[Tensor, "*any h w"]:
        """A copy of a latent with `part` in its place; `part` itself where it is all of it."""
        if self.is_everything:
            return part
        result = picture.clone()
        self.crop(result).copy_(part)
        return result

    def sizes(self, cell: int, given: Mapping[str, int] | None = None) -> dict[str, int]:
        """SDXL's size conditioning of this part: the original picture's size, where it was cropped, and to what size.

        Args:
            cell: Pixels to a latent cell's side.
            given: What is said of the whole picture: `width`, `height`, `crop_w`, `crop_h`, `target_width`,
                `target_height` in pixels; what is missing follows from the latent's size, as in ComfyUI.
        """
        given, (height, width) = given or {}, (side * cell for side in self.whole)
        height, width = given.get("height", height), given.get("width", width)
        target = given.get("target_height", height), given.get("target_width", width)
        down, right = (size / side for size, side in zip(target, self.whole, strict=True))  # target pixels of a cell
        return {
            "height": height,
            "width": width,
            "crop_h": given.get("crop_h", 0) + round(self.top * down),
            "crop_w": given.get("crop_w", 0) + round(self.left * right),
            "target_height": round(self.height * down),
            "target_width": round(self.width * right),
        }


def regions_around(
    masks: ProgressiveMasks, grid: tuple[int, int], step: int, margin: int | float = MARGIN
) -> list[Region]:
    """The region of each mask, around all that it covers in any step.

    Args:
        masks: The mask schedule, in pixels.
        grid: Height and width of the latent.
        step: The cells by which regions begin and end: a multiple of the network's patch or of its whole downsampling.
            The last one of a row may be cut by the picture's edge, as it is in the whole picture.
        margin: How far they reach beyond the mask, in pixels of a 1024-pixel picture (see `scaled_kernel`), 0 or more.

    Returns:
        One per mask; the whole picture where a mask is empty.

    Raises:
        ValueError: If `margin` is negative or `step` is not a number of cells.
    """
    if margin < 0 or step < 1:
        raise ValueError(f"The margin is {margin} and the step {step}; they must be at least 0 and 1.")
    reach = masks.reach()
    if not len(reach):
        return []
    size = (int(reach.shape[-2]), int(reach.shape[-1]))
    pixels = size[0] / grid[0], size[1] / grid[1]  # of a cell
    margins = [math.ceil(scaled_kernel(margin, *size) / each) for each in pixels]
    least = [math.ceil(scaled_kernel(LEAST_SIDE, *size) / each) for each in pixels]
    found = []
    for covered in to_latent_grid(reach, *grid, soft=True)[:, 0] > 0:
        if not covered.any():
            found.append(Region.everything(*grid))
            continue
        (top, bottom), (left, right) = (
            _span(covered.any(dim=1 - axis), margins[axis], least[axis], step) for axis in (0, 1)
        )
        found.append(Region(top, left, bottom - top, right - left, grid))
    return found


def _span(covered: Shaped[Tensor, " n"], margin: int, least: int, step: int) -> tuple[int, int]:
    """The first and the last cell but one of a region along one axis."""
    size, places = len(covered), torch.nonzero(covered).flatten()
    start = max(int(places[0]) - margin, 0) // step * step
    stop = min(math.ceil((int(places[-1]) + 1 + margin) / step) * step, size)
    least = min(math.ceil(least / step) * step, size)
    start = max(start - max(least - (stop - start), 0) // 2 // step * step, 0)
    stop = min(max(start + least, stop), size)
    return min(start, (stop - least) // step * step), stop
