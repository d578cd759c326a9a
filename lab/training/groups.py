"""What both trainers learn from: groups of pictures of the same people."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ...core.character_mentions import Span
from ...core.shapes import Bool, Float


@dataclass(frozen=True)
class Group:
    """Pictures of the same people, with their captions and masks.

    Args:
        names: The characters' names.
        pictures: In [0, 1].
        captions: One per picture.
        words: Per character and picture, the words of the caption that say who it is; none where it does not.
        masks: Where each character is seen in each picture.
    """

    names: tuple[str, ...]
    pictures: Float[Tensor, "n h w 3"]
    captions: tuple[str, ...]
    words: tuple[tuple[tuple[Span, ...], ...], ...]
    masks: Bool[Tensor, "n s h w"]

    def __len__(self) -> int:
        return len(self.pictures)

    def of(self, pictures: list[int]) -> "Group":
        """Some of the pictures, in that order."""
        return replace(
            self,
            pictures=self.pictures[pictures],
            captions=tuple(self.captions[each] for each in pictures),
            words=tuple(tuple(own[each] for each in pictures) for own in self.words),
            masks=self.masks[pictures],
        )

    def fitted(self, height: int, width: int) -> "Group":
        """The group at another size: scaled so that it fills it, and cut at the middle."""
        if self.pictures.shape[1:3] == (height, width):
            return self
        planes = torch.cat([self.pictures.movedim(-1, 1), self.masks.float()], dim=1)
        scale = max(height / planes.shape[2], width / planes.shape[3])
        size = [max(least, round(side * scale)) for least, side in zip((height, width), planes.shape[2:], strict=True)]
        planes = torch.nn.functional.interpolate(planes, size, mode="bilinear", antialias=True)
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        planes = planes[:, :, top : top + height, left : left + width]
        pictures, masks = planes.split([3, self.masks.shape[1]], dim=1)
        return replace(self, pictures=pictures.movedim(1, -1).clamp(0, 1), masks=masks > 0.5)


@runtime_checkable
class GroupSource(Protocol):
    """Where groups come from."""

    def stream(self, first: int, process: int, processes: int) -> Iterator[Group]:
        """Groups without end for one of several processes, from its `first`th on; same arguments, same groups."""
        ...
