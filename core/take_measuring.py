"""From several pictures of each frame to what `takes.choose_takes` compares."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .detectors.faces import Recogniser
from .encoders import ImageTextEncoder
from .identity import Identity
from .layout import Layout
from .quoting import quote, quote_all
from .scores.cosines import cosines_of_rows
from .scores.measuring import mask_of
from .shapes import Float
from .story import Frame
from .takes import Take
from .text_search import composed

Picture = Float[Tensor, "_ _ 3"]


@dataclass(frozen=True)
class Pictures:
    """All takes of all frames.

    Args:
        frames: What each picture shows; pictures of one frame have its index.
        pictures: In [0, 1], of any sizes.
        layouts: Who is where in each of them; None where nobody looked.

    Raises:
        ValueError: If their numbers differ, or a layout is of another size than its picture.
    """

    frames: Sequence[Frame]
    pictures: Sequence[Picture]
    layouts: Sequence[Layout] | None = None

    def __post_init__(self) -> None:
        count = len(self.pictures)
        for what, others in (("frames", self.frames), ("layouts", self.layouts)):
            if others is not None and len(others) != count:
                raise ValueError(
                    f"There are {count} pictures and {len(others)} {what}: connect both from the same Collect Frames, "
                    "one picture per take."
                )
        for frame, picture, layout in zip(self.frames, self.pictures, self.layouts or (), strict=False):
            if len(layout.names) and layout.size != tuple(picture.shape[:2]):
                (height, width), size = layout.size, picture.shape
                raise ValueError(
                    f"{frame.label}: the layout is {width}x{height}, but the picture is {size[1]}x{size[0]}."
                )

    def by_frame(self) -> list[list[int]]:
        """The positions of the pictures of each frame, in order."""
        rows: dict[int, list[int]] = {}
        for position, frame in enumerate(self.frames):
            rows.setdefault(frame.index, []).append(position)
        return list(rows.values())

    def check_recognisable(self) -> None:
        """Raise a ValueError where nothing says whose face is whose."""
        for frame in self.frames if self.layouts is None else ():
            if len(frame.cast) > 1:
                names = quote_all(character.name for character in frame.cast)
                raise ValueError(f"{frame.label} shows {names}, and nothing says whose face is whose: connect layouts.")


def measure_takes(
    given: Pictures,
    recogniser: Recogniser | None = None,
    encoder: ImageTextEncoder | None = None,
    report: Callable[[int], None] = lambda done: None,
) -> list[Take]:
    """Look at every picture.

    Args:
        given: The pictures.
        recogniser: Finds the faces; without one there are none.
        encoder: Measures how well each picture agrees with its prompt; without one that is not known.
        report: Called with how many pictures are done.
    """
    takes = []
    for position, (frame, picture) in enumerate(zip(given.frames, given.pictures, strict=True)):
        layout = None if given.layouts is None else given.layouts[position]
        faces = {} if recogniser is None else _faces(recogniser, frame, picture, layout)
        agreement = None
        if encoder is not None:
            prompt = encoder.embed_texts([frame.prompt])
            agreement = float(cosines_of_rows(encoder.embed_images([picture]), prompt)[0])
        takes.append(Take(faces, agreement))
        report(position + 1)
    return takes


def _faces(
    recogniser: Recogniser, frame: Frame, picture: Picture, layout: Layout | None
) -> dict[str, Float[Tensor, " f"] | None]:
    """The faces of the cast; None for whoever is not found."""
    faces = {}
    for character in frame.cast:
        mask = None if layout is None else mask_of(layout, character.name)
        is_there = layout is None or mask is not None
        face = recogniser.find_all([picture], [mask])[0] if is_there else None
        faces[character.name] = None if face is None else face.embedding
    return faces


def usable_identities(identities: Iterable[Identity], frames: Sequence[Frame]) -> tuple[list[Identity], list[str]]:
    """The identities that faces can be compared with, and a sentence for each of the others.

    Left out are those of nobody in the story, and those that carry no portraits, as files of the first version do.
    """
    known = {composed(name) for frame in frames for name in frame.story_names}
    usable, sentences = [], []
    for identity in identities:
        if known and composed(identity.name) not in known:
            sentences.append(f"The identity {quote(identity.name)} is of nobody in the story and was left out.")
        elif identity.portraits is None:
            sentences.append(
                f"The identity {quote(identity.name)} carries no portraits: the faces were compared with each other."
            )
        else:
            usable.append(identity)
    return usable, sentences


def portrait_faces(recogniser: Recogniser, identities: Iterable[Identity]) -> Mapping[str, Float[Tensor, "k f"]]:
    """By name, the faces on the portraits that the identities carry.

    Raises:
        ValueError: If the recogniser finds no face on any portrait of an identity.
    """
    known = {}
    for identity in identities:
        portraits = list(identity.portrait_images())
        found = [face for face in recogniser.find_all(portraits, [None] * len(portraits)) if face is not None]
        if not found:
            raise ValueError(
                f"The recogniser finds no face on the portraits of the identity {quote(identity.name)}. Choose another "
                "engine, or leave the identity out."
            )
        known[composed(identity.name)] = torch.stack([face.embedding for face in found])
    return known
