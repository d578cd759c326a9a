"""From the pictures of a story to the features that `story.score_story` compares, by any encoders."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..detectors.faces import Recogniser
from ..encoders import ImageEncoder, ImageTextEncoder
from ..layout import Layout
from ..quoting import quote, quote_all
from ..shapes import Bool, Float
from ..story import Character, Story
from .segmented import over_grey
from .story_scores import CharacterFeatures, StoryFeatures

Picture = Float[Tensor, "_ _ 3"]
Report = Callable[[str, int, int], None]
"""Called with what is measured, how many are done, and how many there are."""


@dataclass(frozen=True)
class Encoders:
    """What measures; None is not measured.

    Args:
        clip: For CLIP-I, and if it reads texts too (`ImageTextEncoder`) for CLIP-T and CLIP-T-C.
        dino: For DINO-I.
        recogniser: For Face-Sim and Face-Sim(R).
    """

    clip: ImageEncoder | None = None
    dino: ImageEncoder | None = None
    recogniser: Recogniser | None = None


def check_story_pictures(
    story: Story, pictures: Sequence[Picture], encoders: Encoders, references: Mapping[str, Sequence[Picture]]
) -> None:
    """Raise a ValueError, before anything is measured, where pictures or references do not fit the story.

    Args:
        story: What the pictures show.
        pictures: One per frame.
        encoders: What is to measure.
        references: Pictures of faces by name.
    """
    if encoders == Encoders():
        raise ValueError(
            "There is nothing to score with: give an image-text encoder, an image encoder or a recogniser."
        )
    if len(pictures) != len(story.frames):
        raise ValueError(
            f"There are {len(pictures)} pictures and the story has {len(story.frames)} frames: give one for each."
        )
    for name in references:
        story.character(name)
    if references and encoders.recogniser is None:
        raise ValueError(
            f"There are references of {quote_all(references)} but no face recogniser to compare them with."
        )


def check_layouts(
    story: Story, pictures: Sequence[Picture], layouts: Sequence[Layout] | None, encoders: Encoders
) -> None:
    """Raise a ValueError where layouts are of another size than the pictures, or are needed and not there.

    Args:
        story: What the pictures show.
        pictures: One per frame.
        layouts: Who is where in each of them; None where nobody looked.
        encoders: What is to measure.
    """
    for frame, picture in zip(story.frames, pictures, strict=True):
        size = tuple(picture.shape[:2])
        if layouts is None:
            if len(frame.cast) > 1 and encoders.recogniser is not None:
                names = quote_all(character.name for character in frame.cast)
                raise ValueError(
                    f"{frame.label} shows {names}, and nothing says whose face is whose: give masks or a detector."
                )
        elif len(layouts[frame.index].names) and layouts[frame.index].size != size:
            height, width = layouts[frame.index].size
            raise ValueError(f"{frame.label}: the layout is {width}x{height}, but the picture is {size[1]}x{size[0]}.")


def story_features(
    story: Story,
    pictures: Sequence[Picture],
    layouts: Sequence[Layout] | None,
    encoders: Encoders,
    references: Mapping[str, Sequence[Picture]] | None = None,
    report: Report = lambda what, done, total: None,
) -> StoryFeatures:
    """Look at all frames and characters of a story.

    Args:
        story: What the pictures show.
        pictures: One per frame, in [0, 1], of any sizes.
        layouts: Who is where, one per frame. Without them the largest face of a frame counts as its only character's,
            and nothing is measured that needs segmented characters.
        encoders: What measures.
        references: Pictures of faces by character, for Face-Sim(R).
        report: Called whenever a part of the work is done.

    Raises:
        ValueError: See `check_story_pictures` and `check_layouts`; also if a reference shows no face.
    """
    references = references or {}
    check_story_pictures(story, pictures, encoders, references)
    check_layouts(story, pictures, layouts, encoders)
    known = _reference_faces(encoders.recogniser, references)
    steps = 1 + len(story.characters)
    report("scores", 0, steps)
    clip = dino = prompts = None
    if encoders.clip is not None:
        clip = encoders.clip.embed_images(pictures)
    if isinstance(encoders.clip, ImageTextEncoder):
        prompts = encoders.clip.embed_texts([frame.prompt for frame in story.frames])
    if encoders.dino is not None:
        dino = encoders.dino.embed_images(pictures)
    report("scores", 1, steps)
    people = []
    for done, character in enumerate(story.characters, start=2):
        people.append(_character_features(story, character, pictures, layouts, encoders, known.get(character.name)))
        report("scores", done, steps)
    return StoryFeatures(len(story.frames), people, clip, prompts, dino)


def _character_features(
    story: Story,
    character: Character,
    pictures: Sequence[Picture],
    layouts: Sequence[Layout] | None,
    encoders: Encoders,
    references: Float[Tensor, "k d"] | None,
) -> CharacterFeatures:
    frames = tuple(frame.index for frame in story.frames if character in frame.cast)
    masks = {frame: None if layouts is None else mask_of(layouts[frame], character.name) for frame in frames}
    seen = [frame for frame in frames if layouts is None or masks[frame] is not None]
    faces = clip = dino = description = None
    if encoders.recogniser is not None:
        found = encoders.recogniser.find_all([pictures[frame] for frame in seen], [masks[frame] for frame in seen])
        faces = _spread({f: face.embedding for f, face in zip(seen, found, strict=True) if face}, len(pictures))
    if layouts is not None:
        cut = {frame: over_grey(pictures[frame], mask) for frame, mask in masks.items() if mask is not None}
        alone = {frame: image for frame, image in cut.items() if image is not None}
        if encoders.clip is not None:
            clip = _spread(
                dict(zip(alone, encoders.clip.embed_images(list(alone.values())), strict=True)), len(pictures)
            )
        if isinstance(encoders.clip, ImageTextEncoder):
            description = encoders.clip.embed_texts([character.description])[0]
        if encoders.dino is not None:
            dino = _spread(
                dict(zip(alone, encoders.dino.embed_images(list(alone.values())), strict=True)), len(pictures)
            )
    return CharacterFeatures(character.name, frames, faces, clip, dino, description, references)


def mask_of(layout: Layout, name: str) -> Bool[Tensor, "h w"] | None:
    """Where somebody is; None where they were not found."""
    if name not in layout.names:
        return None
    mask = layout.masks[list(layout.names).index(name)]
    return mask if mask.any() else None


def _spread(found: Mapping[int, Tensor], count: int) -> list[Tensor | None]:
    return [found.get(frame) for frame in range(count)]


def _reference_faces(
    recogniser: Recogniser | None, references: Mapping[str, Sequence[Picture]]
) -> dict[str, Float[Tensor, "k d"]]:
    faces = {}
    for name, pictures in references.items():
        assert recogniser is not None  # `check_story_pictures` refuses references without one
        found = recogniser.find_all(pictures, [None] * len(pictures))
        for number, face in enumerate(found, start=1):
            if face is None:
                raise ValueError(f"The recogniser finds no face in reference {number} of {quote(name)}; take another.")
        faces[name] = torch.stack([face.embedding for face in found if face is not None])
    return faces
