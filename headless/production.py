"""What makes the files of a run's folder: identities, and frames with them."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.character_mentions import Character
from ..core.identity import Identity
from ..core.sheet import draw_layout
from ..core.story import Frame, Story
from .run_files import frame_file, write_masks, write_picture
from .run_folder import RunFolder, describe_frame
from .run_settings import RunSettings
from .studio import Report, Studio


@dataclass(frozen=True)
class Production:
    """The work on a run; what is there and whole is left alone.

    Args:
        studio: The loaded models.
        folder: The run's.
        record: `RunSettings.record` of the studio's settings.
        report: Receives every step.
    """

    studio: Studio
    folder: RunFolder
    record: Mapping[str, Any]
    report: Report

    def find_identity(self, person: Character, number: int) -> Identity:
        """A character's identity, given or discovered; the identity file is written last.

        Args:
            person: Whose.
            number: Their position in the story, from 0.
        """
        folder, name = self.folder, person.name
        saved = folder.saved_identity(name)
        if (given := given_identity(self.studio, person)) is not None:
            if saved is None:
                given.save(folder.identity(name))
            return saved or given
        count = folder.portrait_count(name, self.studio.settings.portraits)
        if saved is not None and next(folder.lost_portraits(name, count), None) is None:
            return saved
        first_seed = self.studio.first_portrait_seed(number)
        numbers = itertools.count(1)

        def keep(pictures: Tensor) -> None:
            for picture, number in zip(pictures, numbers):  # noqa: B905 - the numbers have no end
                if folder.whole_portrait(name, number) is None:
                    about = {"character": name, "seed": (first_seed + number - 1) % 2**64, "settings": self.record}
                    write_picture(folder.portrait(name, number), picture, about)

        identity, kept = self.studio.discover(person, first_seed, keep, self.report)
        folder.name_portraits(name, identity.metadata["discovery"]["portraits"], kept)
        if saved is None:
            identity.save(folder.identity(name))
        return saved or identity

    def make_frame(self, frame: Frame, identities: Mapping[str, Identity]) -> None:
        """Draw a frame's template, find the characters, put their identities in; the frame itself is written last."""
        folder, studio, index = self.folder, self.studio, frame.index
        lost = folder.lost_of_frame(index)
        if not lost:
            return
        seed = (studio.settings.seed + index) % 2**64 if frame.seed is None else frame.seed
        about = {"frame": index + 1, **describe_frame(frame), "seed": seed, "settings": self.record}
        cache = studio.sample_frame(frame, seed, self.report)
        template = studio.picture(cache.final)
        if folder.template(index) in lost:
            write_picture(folder.template(index), template, about)
        if lost == [folder.template(index)]:
            return
        layout = studio.find(frame, template, given_masks(studio.settings, frame))
        if folder.masks(index) in lost:
            write_masks(folder.masks(index), layout)
        if folder.layout(index) in lost:
            write_picture(folder.layout(index), draw_layout(template, layout), about)
        if folder.frame(index) in lost:
            final = studio.put_in(frame, cache, layout, identities, self.report)
            missing = [name for name, mask in zip(layout.names, layout.masks, strict=True) if not mask.any()]
            write_picture(folder.frame(index), studio.picture(final), {**about, "not_found": missing})


def check_loaded(studio: Studio, story: Story) -> None:
    """Everything about a story that only the loaded models tell, before the first UNet call.

    Raises:
        ValueError: If a prompt is too long, a class word is no token of its own, or a given identity belongs to another
            encoder.
    """
    people = shown_characters(story)
    studio.check(story, people)
    for person in people:
        given_identity(studio, person)


def shown_characters(story: Story) -> Sequence[Character]:
    """The characters who are in a frame, in the story's order."""
    return [person for person in story.characters if any(person in frame.cast for frame in story.frames)]


def given_masks(settings: RunSettings, frame: Frame) -> Path | None:
    """The mask file of a frame, where the settings give masks."""
    return Path(settings.masks) / frame_file(frame.index) if settings.masks else None


def given_identity(studio: Studio, person: Character) -> Identity | None:
    """The identity given as a file, under the name it has in this story; None where none is given."""
    path = dict(studio.settings.identities).get(person.name)
    if path is None:
        return None
    identity = Identity.load(path, studio.photomaker.encoder_id)
    return studio.identity(person, identity.embedding, identity.metadata)
