"""Sampling a batch of frames in groups, one group after the other, as if each were the batch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .story_prompts import NAMED

Conds = dict[str, list[dict[str, Any]]]
"""A guider's prompts, as the host keeps them while it samples."""


ROWS = "story_identity_rows"
"""Where the transformer options of a group's sampling say which frames of the batch it has: a slice."""


def groups_of(frames: int, size: int) -> list[slice]:
    """Rows of the groups: of `size` frames each, the last perhaps of fewer; size 0 is one group of all."""
    size = size or frames
    return [slice(first, min(first + size, frames)) for first in range(0, frames, size)]


def of_group(conds: Conds, rows: slice, frames: int) -> Conds:
    """The prompts of some of the frames, copied: per-frame tensors, ControlNet hints and named positions are cut.

    An entry keeps its uuid, and entries that share a ControlNet still share it, so that the host fuses them as before.
    """
    controls: dict[int, Any] = {}
    return {
        kind: [{key: _cut(key, value, rows, frames, controls) for key, value in cond.items()} for cond in entries]
        for kind, entries in conds.items()
    }


def _cut(key: str, value: Any, rows: slice, frames: int, controls: dict[int, Any]) -> Any:
    if key == NAMED:
        positions = [places[rows] for places in value["positions"]]
        return {**value, "prompts": value["prompts"][rows], "positions": positions}
    if key == "control":
        return _cut_control(value, rows, frames, controls)
    if isinstance(value, Tensor) and value.ndim and value.shape[0] == frames:
        return value[rows]
    return value


def _cut_control(control: Any, rows: slice, frames: int, controls: dict[int, Any]) -> Any:
    """A copy of a ControlNet, and of those before it in its chain, with the hints of the group."""
    if control is None:
        return None
    if id(control) not in controls:
        copy = control.copy()
        if isinstance(control.cond_hint_original, Tensor) and control.cond_hint_original.shape[0] == frames:
            copy.cond_hint_original = control.cond_hint_original[rows]
        copy.extra_concat_orig = [each[rows] if each.shape[0] == frames else each for each in control.extra_concat_orig]
        copy.set_previous_controlnet(_cut_control(control.previous_controlnet, rows, frames, controls))
        controls[id(control)] = copy
    return controls[id(control)]


class WholeBatch:
    """Shows the steps of all groups to a sampler callback as one run over the whole batch.

    Frames of groups that were not run yet are shown as zeros. Nothing of the callback's own is kept.
    """

    def __init__(self, callback: Callable[..., None], groups: Sequence[slice], noise: Tensor) -> None:
        self.callback = callback
        self.groups = groups
        self.x0 = torch.zeros_like(noise)
        self.x = torch.zeros_like(noise)

    def of(self, number: int) -> Callable[[int, Tensor, Tensor, int], None]:
        """The callback for one group."""

        def show(step: int, x0: Tensor, x: Tensor, total: int) -> None:
            self.x0, self.x = self._with(self.x0, number, x0), self._with(self.x, number, x)
            self.callback(number * total + step, self.x0, self.x, len(self.groups) * total)

        return show

    def _with(self, whole: Tensor, number: int, part: Tensor) -> Tensor:
        whole = whole.to(part.device, copy=True)
        whole[self.groups[number]] = part
        return whole
