"""Auto-mask self-attention during a sampling, in any host (Storynizor, section 3.1, equations 4 to 6).

All frames are one batch. The cross-attention of the prompts that name characters is read, and self-attention lets
every frame see the others' characters. The masks of a step come from the maps of the steps before it; the first step
is plain. (The paper also uses the layers of the same step that were run before. We do not, so that the masks of a step
do not depend on how the host divides it into calls, and are made once.) Conditional and unconditional rows use the
same masks and never see each other.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from .attention import Attend, Move, SubjectPositions, SubjectTokens, attend_across_frames
from .attention_hooks import Layer
from .map_reader import MapReader
from .shapes import Float, Int
from .subject_bank import CallBank, SubjectBank

LAYERS = {"all": slice(None), "without the largest": slice(1, None), "smallest two": slice(-2, None)}
"""Which of a model's grids share, counted from the largest."""

SKIPPED = "the anchor frames skipped a call of the model that these frames make (EasyCache, LazyCache)"

Further = Callable[[int, SubjectTokens], SubjectTokens | None]
"""(number of the group, what it gathered) -> tokens from outside the batch that the group sees too."""


@dataclass(frozen=True)
class Sharing:
    """How frames see each other.

    Args:
        strength: 0 (plain attention) to 1.
        threshold: "otsu", or the height at which normalised maps are cut.
        decay: Weight of the maps of earlier steps, 0 to under 1.
        same_character: Let a character's places see that character only.
        layers: A key of `LAYERS`. A model whose attention has one grid shares on that.
        blocks: Ranges of the numbers of the transformer blocks that share, from 0; None: all.
        matched: Let foreign keys have the positions that they would have where this frame shows the character, for
            hosts that can move them.
    """

    strength: float | int = 1.0
    threshold: str | float = "otsu"
    decay: float | int = 0.5
    same_character: bool = True
    layers: str = "all"
    blocks: tuple[range, ...] | None = None
    matched: bool = False


class FrameSharing:
    """One sampling of n frames that see each other.

    Args:
        settings: How they do.
        reader: Reads the maps; made for this sampling.
        levels: The noise levels from which and to which they share, the larger one first.
        report: Called once, with the reason, when a call gets plain attention though it should share.
        record: Where the anchor frames leave what they gather.
        see: Where later frames find it.
        move: How the host moves keys; asked for if `settings.matched`.
    """

    def __init__(
        self,
        settings: Sharing,
        reader: MapReader,
        levels: tuple[float, float] = (inf, 0.0),
        report: Callable[[str], None] = lambda reason: None,
        record: SubjectBank | CallBank | None = None,
        see: SubjectBank | CallBank | None = None,
        move: Move | None = None,
    ) -> None:
        self.settings, self.reader, self.levels = settings, reader, levels
        self.record, self.see = record, see
        self.move = move if settings.matched else None
        self._report, self._reported = report, False
        self._device: torch.device | str | None = None
        self._shown = False
        self._grids: set[tuple[int, int]] = set()
        self._labels: dict[tuple[int, int], Tensor] = {}
        self._subjects: dict[tuple[tuple[int, int], int, int], SubjectPositions] = {}

    def begin_call(
        self, prompts: Sequence[Hashable], level: float | int, device: torch.device | str | None = None
    ) -> None:
        """A call of the model begins, as in `MapReader.begin_call`.

        With a new step, masks are made of what was read so far, for every grid that shares.
        """
        self._shown = False
        if not self.reader.begin_call(prompts, level):
            return
        self._labels, self._subjects, self._device = {}, {}, device
        maps = self.reader.maps
        if maps is None and self._grids and self.reader.positions:
            self.report("no attention maps could be read, since another patch changes the tokens of the text")
        if maps is None or not self.settings.strength or not self.levels[1] <= level <= self.levels[0]:
            return
        grids = sorted(self._grids, key=lambda grid: -grid[0] * grid[1])
        for grid in grids[LAYERS[self.settings.layers]] or grids:
            labels = maps.labels(grid, self.settings.threshold)
            if labels is not None:
                self._labels[grid] = labels

    def end_call(self) -> None:
        """The call is over."""
        if not self._shown and isinstance(self.record, CallBank):
            self.record.skipped = True
        self.reader.end_call()

    def share(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        layer: Layer,
        attend: Attend,
        mask: Float[Tensor, "rows tokens"] | None = None,
    ) -> Tensor:
        """The self-attention hook; where the host masks keys, with what it adds to their scores."""
        self._grids.add(layer.grid)
        self._shown = True
        subjects, prompts = self._at(layer), self.reader.prompts
        if subjects is None:
            return attend(q, k, v, heads)
        if tuple(q.shape[:2]) != (len(prompts) * self.reader.frames, subjects.tokens) or k.shape != q.shape:
            self.report(f"another patch changes the tokens of block {layer.name} (token merging, tiling)")
            return attend(q, k, v, heads)

        def further(place: int, found: SubjectTokens) -> SubjectTokens | None:
            return self._exchange(prompts[place], layer, found)

        groups, strength = [subjects] * len(prompts), self.settings.strength
        return attend_in_groups(q, k, v, heads, groups, strength, further, attend, mask, self.move)

    def _at(self, layer: Layer) -> SubjectPositions | None:
        """Where the characters are in a layer's sequence, if it shares; made once per step and kind of sequence."""
        blocks = self.settings.blocks
        if layer.grid not in self._labels or (blocks is not None and not any(layer.block in each for each in blocks)):
            return None
        key = (layer.grid, layer.before, layer.after)
        if key not in self._subjects:
            labels, same = self._labels[layer.grid], self.settings.same_character
            self._subjects[key] = subject_positions(labels, same, self._device, layer, self.move is not None)
        return self._subjects[key]

    def report(self, reason: str) -> None:
        """Say once why a call gets plain attention."""
        if not self._reported:
            self._report(reason)
        self._reported = True

    def _exchange(self, prompt: Hashable, layer: Layer, found: SubjectTokens) -> SubjectTokens | None:
        """Give the bank what a prompt's frames have here, or take from it what the anchor frames had."""
        call, layer_key = self.reader.call_of(prompt), (prompt, layer.name)
        seen = self._seen(call, layer_key, found)
        if self.record is not None:
            self.record.put(call, layer_key, found)
        return seen

    def _seen(self, call: Hashable, layer_key: Hashable, found: SubjectTokens) -> SubjectTokens | None:
        if self.see is None:
            return None
        if isinstance(self.see, CallBank):
            if self.see.skipped:
                self.report(SKIPPED)
            return self.see.find(call, layer_key)
        if (call, layer_key) not in self.see:
            self.report(SKIPPED)
            return None
        return self.see.get(call, layer_key, found.k.device, found.k.dtype)


