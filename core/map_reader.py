"""Reading, while a host samples, where in the picture the prompt's characters are (Storynizor, equation 5)."""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence

from torch import Tensor

from .attention import Attend
from .attention_hooks import Layer
from .automask import TokenMaps, token_maps

Positions = Sequence[Sequence[Sequence[int]]]
"""Per character and frame, the tokens of the words that say who it is; none where the character is not."""

PositionsInText = Callable[[int], Positions | None]
"""The length of the encoded text in tokens -> the positions in it; None, or nobody's, where they are not known."""

STEADY = 0.9
"""Decay of the maps of a whole sampling: about the last ten steps count, in which people no longer move."""


class MapReader:
    """Collects the token maps of the prompts that name characters, during one sampling of n frames as one batch.

    A prompt is read once per step: the further calls of two-stage samplers and of perturbed-attention guidance at the
    same noise level add nothing.

    Args:
        frames: n, the rows of every prompt.
        positions: For each prompt that names characters, by the host's name for it, where it does.
        decay: Weight of the maps of earlier steps, 0 to under 1.
    """

    def __init__(self, frames: int, positions: Mapping[Hashable, PositionsInText], decay: float) -> None:
        self.frames = frames
        self.positions = positions
        self.decay = decay
        self.maps: TokenMaps | None = None
        self.level: float | int | None = None
        self.prompts: Sequence[Hashable] = ()
        self._visits: Counter[float | int] = Counter()
        self._calls: Counter[Hashable] = Counter()

    def begin_call(self, prompts: Sequence[Hashable], level: float | int) -> bool:
        """A call of the model begins.

        Args:
            prompts: The prompts of its rows, in order, n rows each.
            level: Its noise level.

        Returns:
            Whether a step begins with it, that is, another noise level.
        """
        self.prompts = prompts
        if level == self.level:
            return False
        self.level = level
        self._visits[level] += 1  # solvers such as heunpp2 come back to a level
        self._calls.clear()
        if self.maps is not None:
            self.maps.next_step()
        return True

    def end_call(self) -> None:
        """The call is over."""
        self._calls.update(self.prompts)

    def call_of(self, prompt: Hashable) -> Hashable:
        """What tells this call of a prompt from all others of the sampling."""
        assert self.level is not None
        return self.level, self._visits[self.level], self._calls[prompt]

    def read(self, q: Tensor, k: Tensor, v: Tensor, heads: int, layer: Layer, attend: Attend) -> Tensor:
        """The cross-attention hook; it changes nothing."""
        self.look(q, k, heads, layer.grid, k.shape[1])
        return attend(q, k, v, heads)

    def look(
        self, q: Tensor, k: Tensor, heads: int, grid: tuple[int, int], text: int, mask: Tensor | None = None
    ) -> None:
        """Read one layer.

        Args:
            q: The queries of the picture's tokens.
            k: The keys of the text's.
            heads: Heads in the last axis of both.
            grid: The picture's height and width in tokens.
            text: How many tokens the model was given as text; further keys are its own padding.
            mask: What the layer adds to the scores of the text's keys, `(rows, keys)`.
        """
        if len(q) != self.frames * len(self.prompts) or q.shape[1] != grid[0] * grid[1]:
            return
        for place, prompt in enumerate(self.prompts):
            if prompt in self.positions and not self._calls[prompt]:
                rows = slice(place * self.frames, (place + 1) * self.frames)
                positions = self.positions[prompt](text)
                if not positions:
                    continue  # nobody is named, or the text was changed on the way
                if self.maps is None:
                    self.maps = TokenMaps(grid, self.decay)  # a UNet's first layers are its finest
                self.maps.add(
                    token_maps(q[rows], k[rows], positions, heads, None if mask is None else mask[rows]), grid
                )
