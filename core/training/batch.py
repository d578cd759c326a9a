"""What both trainers make of groups before they ask the UNet: some pictures of each, captions left out at random."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .diffusion import Dice
from .groups import Group
from .settings import TrainingSettings


@dataclass(frozen=True)
class Batch:
    """Groups of as many pictures each; n counts all of their pictures.

    Args:
        groups: At the size that is trained.
        pictures: In [0, 1].
        masks: Where the characters are; as many per picture as the largest group has.
        captions: Empty where they are left out.
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


def batch_of(groups: Sequence[Group], settings: TrainingSettings, dice: Dice) -> Batch:
    """Make a batch.

    Raises:
        ValueError: If a group has too few pictures.
    """
    height, width, frames = settings.height, settings.width, settings.frames
    fitted = tuple(some_of(group, frames, dice).fitted(height, width) for group in groups)
    dropped = dice.chosen(len(groups) * frames, settings.text_dropout)
    captions = [caption for group in fitted for caption in group.captions]
    most = max(len(group.names) for group in fitted)
    masks = [torch.nn.functional.pad(group.masks.float(), (0, 0, 0, 0, 0, most - len(group.names))) for group in fitted]
    return Batch(
        groups=fitted,
        pictures=torch.cat([group.pictures for group in fitted]),
        masks=torch.cat(masks),
        captions=["" if out else caption for out, caption in zip(dropped, captions, strict=True)],
        labels=[f"A picture of {', '.join(group.names)}" for group in fitted for _ in group.captions],
    )


def some_of(group: Group, frames: int, dice: Dice) -> Group:
    """Some of a group's pictures, in random order.

    Raises:
        ValueError: If it has too few.
    """
    if len(group) < frames:
        raise ValueError(
            f"The group of {', '.join(group.names)} has {len(group)} pictures, and frames is {frames}. Build larger "
            "groups, or set frames lower."
        )
    return group.of(dice.numpy.permutation(len(group))[:frames].tolist())
