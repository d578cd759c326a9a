"""A story from its text to pictures in a folder, frame by frame; stopped at any point, it can be continued."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ..core.quoting import printable, quote, quote_all
from ..core.story import Story
from ..core.toyworld.vocabulary import CLASS_WORDS
from .continuing import check_continuing, check_overwriting, refuse_links
from .detection import Detector, load_detector
from .joint_drawing import open_drawing
from .option_values import TOYWORLD
from .processes import cpu_threads, refuse_launcher
from .production import Production, check_loaded, given_masks, shown_characters
from .reference_pictures import read_references
from .run_files import read_masks
from .run_folder import Extent, RunFolder, check_file_names
from .run_settings import RunSettings
from .run_together import JointProduction
from .studio import Report, open_studio

ATTEMPTS = 3
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
    Files that are lost or damaged meanwhile are made again at the end.

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
    check_run(story, settings, detector)
    with cpu_threads(settings.threads), folder.locked() as obstacle:
        if is_finished(folder, story, settings, overwrite, obstacle):
            return folder
        if uses_detector(settings):
            detector = detector or load_detector(settings, settings.device)
        if settings.together:
            drawing = open_drawing(story, settings, settings.device)
            make = JointProduction(drawing, detector, folder, settings.record(), report).make_lost
        else:
            studio = open_studio(settings, settings.device, detector)
            check_loaded(studio, story)
            make = partial(_make_lost, Production(studio, folder, settings.record(), report), story)
        folder.prepare(story, settings, overwrite)
        _until_whole(make, folder, story, settings)
        folder.write_manifest(story, settings)
    return folder


def _make_lost(production: Production, story: Story) -> None:
    """Make everything that the folder lacks."""
    people = shown_characters(story)
    identities = {
        person.name: production.find_identity(person, number)
        for number, person in enumerate(story.characters)
        if person in people
    }
    for frame in story.frames:
        production.make_frame(frame, identities)


def is_finished(
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
    check_begun(folder, story, settings, overwrite)
    if not overwrite and next(folder.lost(story, settings), None) is None:
        if obstacle is None:
            folder.write_manifest(story, settings)
        return True
    check_writable(folder, story, settings, overwrite, obstacle)
    return False


def check_begun(folder: RunFolder, story: Story, settings: RunSettings, overwrite: bool) -> None:
    """Raise a ValueError if what is in the folder cannot be continued or, with `overwrite`, started over."""
    (check_overwriting if overwrite else check_continuing)(folder, story, settings)


def check_writable(
    folder: RunFolder, story: Story, settings: RunSettings, overwrite: bool, obstacle: OSError | None
) -> None:
    """Raise a ValueError if there is an obstacle to writing in the folder, or one of its folders is a link."""
    if obstacle is not None:
        reason = printable(obstacle.strerror or str(obstacle))
        raise ValueError(
            f"Nothing can be written in {printable(str(folder.root))} ({reason}), and the story in it "
            f"{'is to be started over' if overwrite else 'is not finished'}. Choose another folder."
        )
    refuse_links(folder, Extent.of(story, settings))


def _until_whole(make_lost: Callable[[], None], folder: RunFolder, story: Story, settings: RunSettings) -> None:
    """Make everything that the folder lacks, and again what is lost meanwhile.

    Raises:
        ValueError: If files go missing again and again.
    """
    lost: list[Path] = []
    for _ in range(ATTEMPTS):
        make_lost()
        lost = list(folder.lost(story, settings))
        if not lost:
            return
    raise lost_again(folder, lost)


def lost_again(folder: RunFolder, lost: Sequence[Path]) -> ValueError:
    """What to say where files go missing again and again."""
    names = quote_all((path.relative_to(folder.root).as_posix() for path in lost), 3)
    return ValueError(
        f"Files of {printable(str(folder.root))} are lost as soon as they are made: {names}. Find out what deletes or "
        "changes them, then run again."
    )


def check_run(story: Story, settings: RunSettings, detector: Detector | None = None) -> None:
    """Everything about a story and its settings that can be known before models are loaded.

    Identities given by hand must be of characters, masks of frames; somebody must find the characters.

    Raises:
        ValueError, FileNotFoundError: It says what is wrong.
    """
    refuse_launcher()
    check_file_names(shown_characters(story))
    names = [character.name for character in story.characters]
    if settings.together:
        read_references(settings.references)
    elif detector is None and settings.detector == "none" and not settings.masks:
        raise ValueError('Nobody finds the characters in the frames: choose a detector, "toyworld" or "grounded-sam".')
    strange = [character for character in story.characters if character.word.lower() not in CLASS_WORDS]
    if uses_detector(settings) and detector is None and settings.detector == TOYWORLD and strange:
        raise ValueError(
            f"{quote(strange[0].name)} is a {printable(strange[0].word, 40)}, but the toy world has only "
            f"{', '.join(CLASS_WORDS)}. Choose one of them, or another detector."
        )
    for option in ("identities", "references"):
        for name, _ in getattr(settings, option):
            if name not in names:
                raise ValueError(f"{option}: the story has no character {quote(name)}; it has {quote_all(names)}.")
    for frame in story.frames:
        if masks := given_masks(settings, frame):
            read_masks(masks, frame, settings.height, settings.width)


def uses_detector(settings: RunSettings) -> bool:
    """Whether a run with these settings looks for characters."""
    return not settings.together or settings.finds_layouts
