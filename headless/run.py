"""A story from its text to pictures in a folder, frame by frame; stopped at any point, it can be continued."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.character_mentions import Character
from ..core.identity import Identity
from ..core.quoting import printable, quote, quote_all
from ..core.sheet import draw_layout
from ..core.story import Frame, Story
from ..core.toyworld.vocabulary import CLASS_WORDS
from .continuing import check_continuing, check_overwriting, refuse_links
from .detection import Detector, load_detector
from .joint_drawing import open_drawing
from .option_values import TOYWORLD
from .processes import Share, cpu_threads, joined, process_count
from .reference_pictures import read_references
from .run_files import frame_file, read_masks, write_masks, write_picture
from .run_folder import Extent, RunFolder, check_file_names, describe_frame
from .run_settings import RunSettings
from .run_together import JointProduction
from .studio import Report, Studio, open_studio

_ATTEMPTS = 3
"""How often the folder is gone through before files are said to be lost as fast as they are made."""


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

    The folder gets `identities/`, `portraits/`, `template/`, `layout/`, `masks/`, the frames and `manifest.json`; of
    frames drawn together only the frames, and where faces are injected what says where each acts. Every file is there
    whole or not at all. The bytes of a file depend on the story and the settings, not on what was made before, by whom
    or in which order; what is there already and can be read is not made again, so masks that somebody painted in stay.
    Files that are lost or damaged meanwhile are made again at the end. Under torchrun or accelerate launch the
    processes share the work; on several hosts `out` must be a folder that all of them see. Frames drawn together are
    the work of one process.

    Args:
        story: What to draw.
        settings: How.
        out: The folder; made if need be.
        overwrite: Start over: delete the files that the folder's manifest lists, and no others.
        detector: Used in place of the one the settings name.
        report: Receives every step.

    Raises:
        ValueError, FileNotFoundError: Before the first UNet call where that can be known: for what is wrong with the
            story, the settings, the files, or the folder. Later: where somebody is not found in a frame, or files are
            lost as soon as they are made.
        OSError: If a file cannot be written; it is named.
    """
    folder = RunFolder(out)
    characters = [person for person in story.characters if any(person in frame.cast for frame in story.frames)]
    check_file_names(characters)
    _check_given(story, settings, detector)
    with joined(settings.device) as share, cpu_threads(settings.threads):
        with folder.locked() if share.is_main else nullcontext() as obstacle:
            if share.any_of(share.is_main and _is_finished(folder, story, settings, overwrite, obstacle)):
                return folder
            if _uses_detector(settings):
                detector = detector or load_detector(settings, share.device)
            if settings.together:
                drawing = open_drawing(story, settings, share.device)
                make = JointProduction(drawing, detector, folder, settings.record(), report).make_lost
            else:
                studio = open_studio(settings, share.device, detector)
                studio.check(story, characters)
                given = _given_identities(studio, characters)
                production = _Production(studio, story, folder, given, settings.record(), report)
                make = partial(production.make_lost, share, characters)
            if share.is_main:
                folder.prepare(story, settings, overwrite)
            share.wait()
            _until_whole(make, folder, story, settings, share)
            if share.is_main:
                folder.write_manifest(story, settings)
    return folder


def _is_finished(
    folder: RunFolder, story: Story, settings: RunSettings, overwrite: bool, obstacle: OSError | None
) -> bool:
    """Whether there is nothing left to make; refuses what cannot be continued or started over.

    Args:
        folder: The run's.
        story: What to draw.
        settings: How.
        overwrite: To start over.
        obstacle: Why nothing can be written in the folder; None if it can.
    """
    if overwrite:
        check_overwriting(folder, story, settings)
    else:
        check_continuing(folder, story, settings)
        if next(folder.lost(story, settings), None) is None:
            if obstacle is None:
                folder.write_manifest(story, settings)
            return True
    if obstacle is not None:
        reason = printable(obstacle.strerror or str(obstacle))
        raise ValueError(
            f"Nothing can be written in {printable(str(folder.root))} ({reason}), and the story in it "
            f"{'is to be started over' if overwrite else 'is not finished'}. Choose another folder."
        )
    refuse_links(folder, Extent.of(story, settings))
    return False


