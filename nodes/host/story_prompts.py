"""The prompts of frames as one batched CONDITIONING that says where it names whom.

What it says travels in the entry's dict, under `NAMED`, so it comes through every node that copies an entry
(ControlNet, masks, timestep ranges) and reaches the sampler with the prompt itself.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import torch
from torch import Tensor

from ...core.story import Frame
from ..types import Conditioning
from .prompt import span_positions

NAMED = "story_identity_named"

_ENCODERS = {"l", "g", "h"}
"""What the host calls the text encoders of UNets with cross-attention."""


@dataclass(frozen=True)
class Named:
    """Where one CONDITIONING entry names each character.

    Args:
        names: The characters.
        prompts: The text of every frame, to tell stories apart.
        positions: Per character and frame, places on the token axis; none where the character is not in the frame.
        tokens: Length of that axis.
    """

    names: list[str]
    prompts: list[str]
    positions: list[list[list[int]]]
    tokens: int

    def in_text_of(self, length: int) -> list[list[list[int]]] | None:
        """The positions in a text of another length, or None if it is not this one, repeated.

        The host repeats prompts of different lengths until they can share a call. Attention to a repeated token is that
        to the token, dealt out, so all its places count.
        """
        repeats, rest = divmod(length, self.tokens)
        if rest or not repeats:
            return None
        return [[_repeated(places, repeats, self.tokens) for places in frames] for frames in self.positions]


def encode_frames(clip: Any, frames: Sequence[Frame], names: Sequence[str]) -> tuple[Conditioning, Conditioning]:
    """The prompts and the negative prompts of frames, a row per frame in each; the positive says where it names whom.

    Every row is what the stock CLIP Text Encode makes of that prompt. A shorter one is repeated to the common length,
    as the host does when it joins prompts: what is drawn does not change.

    Raises:
        ValueError: If the CLIP is of a model without cross-attention to CLIP's tokens, such as Flux or SD3.
    """
    others = set(clip.tokenize("")) - _ENCODERS
    if others:
        raise ValueError(
            "Encode Story and Encode Frame need the CLIP of an SD1.5 or SDXL checkpoint; this one has the text encoder "
            f"{' and '.join(sorted(others))}."
        )
    texts = dict.fromkeys(text for frame in frames for text in (frame.prompt, frame.negative))
    made = {text: clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in texts}
    encoded, negatives = [made[frame.prompt] for frame in frames], [made[frame.negative] for frame in frames]
    lengths = [entries[0][0].shape[1] for entries in encoded]
    named = {
        "names": list(names),
        "prompts": [frame.prompt for frame in frames],
        "positions": [
            [
                _repeated(_places(clip, frame, name), math.lcm(*lengths) // length, length)
                for frame, length in zip(frames, lengths, strict=True)
            ]
            for name in names
        ],
    }
    positive = [[tensor, {**extras, NAMED: named}] for tensor, extras in _one_batch(encoded)]
    return positive, _one_batch(negatives)


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
        length = math.lcm(*(tensor.shape[1] for tensor, _ in entries))
        rows = torch.cat([tensor.repeat(1, length // tensor.shape[1], 1) for tensor, _ in entries])
        extras = dict(entries[0][1])
        for key, value in extras.items():
            if isinstance(value, Tensor):
                extras[key] = torch.cat([each[key] for _, each in entries])
        batch.append([rows, extras])
    return batch


def _places(clip: Any, frame: Frame, name: str) -> list[int]:
    """All tokens of the words with which the frame's prompt says who a character is."""
    spans = dict(zip((character.name for character in frame.cast), frame.telling_words, strict=True)).get(name, ())
    return sorted({place for span in spans for place in span_positions(clip, frame.prompt, span, frame.label)})


def _repeated(places: Sequence[int], repeats: int, length: int) -> list[int]:
    return [place + length * i for i in range(repeats) for place in places]
