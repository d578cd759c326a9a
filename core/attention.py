"""Auto-mask self-attention: frames that see each other's people (Storynizor, section 3.1, equations 4 and 6).

`shared_subject_attention` does one layer. A host that runs many layers splits it: `SubjectPositions.of` once per mask
and grid; then in every layer of that grid, for conditional and unconditional rows apart, `gather` and
`attend_across_frames`. For a story longer than a batch the anchor frames run together and what each layer gathered
goes into a `SubjectBank`; the other frames then run one at a time, each reading the bank, so that memory stays that
of the anchors whatever the number of frames.

Axes: n frame, l token of a frame, m subject token of all frames together, e heads * width of a head.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from .shapes import Bool, Float, Int

Attend = Callable[..., Tensor]
"""(q, k, v, heads) -> out on `b l e` tensors, where k and v may be longer than q: `plain_attention`, or the host's.

Where the host masks keys, it is called with a fifth argument: what is added to the scores of each key, `(b, tokens)`.
"""

Move = Callable[[Tensor, Tensor, int], Tensor]
"""(k, by, heads) -> k: keys `(m, e)` as they would be at places that lie `by` (m, 2: down, right) grid cells away."""

_Label = int | None


def plain_attention(
    q: Float[Tensor, "b l e"],
    k: Float[Tensor, "b m e"],
    v: Float[Tensor, "b m e"],
    heads: int,
    mask: Float[Tensor, "b m"] | None = None,
) -> Float[Tensor, "b l e"]:
    """Softmax attention of every head, by torch's scaled_dot_product_attention; `mask` is added to the scores."""
    q, k, v = (tensor.unflatten(2, (heads, -1)).transpose(1, 2) for tensor in (q, k, v))
    added = None if mask is None else mask[:, None, None].to(q.dtype)
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=added).transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class SubjectTokens:
    """Keys and values of subject tokens of several frames.

    Args:
        k: Keys.
        v: Values.
        bounds: For each character label, where the tokens of frame 0, 1, ... begin, and last where the final frame's
            end. The one label of tokens without characters is None.
        centers: Where the middle of each token's own character is in its frame (down, right, in grid cells); None
            where the grid is not known.
    """

    k: Float[Tensor, "m e"]
    v: Float[Tensor, "m e"]
    bounds: Mapping[_Label, tuple[int, ...]]
    centers: Float[Tensor, "m two"] | None = None

    def of(self, label: _Label, but_frame: int | None = None) -> list[slice]:
        """Where the tokens of one label are, in all frames or in all but one; no empty parts."""
        if label not in self.bounds:
            return []
        bounds = self.bounds[label]
        spans = [(bounds[0], bounds[-1])]
        if but_frame is not None:
            spans = [(bounds[0], bounds[but_frame]), (bounds[but_frame + 1], bounds[-1])]
        return [slice(start, stop) for start, stop in spans if start < stop]

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "SubjectTokens":
        """The same tokens elsewhere; moved first, converted there."""
        centers = None if self.centers is None else self.centers.to(device)
        return SubjectTokens(self.k.to(device).to(dtype), self.v.to(device).to(dtype), self.bounds, centers)

    def joined(self, other: "SubjectTokens") -> "SubjectTokens":
        """These tokens and those of further frames, of which nobody asks any more which frame each is from."""
        parts: list[tuple[SubjectTokens, slice]] = []
        bounds: dict[_Label, tuple[int, ...]] = {}
        start = 0
        for label in dict.fromkeys([*self.bounds, *other.bounds]):
            found = [(tokens, where) for tokens in (self, other) for where in tokens.of(label)]
            stop = start + sum(where.stop - where.start for _, where in found)
            bounds[label] = (start, stop)
            parts, start = [*parts, *found], stop
        centers = [tokens.centers[where] for tokens, where in parts if tokens.centers is not None]
        if not parts:
            return SubjectTokens(self.k, self.v, bounds, self.centers)
        return SubjectTokens(
            torch.cat([tokens.k[where] for tokens, where in parts]),
            torch.cat([tokens.v[where] for tokens, where in parts]),
            bounds,
            torch.cat(centers) if len(centers) == len(parts) else None,
        )


