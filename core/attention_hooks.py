"""What a host shows of its attention layers, and how it lets them be changed.

A host has q, k and v of one layer, after their projections, and calls a `Hook` in place of its attention.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from torch import Tensor

from .attention import Attend


@dataclass(frozen=True)
class Layer:
    """Which attention layer of the model it is, in a call.

    Args:
        name: How the host tells its layers apart: ("input", 4, 0) in ComfyUI, a number in diffusers.
        grid: Height and width of the layer's picture tokens.
        before: Tokens of the sequence before the picture's, where text and picture are one sequence.
        after: Tokens after the picture's: text, reference pictures, padding.
        block: The number of the transformer block, from 0, where the host counts them.
    """

    name: Hashable
    grid: tuple[int, int]
    before: int = 0
    after: int = 0
    block: int | None = None

    @property
    def picture(self) -> slice:
        """Where the picture's tokens are in the sequence."""
        return slice(self.before, self.before + self.grid[0] * self.grid[1])


Hook = Callable[[Tensor, Tensor, Tensor, int, Layer, Attend], Tensor]
"""(q, k, v, heads, layer, attend) -> out, each `(rows, tokens, heads * width)`, before the output projection.

`attend` is what the layer would do without the hook; calling it with other keys is allowed in self-attention.
"""


def unchanged(q: Tensor, k: Tensor, v: Tensor, heads: int, layer: Layer, attend: Attend) -> Tensor:
    """The hook that changes nothing."""
    return attend(q, k, v, heads)


def chained(outer: Hook, inner: Hook) -> Hook:
    """A hook that asks `outer`, for which the layer's own attention is what `inner` makes of it."""

    def hook(q: Tensor, k: Tensor, v: Tensor, heads: int, layer: Layer, attend: Attend) -> Tensor:
        return outer(q, k, v, heads, layer, lambda q, k, v, heads: inner(q, k, v, heads, layer, attend))

    return hook
