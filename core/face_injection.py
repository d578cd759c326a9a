"""The ID injector during a sampling, in any host (Storynizor, section 3.2, equations 9 to 13).

Every cross-attention layer adds attention to identity tokens to its attention to the prompt: the rows of a frame attend
to the tokens of the references assigned to it, the unconditional rows to those of no reference.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .attention import Attend, plain_attention
from .attention_hooks import Layer
from .injector import Injector, decoupled_attention
from .layout import Layout
from .reference_assignment import AssignedReferences
from .shapes import Float
from .shuffle import deal_tokens
from .story import Frame

_Projected = tuple[Tensor, Tensor]
"""Keys and values of one layer, a row per reference."""


@dataclass(frozen=True)
class InjectedCharacter:
    """One character in n frames.

    Args:
        tokens: Identity tokens of r references.
        references: Per frame, which of them it sees; as many in each.
        masks: Per frame, where the face acts, in [0, 1], of any size; None: everywhere.
        blank: Tokens of no reference, for unconditional rows; None where there are none.
        present: Per frame, whether the character is in it; None: in all.
    """

    tokens: Float[Tensor, "r k c"]
    references: Sequence[Sequence[int]]
    masks: Sequence[Float[Tensor, "_ _"]] | None = None
    blank: Float[Tensor, "1 k c"] | None = None
    present: Sequence[bool] | None = None

    @classmethod
    def of(
        cls, character: AssignedReferences, frames: Sequence[Frame], layouts: Sequence[Layout] = ()
    ) -> "InjectedCharacter":
        """A character whose references are assigned to the frames of a story; one layout per frame, or none."""
        shown: Sequence[Layout | None] = layouts or [None] * len(frames)
        return cls(
            character.tokens,
            [character.references(frame) for frame in frames],
            [character.mask(frame, layout) for frame, layout in zip(frames, shown, strict=True)],
            character.blank,
            [frame.index in character.by_frame for frame in frames],
        )


class FaceInjection:
    """What the injector adds to one sampling of n frames.

    Args:
        injector: The adapter, on the model's device.
        characters: The characters whose faces are known.
        mode: How several references of a frame are joined, see `shuffle.deal_tokens`.
        weight: 1 is as trained, 0 leaves the prompt's attention as it is.
        number_of: The host's name of a layer -> its number in the adapter's file.
        attend: The attention to the identity tokens.
        keep_projections: Project the tokens once per layer and keep keys and values. Training must not: gradients run
            through them, and gradient checkpointing asks twice.
        report: Called once, with the reason, when no face is injected though it should be.
    """

    def __init__(
        self,
        injector: Injector,
        characters: Sequence[InjectedCharacter],
        mode: str = "shuffled",
        weight: float | int = 1.0,
        number_of: Callable[[Any], int] = lambda name: name,
        attend: Attend = plain_attention,
        keep_projections: bool = True,
        report: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.injector, self.characters, self.mode, self.weight = injector, characters, mode, weight
        self._number_of, self._attend, self._keeps = number_of, attend, keep_projections
        self._report, self._reported = report, False
        self._projected: dict[Hashable, list[tuple[_Projected, _Projected | None]]] = {}
        self._masks: dict[tuple[int, int], list[Tensor | None]] = {}

    def inject(
        self,
        unconditional: Sequence[bool | None],
        frames: Sequence[int],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        layer: Layer,
        attend: Attend,
    ) -> Tensor:
        """The cross-attention hook (equation 13), once its first two arguments are given.

        Args:
            unconditional: Per prompt of the call, whether it is unconditional; None: leave its rows alone.
            frames: Per row of one prompt, which of the n frames it is.
            q: The layer's queries, a row per prompt and frame.
            k: Its keys of the text.
            v: Its values of the text.
            heads: Heads in the last axis.
            layer: The layer.
            attend: Its own attention.
        """
        text = attend(q, k, v, heads)
        if tuple(q.shape[:2]) != (len(unconditional) * len(frames), layer.grid[0] * layer.grid[1]):
            self.report(f"another patch changes the tokens of block {layer.name} (token merging, tiling)")
            return text
        parts = zip(unconditional, text.chunk(len(unconditional)), q.chunk(len(unconditional)), strict=True)
        return torch.cat([
            text_rows
            if without is None
            else decoupled_attention(
                text_rows, q_rows, list(self._seen(without, frames, layer, q_rows)), heads, self.weight, self._attend
            )
            for without, text_rows, q_rows in parts
        ])  # fmt: skip

    def report(self, reason: str) -> None:
        """Say once why no face is injected into a call."""
        if not self._reported:
            self._report(reason)
        self._reported = True

    def _seen(
        self, unconditional: bool, frames: Sequence[int], layer: Layer, q: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Keys, values and mask of everybody who is in one of the frames, a row per frame."""
        masks, projections = self._masks_on(layer.grid, q), self._projections(layer, q)
        for character, mask, (given, blank) in zip(self.characters, masks, projections, strict=True):
            if character.present is not None and not any(character.present[frame] for frame in frames):
                continue
            if unconditional:
                assert blank is not None
                k, v = (each.expand(len(frames), -1, -1) for each in blank)
            else:
                references = [character.references[frame] for frame in frames]
                k, v = (deal_tokens(each, references, self.mode) for each in given)
            yield k, v, None if mask is None else mask[list(frames)]

    def _projections(self, layer: Layer, q: Tensor) -> list[tuple[_Projected, _Projected | None]]:
        """Per character keys and values of the references and of no reference."""
        if layer.name in self._projected:
            return self._projected[layer.name]
        project = self.injector.layer(self._number_of(layer.name))

        def projected(tokens: Tensor) -> _Projected:
            k, v = project(tokens.to(q.device))
            return k.to(q.dtype), v.to(q.dtype)

        made = [
            (projected(character.tokens), None if character.blank is None else projected(character.blank))
            for character in self.characters
        ]
        if self._keeps:
            self._projected[layer.name] = made
        return made

    def _masks_on(self, grid: tuple[int, int], q: Tensor) -> list[Tensor | None]:
        """Per character `(n, h * w)` in [0, 1]: the share of each of the layer's cells in which the face acts."""
        if grid not in self._masks:
            self._masks[grid] = [_pooled(character.masks, grid, q) for character in self.characters]
        return self._masks[grid]


def _pooled(masks: Sequence[Tensor] | None, grid: tuple[int, int], q: Tensor) -> Tensor | None:
    if masks is None:
        return None
    pooled = [torch.nn.functional.adaptive_avg_pool2d(mask.unsqueeze(0), grid).flatten() for mask in masks]
    return torch.stack(pooled).to(q)
