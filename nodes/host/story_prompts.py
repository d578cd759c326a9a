"""The prompts of frames as one batched CONDITIONING that says where it names whom.

What it says travels in the entry's dict, under `NAMED`, so it comes through every node that copies an entry
(ControlNet, masks, timestep ranges) and reaches the sampler with the prompt itself.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import torch
from torch import Tensor

from ...core.quoting import quote
from ...core.story import Frame
from ..types import Conditioning
from .checkpoint_parts import require_parts
from .prompt import span_positions
from .word_tokens import Encoder, encoder_of, word_places

MOST_TOKENS = 30 * 77
"""The longest text that rows are repeated to: 30 windows, a common multiple of 1, 2, 3, 5 and 6.

An SDXL prompt of that length has 18 MiB, an SD1.5 prompt 7 MiB. Longer prompts than that stay as they are.
"""

NAMED = "story_identity_named"

OWN_SHAPES = "story_identity_own_shapes"
"""Where an entry says, per tensor, the shape that each row had by itself, before rows were padded to a batch."""


OWN_ROWS = "story_identity_own_rows"
"""Where an entry has, for what a prompt carries without a batch axis (Anima's T5 tokens), the value of every row."""


@dataclass(frozen=True)
class Named:
    """Where one CONDITIONING entry names each character.

    Args:
        names: The characters.
        prompts: The text of every frame, to tell stories apart.
        positions: Per character and frame, places on the token axis; none where the character is not in the frame.
        tokens: Length of that axis.
        as_given: The positions are those in the text that the network is given, whatever is behind it.
    """

    names: list[str]
    prompts: list[str]
    positions: list[list[list[int]]]
    tokens: int
    as_given: bool = False

    def padded_to(self, length: int) -> list[list[list[int]]] | None:
        """The positions in a text that a transformer's host padded to a length, which it does in front."""
        before = 0 if self.as_given else length - self.tokens
        if before < 0:
            return None
        return [[[before + place for place in places] for places in frames] for frames in self.positions]

    def in_text_of(self, length: int) -> list[list[list[int]]] | None:
        """The positions in a text of another length, or None if it is not this one, repeated.

        The host repeats prompts of different lengths until they can share a call. Attention to a repeated token is that
        to the token, distributed, so all its places count.
        """
        repeats, rest = divmod(length, self.tokens)
        if rest or not repeats:
            return None
        return [[_repeated(places, self.tokens, length) for places in frames] for frames in self.positions]


def encode_frames(clip: Any, frames: Sequence[Frame], names: Sequence[str]) -> tuple[Conditioning, Conditioning]:
    """The prompts and the negative prompts of frames, a row per frame in each; the positive says where it names whom.

    For UNets, every row is what the stock CLIP Text Encode makes of that prompt, repeated to a common length, as the
    host does when it joins prompts: what is drawn does not change. Where that would take more than `MOST_TOKENS`, some
    rows are repeated unevenly, which changes what is drawn a little, and a warning says so.

    For diffusion transformers, in which a repeated text is another text, rows of different lengths are padded with
    zeros, and the entry says what each was: AMSA Model Patch and Preview Attention Masks take the padding off.

    Raises:
        ValueError: If there is no CLIP, or it is of a model in which the places of words are not known.
    """
    require_parts("Encode Story or Encode Frame", clip=clip)
    encoder = encoder_of(clip, "Encode Story and Encode Frame")
    texts = dict.fromkeys(text for frame in frames for text in (frame.prompt, frame.negative))
    made = {text: clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in texts}
    encoded, negatives = [made[frame.prompt] for frame in frames], [made[frame.negative] for frame in frames]
    lengths = [entries[0][0].shape[1] for entries in encoded]
    if encoder is not None:
        places = [
            [_places_in(clip, encoder, frame, name, entries) for frame, entries in zip(frames, encoded, strict=True)]
            for name in names
        ]
        return _with_names(padded_batch(encoded), names, frames, places, encoder), padded_batch(negatives)
    _warn_of_uneven_rows(frames, lengths, "prompt")
    _warn_of_uneven_rows(frames, [entries[0][0].shape[1] for entries in negatives], "negative prompt")
    whole = common_length(lengths)
    places = [
        [_repeated(_places(clip, frame, name), length, whole) for frame, length in zip(frames, lengths, strict=True)]
        for name in names
    ]
    return _with_names(_one_batch(encoded), names, frames, places), _one_batch(negatives)


def _with_names(
    batch: Conditioning,
    names: Sequence[str],
    frames: Sequence[Frame],
    positions: list[list[list[int]]],
    encoder: Encoder | None = None,
) -> Conditioning:
    """A CONDITIONING that says where it names whom."""
    named = {"names": list(names), "prompts": [frame.prompt for frame in frames], "positions": positions}
    if encoder is not None and not encoder.ends_text:
        named["as_given"] = True
    return [[tensor, {**extras, NAMED: named}] for tensor, extras in batch]


def padded_batch(encoded: Sequence[Conditioning]) -> Conditioning:
    """One CONDITIONING of several, for transformers: the rows as they are, with zeros behind the shorter ones."""
    batch: Conditioning = []
    for entries in zip(*encoded, strict=True):
        extras, shapes, own_rows = dict(entries[0][1]), {}, {}
        rows, own = _padded([tensor for tensor, _ in entries])
        if own:
            shapes["cross_attn"] = own
        for key, value in extras.items():
            if isinstance(value, Tensor) and value.ndim == 1 and len(entries) > 1:
                own_rows[key] = [each[key] for _, each in entries]
            elif isinstance(value, Tensor):
                extras[key], own = _padded([each[key] for _, each in entries])
                if own:
                    shapes[key] = own
        further = {key: value for key, value in ((OWN_SHAPES, shapes), (OWN_ROWS, own_rows)) if value}
        batch.append([rows, {**extras, **further}])
    return batch


def _padded(tensors: Sequence[Tensor]) -> tuple[Tensor, list[tuple[int, ...]]]:
    """Rows of different shapes as one batch, zeros behind; and the shape of each row, where they differ."""
    shapes = [tuple(tensor.shape[1:]) for tensor in tensors]
    if len(set(shapes)) == 1:
        return torch.cat(list(tensors)), []
    whole = tensors[0].new_zeros(sum(map(len, tensors)), *map(max, zip(*shapes, strict=True)))
    for row, tensor in enumerate(tensors):
        whole[(row, *map(slice, tensor.shape[1:]))] = tensor[0]
    return whole, shapes


def own_row(value: Tensor, key: str, shapes: Sequence[tuple[int, ...]], frame: int) -> Tensor:
    """A frame's row without its padding.

    Args:
        value: The padded rows, of all frames or of this one.
        key: What the entry calls them.
        shapes: What `OWN_SHAPES` says of them.
        frame: The frame's number.

    Raises:
        ValueError: If another node changed the length of the rows.
    """
    if tuple(value.shape[1:]) != tuple(map(max, zip(*shapes, strict=True))):
        raise ValueError(
            f"The prompts of Encode Story have different lengths, and another node changed {quote(key)} to the shape "
            f"{tuple(value.shape)}. Take that node (Conditioning Concat, for example) out of their way."
        )
    row = value[frame : frame + 1] if len(value) > 1 else value
    return row[(slice(None), *map(slice, shapes[frame]))]


def common_length(lengths: Sequence[int]) -> int:
    """The length to which rows are repeated: their least common multiple, if it is at most `MOST_TOKENS`.

    Attention to a text that is repeated whole is attention to the text. If the multiple is longer, the length at which
    the repetition is the least uneven.
    """
    multiple, most = math.lcm(*lengths), max(MOST_TOKENS, *lengths)
    if multiple <= most:
        return multiple
    return min(
        range(max(lengths), most + 1, math.gcd(*lengths)),
        key=lambda whole: max(_unevenness(length, whole) for length in set(lengths)),
    )


def _unevenness(length: int, whole: int) -> float:
    """By how much a part of a text counts too much or too little in its repetition to a length; 0: not at all."""
    times, rest = divmod(whole, length)
    return max((times + 1) * length / whole - 1, 1 - times * length / whole) if rest else 0.0


def _warn_of_uneven_rows(frames: Sequence[Frame], lengths: Sequence[int], what: str) -> None:
    whole = common_length(lengths)
    uneven = [(frame, length) for frame, length in zip(frames, lengths, strict=True) if whole % length]
    if not uneven:
        return
    shown = ", ".join(f"{frame.label} ({length} tokens)" for frame, length in uneven[:10])
    logging.warning(
        "Encode Story: %ss of %s tokens have no common multiple up to %d, so the %ss of %s%s are repeated unevenly: "
        "parts of them count up to %.0f %% too much or too little. To draw just what each says, bring them to lengths "
        "that divide %d, by leaving out or adding words.",
        what,
        ", ".join(map(str, sorted(set(lengths)))),
        MOST_TOKENS,
        what,
        shown,
        f" and {len(uneven) - 10} more" if len(uneven) > 10 else "",
        100 * max(_unevenness(length, whole) for _, length in uneven),
        whole,
    )


def named_in(conds: dict[str, list[dict[str, Any]]]) -> dict[UUID, Named]:
    """Where a guider's prompts name whom, by the uuid under which the host runs each.

    Prompts for a part of the picture are left out: their grids are others, and the host gives the same uuid to the
    unconditional counterpart it makes up.
    """
    return {
        cond["uuid"]: Named(**cond[NAMED], tokens=cond["cross_attn"].shape[1])
        for entries in conds.values()
        for cond in entries
        if NAMED in cond and cond.get("area") is None and not cond.get("set_area_to_bounds")
    }


def _one_batch(encoded: Sequence[Conditioning]) -> Conditioning:
    """One CONDITIONING of several; its entries are as many as each has (more than one with scheduled LoRA hooks)."""
    batch: Conditioning = []
    for entries in zip(*encoded, strict=True):
        whole = torch.arange(common_length([tensor.shape[1] for tensor, _ in entries]))
        rows = torch.cat([tensor[:, whole % tensor.shape[1]] for tensor, _ in entries])
        extras = dict(entries[0][1])
        for key, value in extras.items():
            if isinstance(value, Tensor):
                extras[key] = torch.cat([each[key] for _, each in entries])
        batch.append([rows, extras])
    return batch


def _places(clip: Any, frame: Frame, name: str) -> list[int]:
    """All tokens of the words with which the frame's prompt says who a character is."""
    appearance = frame.appearance_of(name)
    spans = () if appearance is None else appearance.identifying_words
    return sorted({place for span in spans for place in span_positions(clip, frame.prompt, span, frame.label)})


def _places_in(clip: Any, encoder: Encoder, frame: Frame, name: str, encoded: Conditioning) -> list[int]:
    """The same for a transformer's text encoder."""
    appearance = frame.appearance_of(name)
    spans = () if appearance is None else appearance.identifying_words
    found = (word_places(clip, encoder, frame.prompt, span, frame.label, encoded) for span in spans)
    return sorted({place for places in found for place in places})


def _repeated(places: Sequence[int], length: int, whole: int) -> list[int]:
    """All places in a text that is repeated to a length, of places in the text."""
    return [place for start in range(0, whole, length) for place in (start + each for each in places) if place < whole]
