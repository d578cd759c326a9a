"""Auto-mask self-attention: frames that see each other's people (Storynizor, section 3.1, equations 4 and 6).

`shared_subject_attention` does one layer. A host that runs many layers splits it: `SubjectPositions.of` once per mask
and grid; then in every layer of that grid, for conditional and unconditional rows apart, `gather` and
`attend_across_frames`. For a story longer than a batch the anchor frames run together and what each layer gathered
goes into a `SubjectBank`; the other frames then run one at a time, each reading the bank, so that memory stays that
of the anchors whatever the number of frames.

Axes: n frame, l token of a frame, m subject token of all frames together, e heads * width of a head.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""(q, k, v, heads) -> out on `b l e` tensors, where k and v may be longer than q: `plain_attention`, or the host's."""

_Label = int | None


def plain_attention(
    q: Float[Tensor, "b l e"], k: Float[Tensor, "b m e"], v: Float[Tensor, "b m e"], heads: int
) -> Float[Tensor, "b l e"]:
    """Softmax attention of every head, by torch's scaled_dot_product_attention."""
    q, k, v = (tensor.unflatten(2, (heads, -1)).transpose(1, 2) for tensor in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class SubjectTokens:
    """Keys and values of subject tokens of several frames.

    Args:
        k: Keys.
        v: Values.
        bounds: For each character label, where the tokens of frame 0, 1, ... begin, and last where the final frame's
            end. The one label of tokens without characters is None.
    """

    k: Float[Tensor, "m e"]
    v: Float[Tensor, "m e"]
    bounds: Mapping[_Label, tuple[int, ...]]

    def of(self, label: _Label, but_frame: int | None = None) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of one label, as views, in all frames or in all but one; no empty ones."""
        if label not in self.bounds:
            return []
        bounds = self.bounds[label]
        spans = [(bounds[0], bounds[-1])]
        if but_frame is not None:
            spans = [(bounds[0], bounds[but_frame]), (bounds[but_frame + 1], bounds[-1])]
        return [(self.k[start:stop], self.v[start:stop]) for start, stop in spans if start < stop]

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "SubjectTokens":
        """The same tokens elsewhere; moved first, converted there."""
        return SubjectTokens(self.k.to(device).to(dtype), self.v.to(device).to(dtype), self.bounds)


@dataclass(frozen=True)
class SubjectPositions:
    """Where the subjects of n frames lie on one grid: made once per mask, read by every layer of that grid.

    Args:
        frames: n.
        tokens: l.
        subject: Subject tokens, counted through all frames (frame * l + token), one label after the other.
        bounds: As in `SubjectTokens`.
        queries: For each frame, which of its tokens bear which label.
    """

    frames: int
    tokens: int
    subject: Int[Tensor, " m"]
    bounds: Mapping[_Label, tuple[int, ...]]
    queries: tuple[Mapping[_Label, Tensor | slice], ...]

    @classmethod
    def of(
        cls,
        subject: Bool[Tensor, "n l"],
        characters: Int[Tensor, "..."] | None = None,
        device: torch.device | str | None = None,
    ) -> "SubjectPositions":
        """Find the subject tokens. This is the one place that waits for the device the masks are on.

        Args:
            subject: Which tokens the other frames may see.
            characters: In the same shape, a label for every token, subject or not. Tokens see elsewhere only subject
                tokens of their own label; a label that no subject token bears (-1, say, for the background) sees
                nothing elsewhere. None: all tokens see all subject tokens.
            device: Where the keys will be; None: where `subject` is.

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
        return cls(frames, tokens, positions.to(device), bounds, _queries(frames, labels, device))

    def gather(self, k: Float[Tensor, "n l e"], v: Float[Tensor, "n l e"]) -> SubjectTokens:
        """The subjects' keys and values, copied once for all frames."""
        return SubjectTokens(
            k.flatten(0, 1).index_select(0, self.subject), v.flatten(0, 1).index_select(0, self.subject), self.bounds
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
) -> Float[Tensor, "n l e"]:
    """`shared_subject_attention` for positions already found; `subjects` is what they gather from k and v."""
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
    seen = [
        [(own, subjects.of(label, frame) + (further.of(label) if further else [])) for label, own in labels.items()]
        for frame, labels in enumerate(positions.queries)
    ]
    if strength == 0 or not any(tokens for groups in seen for _, tokens in groups):
        return attend(q, k, v, heads)
    shared = torch.empty_like(q)
    for frame, groups in enumerate(seen):
        here = slice(frame, frame + 1)
        _attend_frame(shared[here], q[here], k[here], v[here], groups, heads, attend)
    return shared if strength == 1 else torch.lerp(attend(q, k, v, heads), shared, strength)


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
    groups: list[tuple[Tensor | slice, list[tuple[Tensor, Tensor]]]],
    heads: int,
    attend: Attend,
) -> None:
    """One frame, into `out`; each group is some of its queries with the foreign keys and values that they see."""
    if not any(seen for _, seen in groups):
        groups = [(slice(None), [])]
    for own, seen in groups:
        keys = torch.cat([k, *(key[None] for key, _ in seen)], dim=1) if seen else k
        values = torch.cat([v, *(value[None] for _, value in seen)], dim=1) if seen else v
        out[:, own] = attend(q[:, own], keys, values, heads)


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


class SubjectBank:
    """Subject tokens of the anchor frames, per step and layer, for frames that are run later.

    The pass over the anchors puts what each layer gathered; the bank is then read only. It holds the anchors' subject
    tokens and nothing else: 2 * m * e numbers per step and layer. Steps and layers are named by whatever hashable
    values the host likes; conditional and unconditional rows are different layers.

    Args:
        dtype: How tokens are stored, on the CPU. float16 keeps 11 bits; float32 and bfloat16 have a wider range.
    """

    def __init__(self, dtype: torch.dtype = torch.float16) -> None:
        self.dtype = dtype
        self._entries: dict[tuple[Hashable, Hashable], SubjectTokens] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors held."""
        return sum(tokens.k.nbytes + tokens.v.nbytes for tokens in self._entries.values())

    def __contains__(self, step_and_layer: tuple[Hashable, Hashable]) -> bool:
        """Whether the anchors' pass put anything there."""
        return step_and_layer in self._entries

    def put(self, step: Hashable, layer: Hashable, tokens: SubjectTokens) -> None:
        """Keep a copy of what a layer gathered at a step.

        Raises:
            ValueError: If this step and layer are in the bank already, or a number is too large for its dtype.
        """
        if (step, layer) in self._entries:
            raise ValueError(
                f"The bank already holds step {step}, layer {layer}. Name every call of the model apart (a sampler may "
                "call it twice in a step), and conditional and unconditional rows too."
            )
        stored = SubjectTokens(
            tokens.k.detach().to("cpu", self.dtype, copy=True),
            tokens.v.detach().to("cpu", self.dtype, copy=True),
            tokens.bounds,
        )
        if not (stored.k.isfinite().all() and stored.v.isfinite().all()):
            raise ValueError(f"Step {step}, layer {layer}: a key or value is not finite in {self.dtype}.")
        self._entries[step, layer] = stored

    def get(self, step: Hashable, layer: Hashable, device: torch.device | str, dtype: torch.dtype) -> SubjectTokens:
        """The anchors' tokens of a step and layer, to be passed as `further`.

        Raises:
            ValueError: If the anchors' pass did not put them.
        """
        if (step, layer) not in self._entries:
            raise ValueError(
                f"The bank holds nothing for step {step}, layer {layer}. Run the anchor frames with the same schedule, "
                "guidance and layers as the frames that read them."
            )
        return self._entries[step, layer].to(device, dtype)
