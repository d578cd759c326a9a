"""Who of a story has a face, which references each frame sees of it, and where (Storynizor, equations 10 to 12)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .injector import Injector, ReferenceFeatures
from .layout import Layout
from .quoting import quote
from .shapes import Float
from .shuffle import deal_references
from .story import Frame, Story


@dataclass(frozen=True)
class AssignedReferences:
    """The identity tokens of one character, and which of their references each frame sees.

    Args:
        name: The name of the character in the story.
        tokens: Identity tokens of the r references.
        blank: Identity tokens of no reference.
        by_frame: Per number of a frame that the character is in, which references it sees.
    """

    name: str
    tokens: Float[Tensor, "r k c"]
    blank: Float[Tensor, "1 k c"]
    by_frame: Mapping[int, tuple[int, ...]]

    def references(self, frame: Frame) -> tuple[int, ...]:
        """Which references a frame sees; any, behind a mask of zeros, if it is without them."""
        return self.by_frame.get(frame.index) or next(iter(self.by_frame.values()))

    def mask(self, frame: Frame, layout: Layout | None) -> Float[Tensor, "h w"]:
        """Where the face acts, in [0, 1]; a single cell where it is the same everywhere.

        Nowhere in a frame that they are not in; without a layout everywhere in the others.
        """
        if frame.index not in self.by_frame:
            return torch.zeros(1, 1)
        if layout is None:
            return torch.ones(1, 1)
        return layout.masks[list(layout.names).index(self.name)].float()


def assign_references(
    injector: Injector,
    faces: Sequence[tuple[str, ReferenceFeatures]],
    story: Story,
    mode: str,
    seed: int,
    label: str,
    picture_weight: float = 1.0,
) -> tuple[AssignedReferences, ...]:
    """Run an adapter's image side, and assign each character's references to the frames that they are in.

    The same seed is used for every character, so that who else is in the story changes nothing.

    Args:
        injector: The adapter.
        faces: Names, as in the story, and what was seen in the reference pictures; on the adapter's device.
        story: Says who is in which frame.
        mode: See `shuffle.deal_references`.
        seed: The seed of the shuffling.
        label: What messages call the adapter.
        picture_weight: For FaceID-Plus v2, see `Injector.identity_tokens`.

    Returns:
        One per character, on the CPU.

    Raises:
        ValueError: If a name is not in the story or comes twice, or features are missing or of another width.
    """
    found = []
    for face, features in faces:
        name = story.character(face).name
        if any(each.name == name for each in found):
            raise ValueError(
                f"There are two sets of pictures of {quote(name)}; put all of them into one Face Features node."
            )
        frames = [frame.index for frame in story.frames if frame.span_of(name) is not None]
        try:
            tokens, blank = injector.identity_tokens(features, picture_weight)
        except ValueError as error:
            raise ValueError(f"The pictures of {quote(name)} do not suit {label}. {error}") from error
        assigned = deal_references(len(tokens), len(frames), mode, torch.Generator().manual_seed(seed))
        found.append(AssignedReferences(name, tokens.cpu(), blank[:1].cpu(), dict(zip(frames, assigned, strict=True))))
    return tuple(found)