def _until_whole(
    make_lost: Callable[[], None], folder: RunFolder, story: Story, settings: RunSettings, share: Share
) -> None:
    """Make everything that the folder lacks, and again what is lost meanwhile.

    Raises:
        ValueError: If files go missing again and again.
    """
    lost: list[Path] = []
    for _ in range(_ATTEMPTS):
        make_lost()
        share.wait()
        lost = list(folder.lost(story, settings)) if share.is_main else []
        if not share.any_of(bool(lost)):
            return
    names = f": {quote_all((path.relative_to(folder.root).as_posix() for path in lost), 3)}" if lost else ""
    raise ValueError(
        f"Files of {printable(str(folder.root))} are lost as soon as they are made{names}. Find out what deletes or "
        "changes them, then run again."
    )


@dataclass(frozen=True)
class _Production:
    """One process's work on a run; what is there and whole is left alone."""

    studio: Studio
    story: Story
    folder: RunFolder
    given: Mapping[str, Identity]
    record: Mapping[str, Any]
    report: Report

    def make_lost(self, share: Share, characters: Sequence[Character]) -> None:
        """Make everything that the folder lacks."""
        for person in share.of(characters):
            self.find_identity(person)
        share.wait()
        identities = {
            person.name: self.folder.saved_identity(person.name) or self.find_identity(person) for person in characters
        }
        for frame in share.of(self.story.frames):
            self.make_frame(frame, identities)

    def find_identity(self, person: Character) -> Identity:
        """A character's identity, given or discovered; the identity file is written last."""
        folder, name = self.folder, person.name
        saved, given = folder.saved_identity(name), self.given.get(name)
        if given is not None:
            if saved is None:
                given.save(folder.identity(name))
            return saved or given
        count = folder.portrait_count(name, self.studio.settings.portraits)
        if saved is not None and next(folder.lost_portraits(name, count), None) is None:
            return saved
        first_seed = self.studio.first_portrait_seed(self.story.characters.index(person))
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
        layout = studio.find(frame, template, _given_masks(studio.settings, frame))
        if folder.masks(index) in lost:
            write_masks(folder.masks(index), layout)
        if folder.layout(index) in lost:
            write_picture(folder.layout(index), draw_layout(template, layout), about)
        if folder.frame(index) in lost:
            final = studio.put_in(frame, cache, layout, identities, self.report)
            missing = [name for name, mask in zip(layout.names, layout.masks, strict=True) if not mask.any()]
            write_picture(folder.frame(index), studio.picture(final), {**about, "not_found": missing})


def _check_given(story: Story, settings: RunSettings, detector: Detector | None) -> None:
    """Identities given by hand must be of characters, masks of frames; somebody must find the characters."""
    names = [character.name for character in story.characters]
    if settings.together:
        _check_together(story, settings)
    elif detector is None and settings.detector == "none" and not settings.masks:
        raise ValueError('Nobody finds the characters in the frames: choose a detector, "toyworld" or "grounded-sam".')
    strange = [character for character in story.characters if character.word.lower() not in CLASS_WORDS]
    if _uses_detector(settings) and detector is None and settings.detector == TOYWORLD and strange:
        raise ValueError(
            f"{quote(strange[0].name)} is a {printable(strange[0].word, 40)}, but the toy world has only "
            f"{', '.join(CLASS_WORDS)}. Choose one of them, or another detector."
        )
    for option in ("identities", "references"):
        for name, _ in getattr(settings, option):
            if name not in names:
                raise ValueError(f"{option}: the story has no character {quote(name)}; it has {quote_all(names)}.")
    for frame in story.frames:
        if masks := _given_masks(settings, frame):
            read_masks(masks, frame, settings.height, settings.width)


def _uses_detector(settings: RunSettings) -> bool:
    return not settings.together or settings.finds_layouts


def _check_together(story: Story, settings: RunSettings) -> None:
    """Refuse several processes, and reference pictures that cannot be read."""
    if process_count() > 1:
        raise ValueError(
            f"{process_count()} processes were started, but frames that are drawn together are one piece of work: "
            "start one process, without torchrun or accelerate launch, or leave out --together."
        )
    read_references(settings.references)


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