@dataclass(frozen=True)
class SubjectPositions:
    """Where the subjects of n frames lie on one grid: made once per mask, read by every layer of that grid.

    Args:
        frames: n.
        tokens: l.
        subject: Subject tokens, counted through all frames (frame * l + token), one label after the other.
        bounds: As in `SubjectTokens`.
        queries: For each frame, which of its tokens bear which label.
        centers: As in `SubjectTokens`.
        middles: For each frame, where the middle of each label's subject is; only of those that are there.
    """

    frames: int
    tokens: int
    subject: Int[Tensor, " m"]
    bounds: Mapping[_Label, tuple[int, ...]]
    queries: tuple[Mapping[_Label, Tensor | slice], ...]
    centers: Float[Tensor, "m two"] | None = None
    middles: tuple[Mapping[_Label, Float[Tensor, " two"]], ...] = ()

    @classmethod
    def of(
        cls,
        subject: Bool[Tensor, "n l"],
        characters: Int[Tensor, "..."] | None = None,
        device: torch.device | str | None = None,
        places: Float[Tensor, "l two"] | None = None,
    ) -> "SubjectPositions":
        """Find the subject tokens. This is the one place that waits for the device the masks are on.

        Args:
            subject: Which tokens the other frames may see.
            characters: A label for every token, subject or not, in the shape of `subject`. Tokens see elsewhere only
                subject tokens of their own label; a label that no subject token bears (-1, say, for the background)
                sees nothing elsewhere. None: all tokens see all subject tokens.
            device: Where the keys will be; None: where `subject` is.
            places: Where each token of a frame is (down, right, in grid cells), for `Move`.

        Raises:
            ValueError: If `characters` has another shape.
        """
        if characters is not None and characters.shape != subject.shape:
            raise ValueError(
                f"The character labels have shape {tuple(characters.shape)}, the subject mask {tuple(subject.shape)}; "
                "give one label per token."
            )
        device = subject.device if device is None else device
        labels = None if characters is None else characters.cpu()
        wanted = _by_label(subject.cpu(), labels)
        bounds: dict[_Label, tuple[int, ...]] = {}
        start = 0
        for label, mask in wanted.items():
            bounds[label] = tuple(accumulate(mask.sum(dim=1).tolist(), initial=start))
            start = bounds[label][-1]
        found = [mask.flatten().nonzero().squeeze(1) for mask in wanted.values()]
        positions = torch.cat(found) if found else torch.zeros(0, dtype=torch.long)
        frames, tokens = subject.shape
        queries = _queries(frames, labels, device)
        if places is None:
            return cls(frames, tokens, positions.to(device), bounds, queries)
        middles, centers = _middles(wanted, bounds, places.cpu())
        there = tuple({label: middle.to(device) for label, middle in known.items()} for known in middles)
        return cls(frames, tokens, positions.to(device), bounds, queries, centers.to(device), there)

    def gather(self, k: Float[Tensor, "n l e"], v: Float[Tensor, "n l e"]) -> SubjectTokens:
        """The subjects' keys and values, copied once for all frames."""
        return SubjectTokens(
            k.flatten(0, 1).index_select(0, self.subject),
            v.flatten(0, 1).index_select(0, self.subject),
            self.bounds,
            self.centers,
        )


