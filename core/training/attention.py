"""Attention while training: groups of frames that see each other, and cross-attention maps with their gradients."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..attention import SubjectPositions, attend_across_frames, plain_attention
from ..automask import token_maps
from ..headless.attention import Hook, Layer
from ..headless.attention import plain as plain_hook

Places = Sequence[Sequence[Sequence[int]]]
"""Per character and row of the batch, the tokens of the words that say who it is; none where they are not told."""


class TrainingAttention:
    """The hooks of a UNet in training. `begin` says what the next call is of.

    Subjects are the true masks, not those that the maps would give: the maps are what is being learned. A cell of a
    layer's grid is a character's if the mask covers half of it. What `begin` set stays until the next `begin`, since
    gradient checkpointing asks the hooks again during the backward pass.
    """

    def __init__(self) -> None:
        self._maps: list[Float[Tensor, "n s h w"]] = []
        self._collects = False
        self.beside: Hook = plain_hook
        self._frames, self._masks, self._places = 1, torch.zeros(0, 0, 1, 1), ()
        self._shares, self._subjects = False, {}

    def begin(self, masks: Float[Tensor, "n s h w"], frames: int, shares: bool, places: Places = ()) -> None:
        """Prepare for a call.

        Args:
            masks: Where the characters are, a row per picture.
            frames: Pictures per group.
            shares: Whether the frames of a group see each other's people.
            places: Where maps are wanted of every character; empty: nowhere.
        """
        self._maps, self._collects = [], bool(places)
        self._frames, self._masks, self._places = frames, masks, places
        self._shares, self._subjects = shares, {}

    def take_maps(self) -> list[Float[Tensor, "n s h w"]]:
        """The maps of the call, layer by layer. What gradient checkpointing has read again later is not kept."""
        maps, self._maps, self._collects = self._maps, [], False
        return maps

    def share(self, q: Tensor, k: Tensor, v: Tensor, heads: int, layer: Layer) -> Tensor:
        """The self-attention hook."""
        if not self._shares:
            return plain_attention(q, k, v, heads)
        if layer.grid not in self._subjects:
            self._subjects[layer.grid] = self._found(layer.grid, q.device)
        groups = zip(*(each.split(self._frames) for each in (q, k, v)), self._subjects[layer.grid], strict=True)
        return torch.cat([
            attend_across_frames(q_group, k_group, v_group, heads, subjects, subjects.gather(k_group, v_group))
            for q_group, k_group, v_group, subjects in groups
        ])  # fmt: skip

    def read(self, q: Tensor, k: Tensor, v: Tensor, heads: int, layer: Layer) -> Tensor:
        """The cross-attention hook."""
        if self._places:
            with torch.autocast(q.device.type, enabled=False):
                maps = token_maps(q, k, self._places, heads).unflatten(2, layer.grid)
            if self._collects:
                self._maps.append(maps)
        return self.beside(q, k, v, heads, layer)

    def _found(self, grid: tuple[int, int], device: torch.device) -> list[SubjectPositions]:
        if not self._masks.shape[1]:
            nobody = torch.zeros(self._frames, grid[0] * grid[1], dtype=torch.bool)
            return [SubjectPositions.of(nobody, device=device) for _ in self._masks.split(self._frames)]
        cover, who = torch.nn.functional.adaptive_avg_pool2d(self._masks, grid).cpu().max(dim=1)
        labels = torch.where(cover >= 0.5, who, -1).flatten(1)
        return [SubjectPositions.of(own >= 0, own, device) for own in labels.split(self._frames)]
