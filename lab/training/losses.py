"""The mask perceptual loss (Storynizor, section 3.1, equation 8)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...core.automask import normalised
from ...core.shapes import Float

SMALL = 1e-6
"""Keeps the loss of two empty masks at 0; in units of pixels."""


def dice_loss(prediction: Float[Tensor, "n h w"], target: Float[Tensor, "n h w"]) -> Float[Tensor, " n"]:
    """1 - 2 sum(p g) / (sum(p^2) + sum(g^2)) of every pair of maps (Milletari et al. 2016, arXiv:1606.04797).

    0 for equal maps, two empty ones among them, 1 for maps that share nothing. The paper's formula lost its exponents;
    the squares are the cited form's, with which a soft target is met exactly.

    Args:
        prediction: In [0, 1]; gradients pass.
        target: In [0, 1].
    """
    p, g = prediction.float().flatten(1), target.float().flatten(1)
    return 1 - (2 * (p * g).sum(dim=1) + SMALL) / (p.square().sum(dim=1) + g.square().sum(dim=1) + SMALL)


def mask_loss(
    maps: Sequence[Float[Tensor, "_ s _ _"]], masks: Float[Tensor, "n s h w"], counts: Float[Tensor, "n s"]
) -> Float[Tensor, ""]:
    """How far the characters' cross-attention maps are from their masks: Dice, over layers, pictures and characters.

    Each layer is compared at its own grid, with the share of every cell that the mask covers. The maps are stretched to
    [0, 1] first, as they are when masks are made of them: what counts is where a map is high, not how much of the
    attention the words have.

    Args:
        maps: Per layer, `(n, s, grid height, grid width)`, any scale.
        masks: Where the characters are, in [0, 1].
        counts: 1 where a character is in the caption and seen, 0 where there is nothing to compare. All 0 gives 0.
    """
    total = torch.zeros((), device=masks.device)
    kept = counts.flatten() > 0
    for each in maps if kept.any() else ():
        target = torch.nn.functional.adaptive_avg_pool2d(masks, (each.shape[2], each.shape[3]))
        found = normalised(each.flatten(0, 1)[kept])
        total = total + dice_loss(found, target.flatten(0, 1)[kept]).mean()
    return total / max(1, len(maps))