def shared_subject_attention(
    q: Float[Tensor, "n l e"],
    k: Float[Tensor, "..."],
    v: Float[Tensor, "..."],
    subject: Bool[Tensor, "frames tokens"],
    heads: int,
    strength: float | int = 1.0,
    characters: Int[Tensor, "..."] | None = None,
    further: SubjectTokens | None = None,
    attend: Attend = plain_attention,
) -> Float[Tensor, "n l e"]:
    """Self-attention in which every frame also sees the other frames' subjects (Storynizor, equations 4 and 6).

    The queries of frame f attend to all keys of f and to the subject keys of the other frames: exactly, by one call
    of `attend` per frame (with `characters`: per frame and label) on its own and the gathered keys, with no mask.

    Args:
        q: Queries after their projection, in any float dtype.
        k: Keys, of the same shape.
        v: Values, of the same shape.
        subject: Which tokens the other frames may see, (n l).
        heads: Heads in the last axis.
        strength: 0 to 1: (1 - strength) * plain attention + strength * shared attention. At 0, or with nothing to
            see, the result is plain attention's bit for bit; at 1 plain attention is not computed.
        characters: A label per token, (n l); see `SubjectPositions.of`.
        further: Tokens from outside the batch that all frames see too, such as a bank's.
        attend: The attention to use.

    Returns:
        What attention gives for q, before the output projection.

    Raises:
        ValueError: If a shape, `heads` or `strength` does not fit.
    """
    _refuse_shapes(q, k, v, tuple(subject.shape))
    positions = SubjectPositions.of(subject, characters, q.device)
    return attend_across_frames(q, k, v, heads, positions, positions.gather(k, v), strength, further, attend)


def attend_across_frames(
    q: Float[Tensor, "n l e"],
    k: Float[Tensor, "..."],
    v: Float[Tensor, "..."],
    heads: int,
    positions: SubjectPositions,
    subjects: SubjectTokens,
    strength: float | int = 1.0,
    further: SubjectTokens | None = None,
    attend: Attend = plain_attention,
    mask: Float[Tensor, "n l"] | None = None,
    move: Move | None = None,
) -> Float[Tensor, "n l e"]:
    """`shared_subject_attention` for positions already found; `subjects` is what they gather from k and v.

    `mask` is added to the scores of each frame's own keys; other frames' keys are never masked. With `move`, their
    keys are those that they would have where this frame shows the same character, middle upon middle.
    """
    _refuse_shapes(q, k, v, (positions.frames, positions.tokens))
    if heads < 1 or q.shape[2] % heads:
        raise ValueError(f"{heads} heads do not divide a width of {q.shape[2]}.")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength}; it must be from 0 (plain attention) to 1 (shared attention).")
    if further is not None and len(further.k) and (None in further.bounds) != (None in positions.bounds):
        raise ValueError(
            "The subject tokens of other frames were gathered with character labels and these without, or the other "
            "way round; use the same setting for both."
        )
    seen: list[_Seen] = [
        [(label, own, _spans(subjects, label, frame) + _spans(further, label)) for label, own in labels.items()]
        for frame, labels in enumerate(positions.queries)
    ]
    if strength == 0 or not any(tokens for groups in seen for _, _, tokens in groups):
        return attend(q, k, v, heads, *(() if mask is None else (mask,)))
    shared = torch.empty_like(q)
    for frame, groups in enumerate(seen):
        here = slice(frame, frame + 1)
        known = _known_here(positions, frame, groups, heads, move)
        _attend_frame(
            shared[here], q[here], k[here], v[here], known, heads, attend, None if mask is None else mask[here]
        )
    if strength == 1:
        return shared
    return torch.lerp(attend(q, k, v, heads, *(() if mask is None else (mask,))), shared, strength)


_Seen = list[tuple[_Label, Tensor | slice, list[tuple[SubjectTokens, slice]]]]
"""Some of a frame's queries, by label, and what they see of other frames."""

_Known = list[tuple[Tensor | slice, list[tuple[Tensor, Tensor]]]]
"""Some of a frame's queries, and the foreign keys and values that they see."""


def _spans(
    tokens: SubjectTokens | None, label: _Label, but_frame: int | None = None
) -> list[tuple[SubjectTokens, slice]]:
    return [] if tokens is None else [(tokens, where) for where in tokens.of(label, but_frame)]


