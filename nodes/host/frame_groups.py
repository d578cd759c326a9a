"""Sampling a batch of frames in groups, one group after the other, as if each were the batch."""

from collections.abc import Callable, Sequence
from typing import Any

import comfy.samplers
import torch
from comfy.conds import CONDConstant, CONDRegular
from comfy.utils import repeat_to_batch_size, resize_to_batch_size
from torch import Tensor

from ..types import Conditioning
from .story_prompts import NAMED, OWN_ROWS, OWN_SHAPES, own_row

Conds = dict[str, list[dict[str, Any]]]
"""A guider's prompts, as the host keeps them while it samples."""


ROWS = "story_identity_rows"
"""Where the transformer options of a group's sampling say which frames of the batch it has: a slice."""

_REPEATED = frozenset({"cross_attn", "cross_attn_controlnet", "pooled_output", "mask", "noise_concat"})
_LISTED = frozenset({"reference_latents"})
_RESIZED = frozenset({"concat_latent_image", "concat_mask"})
"""What differs from frame to frame in a prompt for a UNet, by the host's two ways to bring it to the number of frames:
the rows over and over, in order, or each row for so many frames that follow each other."""


def groups_of(frames: int, size: int) -> list[slice]:
    """Rows of the groups: of `size` frames each, the last perhaps of fewer; size 0 is one group of all."""
    size = size or frames
    return [slice(first, min(first + size, frames)) for first in range(0, frames, size)]


def of_group(conds: Conds, rows: slice, frames: int, size: torch.Size) -> Conds:
    """The prompts of some of the frames, copied, with the rows of everything that differs from frame to frame.

    Where there are fewer or more rows than frames, those that the host would give these frames in the whole batch. An
    entry keeps its uuid, and entries that share a ControlNet still share it, so that the host fuses them as before.

    Args:
        conds: The prompts of all frames.
        rows: The frames of the group.
        frames: How many there are in all.
        size: Height and width of the latents.
    """
    cut = _Cut(rows, frames)
    return {kind: [cut.entry(_with_area(cond, size)) for cond in entries] for kind, entries in conds.items()}


def one_frame(conditioning: Conditioning, frame: int, frames: int) -> Conditioning:
    """The CONDITIONING of one of n frames, by itself."""
    cut = _Cut(slice(frame, frame + 1), frames)
    entries = [cut.entry({**extras, "cross_attn": tensor}) for tensor, extras in conditioning]
    return [[entry.pop("cross_attn"), entry] for entry in entries]


def _with_area(cond: dict[str, Any], size: torch.Size) -> dict[str, Any]:
    """The entry with the area that the host takes from the bounds of its masks, while it still has all of them."""
    if "mask" not in cond or not cond.get("set_area_to_bounds"):
        return cond
    entries = [cond]
    comfy.samplers.resolve_areas_and_cond_masks_multidim(entries, size, cond["mask"].device)
    return {**entries[0], "set_area_to_bounds": False}


class _Cut:
    """Cuts the rows of one group out of what a prompt carries."""

    def __init__(self, rows: slice, frames: int) -> None:
        self.rows = rows
        self.frames = frames
        self.controls: dict[int, Any] = {}

    def entry(self, cond: dict[str, Any]) -> dict[str, Any]:
        shapes, rows = cond.get(OWN_SHAPES, {}), cond.get(OWN_ROWS, {})
        if not (shapes or rows) or self.rows.stop - self.rows.start != 1:
            return {key: self.value(key, value) for key, value in cond.items()}
        frame = self.rows.start
        own = {key: own_row(cond[key], key, each, frame) for key, each in shapes.items() if key in cond}
        own |= {key: each[frame] for key, each in rows.items() if key in cond}
        gone = (OWN_SHAPES, OWN_ROWS, *own)
        return {key: self.value(key, value) for key, value in cond.items() if key not in gone} | own

    def value(self, key: str, value: Any) -> Any:
        if key == NAMED:
            positions = [places[self.rows] for places in value["positions"]]
            return {**value, "prompts": value["prompts"][self.rows], "positions": positions}
        if key == "control":
            return self.control(value)
        if key == "model_conds":
            return {name: self.model_cond(each) for name, each in value.items()}
        if key in ("mask", "concat_mask") and value.ndim < 3:
            return value  # one mask, without a batch
        if key in _LISTED:
            return [each[self.places(len(each))] for each in value]
        if isinstance(value, Tensor) and value.ndim and (key in _REPEATED | _RESIZED or len(value) == self.frames):
            return value[self.places(len(value), resized=key in _RESIZED)]
        return value

    def places(self, count: int, resized: bool = False) -> Tensor:
        """Which of `count` rows the group's frames have; a single row stays one, which the host uses for all frames."""
        if count == 1:
            return torch.zeros(1, dtype=torch.long)
        to_batch_size = resize_to_batch_size if resized else repeat_to_batch_size
        return to_batch_size(torch.arange(count), self.frames)[self.rows]

    def model_cond(self, cond: Any) -> Any:
        """What a node prepared for the UNet by itself."""
        if isinstance(cond, CONDRegular) and isinstance(cond.cond, Tensor) and not isinstance(cond, CONDConstant):
            return type(cond)(cond.cond[self.places(len(cond.cond))])
        return cond

    def control(self, control: Any) -> Any:
        """A copy of a ControlNet, and of those before it in its chain, with the hints of the group."""
        if control is None:
            return None
        if id(control) not in self.controls:
            copy, hints = control.copy(), control.cond_hint_original
            if isinstance(hints, Tensor) and len(hints) > 1:
                places = self.places(len(hints))
                copy.cond_hint_original = hints[places]
                copy.extra_concat_orig = [  # which the host brings to the number of hints first
                    each[repeat_to_batch_size(torch.arange(len(each)), len(hints))[places]]
                    for each in control.extra_concat_orig
                ]
            copy.set_previous_controlnet(self.control(control.previous_controlnet))
            self.controls[id(control)] = copy
        return self.controls[id(control)]


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
