"""A story from its text to pictures in a folder, frame by frame; stopped at any point, it can be continued."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.character_mentions import Character
from ..core.identity import Identity
from ..core.sheet import draw_layout
from ..core.story import Frame, Story
from ..core.toyworld.vocabulary import CLASS_WORDS
from .detection import Detector, load_detector
from .option_values import TOYWORLD
from .processes import cpu_threads, joined
from .run_files import frame_file, read_masks, write_masks, write_picture
from .run_folder import RunFolder, check_file_names, describe_frame
from .run_settings import RunSettings
from .studio import Report, Studio, open_studio


def run_story(
    story: Story,
    settings: RunSettings,
    out: Path,
    *,
    overwrite: bool = False,
    detector: Detector | None = None,
    report: Report = lambda what, done, total: None,
) -> RunFolder:
    """Make a story: an identity per character, then frame after frame.

    The folder gets `identities/`, `portraits/`, `template/`, `layout/`, `masks/`, the frames and `manifest.json`. Every
    file is there whole or not at all. The bytes of a frame depend on the story and the settings, not on what was made
    before, by whom or in which order; what is there already is not made again. Under torchrun or accelerate launch the
    processes share the work; on several hosts `out` must be a folder that all of them see.

    Args:
        story: What to draw.
        settings: How.
        out: The folder; made if need be.
        overwrite: Start over if the folder has a run with other settings.
        detector: Used in place of the one the settings name.
        report: Hears of every step.

    Raises:
        ValueError, FileNotFoundError: Before the first UNet call where that can be known: for what is wrong with the
            story, the settings, the files, or the folder. Later: where somebody is not found in a frame.
    """
    folder = RunFolder(out)
    characters = [person for person in story.characters if any(person in frame.cast for frame in story.frames)]
    check_file_names(characters)
    _check_given(story, settings, detector)
    with joined(settings.device) as share, cpu_threads(settings.threads):
        with folder.locked() if share.is_main else nullcontext():
            if share.is_main and not overwrite:
                folder.check(story, settings)
            studio = open_studio(settings, share.device, detector or load_detector(settings, share.device))
            studio.check(story, characters)
            given = _given_identities(studio, characters)
            if share.is_main:
                folder.prepare(story, settings, overwrite)
            share.wait()
            production = _Production(studio, story, folder, settings.record(), report)
            for person in share.of(characters):
                production.find_identity(person, given.get(person.name))
            share.wait()
            identities = {person.name: Identity.load(folder.identity(person.name)) for person in characters}
            for frame in share.of(story.frames):
                production.make_frame(frame, identities)
            share.wait()
            if share.is_main:
                folder.write_manifest(story, settings)
    return folder


@dataclass(frozen=True)
class _Production:
    """One process's work on a run; what is there already is left alone."""

    studio: Studio
    story: Story
    folder: RunFolder
    record: Mapping[str, Any]
    report: Report

    def find_identity(self, person: Character, given: Identity | None) -> None:
        """Discover a character's identity, or take the given one; the identity file is written last.

        Portraits are numbered from 1, and those the identity is made of are called kept.
        """
        path, place = self.folder.identity(person.name), self.folder.portraits(person.name)
        if path.is_file():
            return
        if given is not None:
            given.save(path)
            return
        for old in place.glob("*.png"):
            old.unlink()
        first_seed = self.studio.first_portrait_seed(self.story.characters.index(person))
        portraits: list[Path] = []

        def keep(pictures: Tensor) -> None:
            for picture in pictures:
                about = {"character": person.name, "seed": (first_seed + len(portraits)) % 2**64}
                portraits.append(place / f"{len(portraits) + 1:03d}.png")
                write_picture(portraits[-1], picture, {**about, "settings": self.record})

        identity, kept = self.studio.discover(person, first_seed, keep, self.report)
        for position in kept:
            portraits[position].rename(portraits[position].with_stem(f"{portraits[position].stem}_kept"))
        identity.save(path)

    def make_frame(self, frame: Frame, identities: Mapping[str, Identity]) -> None:
        """Draw a frame's template, find the characters, put their identities in; the frame itself is written last."""
        folder, studio, index = self.folder, self.studio, frame.index
        if folder.frame(index).is_file():
            return
        seed = (studio.settings.seed + index) % 2**64 if frame.seed is None else frame.seed
        about = {"frame": index + 1, **describe_frame(frame), "seed": seed, "settings": self.record}
        cache = studio.sample_frame(frame, seed, self.report)
        template = studio.picture(cache.final)
        write_picture(folder.template(index), template, about)
        layout = studio.find(frame, template, _given_masks(studio.settings, frame))
        write_masks(folder.masks(index), layout)
        write_picture(folder.layout(index), draw_layout(template, layout), about)
        final = studio.put_in(frame, cache, layout, identities, self.report)
        missing = [name for name, mask in zip(layout.names, layout.masks, strict=True) if not mask.any()]
        write_picture(folder.frame(index), studio.picture(final), {**about, "not_found": missing})


def _check_given(story: Story, settings: RunSettings, detector: Detector | None) -> None:
    """Identities given by hand must be of characters, masks of frames; somebody must find the characters."""
    names = [character.name for character in story.characters]
    if detector is None and settings.detector == "none" and not settings.masks:
        raise ValueError('Nobody finds the characters in the frames: choose a detector, "toyworld" or "grounded-sam".')
    strange = [character for character in story.characters if character.word.lower() not in CLASS_WORDS]
    if detector is None and settings.detector == TOYWORLD and strange:
        raise ValueError(
            f'"{strange[0].name}" is a {strange[0].word}, but the toy world has only {", ".join(CLASS_WORDS)}. '
            "Choose one of them, or another detector."
        )
    for name, _ in settings.identities:
        if name not in names:
            raise ValueError(f'identities: the story has no character "{name}"; it has {", ".join(names)}.')
    for frame in story.frames:
        if masks := _given_masks(settings, frame):
            read_masks(masks, frame, settings.height, settings.width)


def _given_masks(settings: RunSettings, frame: Frame) -> Path | None:
    return Path(settings.masks) / frame_file(frame.index) if settings.masks else None


def _given_identities(studio: Studio, characters: Sequence[Character]) -> dict[str, Identity]:
    """The identities given as files, under the names they have in this story."""
    encoder = studio.photomaker.encoder_id
    saved = {name: Identity.load(path, encoder) for name, path in studio.settings.identities}
    people = {person.name: person for person in characters}
    return {
        name: studio.identity(people[name], identity.embedding, identity.metadata)
        for name, identity in saved.items()
        if name in people
    }
