"""Attention while training: groups of frames that see each other, and cross-attention maps with their gradients."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.attention import Attend, SubjectPositions
from ...core.attention_hooks import Hook, Layer, unchanged
from ...core.automask import TokenMaps, token_maps
from ...core.frame_sharing import attend_in_groups, subject_positions
from ...core.shapes import Float
from .batch import Batch, Places
from .denoising_task import DenoisingTask


class TrainingAttention:
    """The hooks of a UNet in training. `begin` says what the next call is of.

    Frames share what `look` found, as sampling does with the maps of the step before: with the true masks a UNet would
    learn to trust masks that it never gets later. What `begin` set stays until the next `begin`, since gradient
    checkpointing asks the hooks again during the backward pass.
    """

    def __init__(self) -> None:
        self.cross_attention: Hook = unchanged
        self.begin()

    def begin(self, places: Places = (), seen: TokenMaps | None = None, shares: Sequence[bool] = ()) -> None:
        """Prepare for a call.

        Args:
            places: Where maps are wanted of every character; empty: nowhere.
            seen: Where the characters are; None if nobody sees anybody.
            shares: For every group, whether its frames see each other's people. Groups are equally many rows.
        """
        self._maps: list[Float[Tensor, "n s h w"]] = []
        self._places, self._collects = places, bool(places)
        self._seen, self._shares = seen, shares
        self._subjects: dict[tuple[int, int], list[SubjectPositions | None]] = {}

    def take_maps(self) -> list[Float[Tensor, "n s h w"]]:
        """The maps of the call, layer by layer. What gradient checkpointing has read again later is not kept."""
        maps, self._maps, self._collects = self._maps, [], False
        return maps

    @torch.no_grad()
    def look(self, pipe: Any, task: DenoisingTask, batch: Batch) -> TokenMaps | None:
        """Where the UNet sees the characters when no caption is left out and no frame sees another; one UNet call.

        None if there are no characters.
        """
        captions = batch.whole_captions
        self.begin(batch.places(pipe, captions))
        guided = task if batch.captions == captions else task.with_captions(pipe, captions, batch.labels)
        guided.predict(pipe)
        torch.clear_autocast_cache()  # older torch would go on with casts that know no gradients
        maps = self.take_maps()
        if not maps:
            return None
        seen = TokenMaps((maps[0].shape[2], maps[0].shape[3]))  # a UNet's first layers are its finest
        for each in maps:
            seen.add(each.flatten(2), (each.shape[2], each.shape[3]))
        return seen

    def share(self, q: Tensor, k: Tensor, v: Tensor, heads: int, layer: Layer, attend: Attend) -> Tensor:
        """The self-attention hook."""
        if self._seen is None or not any(self._shares):
            return attend(q, k, v, heads)
        if layer.grid not in self._subjects:
            self._subjects[layer.grid] = self._found(self._seen, layer.grid, q.device)
        return attend_in_groups(q, k, v, heads, self._subjects[layer.grid], 1.0, lambda number, found: None, attend)

    def read(self, q: Tensor, k: Tensor, v: Tensor, heads: int, layer: Layer, attend: Attend) -> Tensor:
        """The cross-attention hook."""
        if self._places:
            with torch.autocast(q.device.type, enabled=False):
                maps = token_maps(q, k, self._places, heads).unflatten(2, layer.grid)
            if self._collects:
                self._maps.append(maps)
        return self.cross_attention(q, k, v, heads, layer, attend)

    def _found(self, seen: TokenMaps, grid: tuple[int, int], device: torch.device) -> list[SubjectPositions | None]:
        labels = seen.labels(grid)
        assert labels is not None
        groups = zip(labels.chunk(len(self._shares)), self._shares, strict=True)
        return [subject_positions(own, True, device) if shares else None for own, shares in groups]