def _known_here(positions: SubjectPositions, frame: int, groups: _Seen, heads: int, move: Move | None) -> _Known:
    """What a frame's queries see of other frames; with `move`, keys as where this frame has the same character."""
    middles = positions.middles[frame] if positions.middles else {}

    def key(tokens: SubjectTokens, where: slice, label: _Label) -> Tensor:
        if move is None or tokens.centers is None or label not in middles:
            return tokens.k[where]
        by = (middles[label] - tokens.centers[where]).round()
        return move(tokens.k[where], by, heads)

    return [
        (own, [(key(tokens, where, label), tokens.v[where]) for tokens, where in seen]) for label, own, seen in groups
    ]


def _middles(
    wanted: Mapping[_Label, Bool[Tensor, "n l"]],
    bounds: Mapping[_Label, tuple[int, ...]],
    places: Float[Tensor, "l two"],
) -> tuple[tuple[Mapping[_Label, Tensor], ...], Float[Tensor, "m two"]]:
    """Per frame the middle of each label's subject, and for every subject token the middle of its own."""
    frames = len(next(iter(wanted.values()))) if wanted else 0
    middles: tuple[dict[_Label, Tensor], ...] = tuple({} for _ in range(frames))
    centers = torch.zeros(max((ends[-1] for ends in bounds.values()), default=0), 2)
    for label, mask in wanted.items():
        for frame, row in enumerate(mask):
            if row.any():
                middles[frame][label] = places[row].mean(dim=0)
                centers[bounds[label][frame] : bounds[label][frame + 1]] = middles[frame][label]
    return middles, centers


def _by_label(subject: Bool[Tensor, "n l"], labels: Int[Tensor, "n l"] | None) -> dict[_Label, Tensor]:
    """The subject mask of each label that a subject token bears."""
    if labels is None:
        return {None: subject}
    return {label: subject & (labels == label) for label in labels[subject].unique().tolist()}


def _queries(
    frames: int, labels: Int[Tensor, "n l"] | None, device: torch.device | str
) -> tuple[Mapping[_Label, Tensor | slice], ...]:
    """Per frame, the tokens of each label, subject or not."""
    if labels is None:
        everything: Mapping[_Label, Tensor | slice] = {None: slice(None)}
        return (everything,) * frames
    return tuple(
        {label: (row == label).nonzero().squeeze(1).to(device) for label in row.unique().tolist()} for row in labels
    )


def _attend_frame(
    out: Float[Tensor, "1 l e"],
    q: Float[Tensor, "1 l e"],
    k: Float[Tensor, "1 l e"],
    v: Float[Tensor, "1 l e"],
    groups: _Known,
    heads: int,
    attend: Attend,
    mask: Float[Tensor, "1 l"] | None = None,
) -> None:
    """One frame, into `out`; each group is some of its queries with the foreign keys and values that they see."""
    if not any(seen for _, seen in groups):
        groups = [(slice(None), [])]
    for own, seen in groups:
        keys = torch.cat([k, *(key[None] for key, _ in seen)], dim=1) if seen else k
        values = torch.cat([v, *(value[None] for _, value in seen)], dim=1) if seen else v
        if mask is None:
            out[:, own] = attend(q[:, own], keys, values, heads)
        else:
            further = torch.nn.functional.pad(mask, (0, keys.shape[1] - mask.shape[1]))
            out[:, own] = attend(q[:, own], keys, values, heads, further)


def _refuse_shapes(q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, ...]) -> None:
    if not q.shape == k.shape == v.shape:
        raise ValueError(
            f"q, k and v have shapes {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}; self-attention needs "
            "three of one shape."
        )
    if tuple(q.shape[:2]) != grid:
        raise ValueError(
            f"The masks are for (frames, tokens) = {grid}, but q has {tuple(q.shape[:2])}: give the rows of one batch "
            "of frames (conditional or unconditional) and the masks of this layer's grid."
        )
