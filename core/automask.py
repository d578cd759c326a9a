"""Automatic character masks from cross-attention (Storynizor, section 3.1, equations 5 and 6).

`token_maps` reads how much each place of the picture attends to a character's words, `TokenMaps` averages that over
layers and steps, `subject_masks` makes masks of it and `character_labels` gives every token to at most one character.
Nothing here changes what cross-attention returns.

Axes: n frame, l token of a grid (row by row), t text token, s character, e heads * width of a head.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from .quoting import quote
from .shapes import Bool, Float, Int

TokenIndices = Sequence[int] | Sequence[Sequence[int]]
"""Where the text names a character: positions for all frames, or one sequence of positions per frame."""

_LEAST_CONTRAST = 1e-3
_SPECK_SHARE = 0.05


def token_map(
    q: Float[Tensor, "n l e"], k: Float[Tensor, "n t e"], token_indices: TokenIndices, heads: int
) -> Float[Tensor, "n l"]:
    """`token_maps` of one character."""
    return token_maps(q, k, [token_indices], heads)[:, 0]


def token_maps(
    q: Float[Tensor, "n l e"],
    k: Float[Tensor, "n t e"],
    token_indices: Sequence[TokenIndices],
    heads: int,
    mask: Float[Tensor, "n t"] | None = None,
) -> Float[Tensor, "n s l"]:
    """How much of its attention each picture token gives to each character's words, in one cross-attention layer.

    softmax(q kT / sqrt(width of a head)) over all text tokens, averaged over the heads and a character's tokens
    (equation 5), in float32. One tensor of n * heads * l * t numbers is made, and gradients pass through.

    Args:
        q: The layer's queries, after their projection.
        k: Its keys of the text.
        token_indices: Per character, where the text names it. A frame in which it is not named has an empty sequence
            and gets a map of zeros.
        heads: Heads in the last axis.
        mask: What is added to the scores of each text token, such as minus infinity on padding.

    Returns:
        Maps in [0, 1].

    Raises:
        ValueError: If a position lies outside the text, the sequences are not one per frame, or `heads` does not fit.
    """
    if heads < 1 or q.shape[2] % heads:
        raise ValueError(f"{heads} heads do not divide a width of {q.shape[2]}.")
    chosen = torch.stack([_token_shares(each, *k.shape[:2]) for each in token_indices], dim=2).to(q.device)
    q, k = (tensor.float().unflatten(2, (heads, -1)).transpose(1, 2) for tensor in (q, k))
    weights = q @ (k * k.shape[-1] ** -0.5).transpose(2, 3)
    if mask is not None:
        weights += mask.float()[:, None, None]
    weights -= weights.detach().amax(dim=3, keepdim=True)
    weights.exp_()
    shares = (weights @ chosen.unsqueeze(1)) / weights.sum(dim=3, keepdim=True)
    return shares.mean(dim=1).transpose(1, 2)


def _token_shares(token_indices: TokenIndices, frames: int, tokens: int) -> Float[Tensor, "n t"]:
    """Weights that average over a character's tokens: 1 / count on each of them, 0 elsewhere."""
    everywhere = [each for each in token_indices if isinstance(each, int)]
    by_frame = [each for each in token_indices if not isinstance(each, int)]
    if by_frame and (everywhere or len(by_frame) != frames):
        raise ValueError(
            f"The token positions {quote(list(token_indices))} are not for {frames} frames; give one sequence per "
            "frame, empty where the character is not named, or one sequence of numbers for all."
        )
    rows = by_frame or [everywhere] * frames
    shares = torch.zeros(frames, tokens)
    for frame, row in enumerate(rows):
        outside = [position for position in row if not 0 <= position < tokens]
        if outside:
            raise ValueError(
                f"Frame {frame + 1}: token positions {quote(outside)} are not in the text's 0 to {tokens - 1}."
            )
        for position in row:
            shares[frame, position] += 1 / len(row)
    return shares


