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
class Person:
    """One character as an adapter tells of them.

    Args:
        name: As in the story.
        tokens: Identity tokens.
        blank: Those of no reference.
        dealt: By number of the frame, for those that they are in, which references it sees.
    """

    name: str
    tokens: Float[Tensor, "r k c"]
    blank: Float[Tensor, "1 k c"]
    dealt: Mapping[int, tuple[int, ...]]

    def references(self, frame: Frame) -> tuple[int, ...]:
        """Which references a frame sees; any, behind a mask of zeros, if it is without them."""
        return self.dealt.get(frame.index) or next(iter(self.dealt.values()))

    def mask(self, frame: Frame, layout: Layout | None) -> Float[Tensor, "h w"]:
        """Where the face acts, in [0, 1]; a single cell where it is the same everywhere.

        Nowhere in a frame that they are not in; without a layout everywhere in the others.
        """
        if frame.index not in self.dealt:
            return torch.zeros(1, 1)
        if layout is None:
            return torch.ones(1, 1)
        return layout.masks[list(layout.names).index(self.name)].float()


def deal_people(
    injector: Injector,
    faces: Sequence[tuple[str, ReferenceFeatures]],
    story: Story,
    mode: str,
    seed: int,
    label: str,
    picture_weight: float = 1.0,
) -> tuple[Person, ...]:
    """Run an adapter's image side, and deal each character's references over the frames that they are in.

    Every character is dealt from the same seed, so that who else is in the story changes nothing.

    Args:
        injector: The adapter.
        faces: Names, as in the story, and what was seen in the reference pictures; on the adapter's device.
        story: Says who is in which frame.
        mode: As in `shuffle.deal_references`.
        seed: The seed of the shuffling.
        label: What messages call the adapter.
        picture_weight: For FaceID-Plus v2, see `Injector.identity_tokens`.

    Returns:
        On the CPU.

    Raises:
        ValueError: If a name is not in the story or comes twice, or features are missing or of another width.
    """
    people = []
    for face, features in faces:
        name = story.character(face).name
        if any(person.name == name for person in people):
            raise ValueError(
                f"There are two sets of pictures of {quote(name)}; put all of them into one Face Features node."
            )
        frames = [frame.index for frame in story.frames if frame.span_of(name) is not None]
        try:
            tokens, blank = injector.identity_tokens(features, picture_weight)
        except ValueError as error:
            raise ValueError(f"The pictures of {quote(name)} do not suit {label}. {error}") from error
        dealt = deal_references(len(tokens), len(frames), mode, torch.Generator().manual_seed(seed))
        people.append(Person(name, tokens.cpu(), blank[:1].cpu(), dict(zip(frames, dealt, strict=True))))
    return tuple(people)