def subject_positions(
    labels: Int[Tensor, "n h w"],
    same_character: bool,
    device: torch.device | str | None = None,
    layer: Layer | None = None,
    with_places: bool = False,
) -> SubjectPositions:
    """Where the characters are in a sequence, from each picture token's character or -1 (`automask.character_labels`).

    Where text and picture are one sequence, the tokens that are not the picture's bear no label: they see nothing
    elsewhere, and nobody sees them.

    Args:
        labels: On the layer's grid.
        same_character: As in `Sharing`.
        device: Where the keys will be.
        layer: What lies around the picture in its sequence; None: nothing.
        with_places: Keep where each subject is, for `Move`.
    """
    around = (layer.before, layer.after) if layer else (0, 0)
    flat = torch.nn.functional.pad(labels.flatten(1), around, value=-1)
    characters = flat if same_character else None
    if not same_character and any(around):
        characters = torch.nn.functional.pad(torch.zeros_like(labels).flatten(1), around, value=-1)
    places = _places(labels.shape[1:], around) if with_places else None
    return SubjectPositions.of(flat >= 0, characters, device, places)


def _places(grid: torch.Size, around: tuple[int, int]) -> Float[Tensor, "l two"]:
    down, right = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in grid), indexing="ij")
    return torch.nn.functional.pad(torch.stack([down.flatten(), right.flatten()], dim=1), (0, 0, *around))


def attend_in_groups(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    groups: Sequence[SubjectPositions | None],
    strength: float | int,
    further: Further,
    attend: Attend,
    mask: Float[Tensor, "rows tokens"] | None = None,
    move: Move | None = None,
) -> Tensor:
    """`attend_across_frames` for a batch of several groups of frames that do not see each other.

    Args:
        q: `(groups * frames, tokens, heads * width)`.
        k: Like q.
        v: Like q.
        heads: Heads in the last axis.
        groups: Where each group's subjects are; plain attention for a group of None.
        strength: As in `attend_across_frames`.
        further: What a group sees from outside the batch.
        attend: The attention to use.
        mask: What is added to the scores of each row's own keys.
        move: As in `attend_across_frames`.
    """
    masks = [None] * len(groups) if mask is None else mask.chunk(len(groups))
    parts = zip(*(each.chunk(len(groups)) for each in (q, k, v)), groups, masks, strict=True)
    shared = []
    for number, (q_rows, k_rows, v_rows, subjects, added) in enumerate(parts):
        if subjects is None:
            shared.append(attend(q_rows, k_rows, v_rows, heads, *(() if added is None else (added,))))
            continue
        found = subjects.gather(k_rows, v_rows)
        seen = further(number, found)
        shared.append(
            attend_across_frames(q_rows, k_rows, v_rows, heads, subjects, found, strength, seen, attend, added, move)
        )
    return torch.cat(shared)