def normalised(maps: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """Each map stretched to [0, 1]. One that is flat (contrast below a thousandth), or not finite, becomes zeros."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    contrast = high - low
    structured = contrast > _LEAST_CONTRAST * high.abs()
    # The inner `where` keeps gradients free of a division by 0.
    return torch.where(structured, (maps - low) / torch.where(structured, contrast, 1.0), 0.0)


def otsu_thresholds(maps: Float[Tensor, "n h w"]) -> Float[Tensor, "n 1 1"]:
    """Otsu's threshold of every map: where the two classes' means lie farthest apart, weighted by their sizes.

    Exact, over the sorted values, without a histogram: halfway between the two values that it parts.
    """
    values = maps.flatten(1).double().sort(dim=1).values
    count = values.shape[1]
    if count < 2:
        return maps
    below = torch.arange(1, count, device=values.device)
    total, partial = values.sum(dim=1, keepdim=True), values.cumsum(dim=1)[:, :-1]
    difference = partial / below - (total - partial) / (count - below)
    split = (below * (count - below) * difference.square()).argmax(dim=1, keepdim=True)
    threshold = (values.gather(1, split) + values.gather(1, split + 1)) / 2
    return threshold.to(maps.dtype)[..., None]


def subject_masks(maps: Float[Tensor, "n h w"], method: str | float = "otsu") -> Bool[Tensor, "n h w"]:
    """Make a clean mask of every map (Storynizor, equation 6; the paper does not say how it thresholds).

    Each map is normalised to [0, 1] and cut at a threshold. 4-connected pieces smaller than a twentieth of the
    largest are dropped and holes are filled. A map without contrast (nobody there) gives an empty mask.

    Args:
        maps: Any scale; one mask per map.
        method: "otsu" (a threshold per map), or a threshold between 0 and 1 (both excluded).

    Returns:
        Masks on the CPU.

    Raises:
        ValueError: If `method` is neither.
    """
    if method != "otsu" and (isinstance(method, str) or not 0 < method < 1):
        raise ValueError(f'The mask method is {quote(method)}; use "otsu" or a threshold between 0 and 1, such as 0.4.')
    maps = normalised(maps.detach().cpu().float())
    masks = maps > (otsu_thresholds(maps) if isinstance(method, str) else method)
    return torch.stack([_cleaned(mask) for mask in masks]) if len(masks) else masks


def _cleaned(mask: Bool[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    pieces = np.zeros(mask.shape, dtype=np.int32)
    ndimage.label(mask.numpy(), output=pieces)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    kept = (sizes >= _SPECK_SHARE * sizes.max()) & (sizes > 0)
    return torch.from_numpy(ndimage.binary_fill_holes(kept[pieces]))


def character_labels(maps: Float[Tensor, "n s h w"], masks: Bool[Tensor, "n s h w"]) -> Int[Tensor, "n h w"]:
    """Give every token to at most one character: where masks overlap, to the one whose normalised map is higher.

    Returns:
        The character's number, 0 to s - 1, or -1 for the background; on the CPU. `labels >= 0` are the subjects, and
        both are what `SubjectPositions.of` takes (with h and w flattened).
    """
    heights = normalised(maps.detach().cpu().float().flatten(0, 1)).unflatten(0, maps.shape[:2])
    masks = masks.cpu()
    return torch.where(masks.any(dim=1), torch.where(masks, heights, -1.0).argmax(dim=1), -1)


class TokenMaps:
    """Running token maps of s characters in n frames, while a host samples.

    Layers of any grid add to it; their maps are brought to one grid and averaged over the layers of a step, and over
    the earlier steps exponentially: `past = decay * past + (1 - decay) * step`, the first step counting in full.
    The maps are kept where they come from (no copy to the CPU until masks are asked for) and without gradients; what
    is held does not grow with layers or steps.

    Args:
        grid: Height and width of the grid kept; take the finest that the layers have.
        decay: Weight of the earlier steps, 0 (this step only) to just under 1.

    Raises:
        ValueError: If `decay` is out of range.
    """

    def __init__(self, grid: tuple[int, int], decay: float | int = 0.5) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}; it must be from 0 (this step only) to under 1.")
        self.grid = grid
        self.decay = decay
        self._past: Tensor | None = None
        self._sum: Tensor | None = None
        self._layers = 0

    def add(self, maps: Float[Tensor, "n s l"], grid: tuple[int, int]) -> None:
        """Add what one layer of this step found.

        Raises:
            ValueError: If the grid does not have as many tokens, or frames or characters are not those of before.
        """
        if grid[0] * grid[1] != maps.shape[2]:
            raise ValueError(f"A grid of {grid[0]} x {grid[1]} does not have the {maps.shape[2]} tokens of these maps.")
        resized = _resized(maps.detach().float().unflatten(2, grid), self.grid)
        known = self._past if self._sum is None else self._sum
        if known is not None and known.shape != resized.shape:
            raise ValueError(
                f"Maps of {len(maps)} frames and {maps.shape[1]} characters after maps of {len(known)} and "
                f"{known.shape[1]}; add all frames of a story at once."
            )
        self._sum = resized if self._sum is None else self._sum + resized
        self._layers += 1

    def next_step(self) -> None:
        """Begin a step: what was added since the last one becomes past."""
        self._past = self._now()
        self._sum, self._layers = None, 0

    def maps(self, grid: tuple[int, int]) -> Float[Tensor, "n s h w"] | None:
        """The maps as they stand, on a layer's grid; None before anything was added."""
        now = self._now()
        return None if now is None else _resized(now, grid)

    def masks(self, grid: tuple[int, int], method: str | float = "otsu") -> Bool[Tensor, "n s h w"] | None:
        """The masks as they stand, on a layer's grid (see `subject_masks`); None before anything was added.

        Masks of two characters may overlap; `labels` decides. Every call copies to the CPU: ask once per step and grid.
        """
        maps = self.maps(grid)
        return None if maps is None else subject_masks(maps.flatten(0, 1), method).unflatten(0, maps.shape[:2])

    def labels(self, grid: tuple[int, int], method: str | float = "otsu") -> Int[Tensor, "n h w"] | None:
        """Each token's character, or -1 (see `character_labels`); None before anything was added."""
        maps, masks = self.maps(grid), self.masks(grid, method)
        return None if maps is None or masks is None else character_labels(maps, masks)

    def _now(self) -> Tensor | None:
        if self._sum is None:
            return self._past
        step = self._sum / self._layers
        return step if self._past is None else self.decay * self._past + (1 - self.decay) * step


def _resized(maps: Float[Tensor, "n s h w"], grid: tuple[int, int]) -> Float[Tensor, "n s gh gw"]:
    """Bilinear; where the grid is coarser, over the whole of each cell (antialiased), so that nothing is skipped."""
    if tuple(maps.shape[2:]) == tuple(grid):
        return maps
    return torch.nn.functional.interpolate(maps, size=grid, mode="bilinear", antialias=True)
