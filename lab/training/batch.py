"""What both trainers make of groups before they ask the UNet: some pictures of each, captions left out at random."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.quoting import quote, quote_all
from ...core.shapes import Float
from ...headless.prompts import word_positions
from ..step_random import StepRandom
from .groups import Group
from .settings import TrainingSettings

Places = Sequence[Sequence[Sequence[int]]]
"""Per character and row of the batch, the tokens of the words that say who it is; none where no words do."""


@dataclass(frozen=True)
class Batch:
    """Groups of as many pictures each; n counts all of their pictures.

    Args:
        groups: At the size that is trained.
        pictures: In [0, 1].
        masks: Where the characters are; as many per picture as the largest group has.
        captions: Empty where they are left out, which is for all pictures of a group, as in guidance.
        labels: What messages call each picture.
    """

    groups: tuple[Group, ...]
    pictures: Float[Tensor, "n h w 3"]
    masks: Float[Tensor, "n s h w"]
    captions: list[str]
    labels: list[str]

    @property
    def most(self) -> int:
        """Characters of the largest group."""
        return self.masks.shape[1]

    @property
    def whole_captions(self) -> list[str]:
        """The captions, none of them left out."""
        return [caption for group in self.groups for caption in group.captions]

    def places(self, pipe: Any, captions: Sequence[str]) -> Places:
        """Where some of `whole_captions` name the characters, by a pipeline's tokenizer; nowhere in empty ones."""
        found = []
        for character in range(self.most):
            rows: list[Sequence[tuple[int, int]]] = []
            for group in self.groups:
                rows += group.words[character] if character < len(group.names) else ((),) * len(group)
            pairs = zip(captions, rows, strict=True)
            found.append([_tokens(pipe, caption, spans) if caption else [] for caption, spans in pairs])
        return found


def batch_of(groups: Sequence[Group], settings: TrainingSettings, random: StepRandom) -> Batch:
    """Make a batch.

    Raises:
        ValueError: If a group has too few pictures.
    """
    height, width, frames = settings.height, settings.width, settings.frames
    fitted = tuple(some_of(group, frames, random).fitted(height, width) for group in groups)
    dropped = random.chosen(len(groups), settings.text_dropout)
    captions = [
        "" if out else caption for group, out in zip(fitted, dropped, strict=True) for caption in group.captions
    ]
    most = max(len(group.names) for group in fitted)
    masks = [torch.nn.functional.pad(group.masks.float(), (0, 0, 0, 0, 0, most - len(group.names))) for group in fitted]
    return Batch(
        groups=fitted,
        pictures=torch.cat([group.pictures for group in fitted]),
        masks=torch.cat(masks),
        captions=captions,
        labels=[f"A picture of {', '.join(group.names)}" for group in fitted for _ in group.captions],
    )


def some_of(group: Group, frames: int, random: StepRandom) -> Group:
    """Some of a group's pictures, in random order.

    Raises:
        ValueError: If it has too few.
    """
    if len(group) < frames:
        raise ValueError(
            f"The group of {quote_all(group.names)} has {len(group)} pictures, and frames is {frames}. Build larger "
            "groups, or set frames lower."
        )
    return group.of(random.numpy.permutation(len(group))[:frames].tolist())


def _tokens(pipe: Any, caption: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    label = f"The caption {quote(caption)}"
    return sorted({place for span in spans for place in word_positions(pipe, caption, span, label)})
