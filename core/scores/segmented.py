"""A character alone, as the encoders of CLIP-T-C, CLIP-I and DINO-I see them."""

import torch
from torch import Tensor

from ..shapes import Bool, Float

GREY = 0.5


def over_grey(image: Float[Tensor, "h w 3"], mask: Bool[Tensor, "h w"]) -> Float[Tensor, "side side 3"] | None:
    """A character cut out along the mask, in the middle of a grey square; None for an empty mask.

    With the background in the picture CLIP and DINO score the background: frames of one place seem to show one person.
    The papers do not say what takes its place; grey of 0.5 is our choice. The square is as large as the longer side of
    the mask's box, so that neither the place in the frame nor the size changes what the encoder sees.

    Args:
        image: In [0, 1].
        mask: Where the character is.
    """
    rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
    if not len(rows):
        return None
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    cut = torch.where(mask[box][..., None], image[box], torch.full_like(image[box], GREY))
    height, width = cut.shape[:2]
    side = max(height, width)
    square = image.new_full((side, side, 3), GREY)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = cut
    return square
