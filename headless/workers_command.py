"""`story-identity run` with --workers or --ray: which stories there are, and what became of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..core.quoting import quote
from .terminal import in_words, progress, say, shown

if TYPE_CHECKING:
    from ..core.story import Story
    from .run_settings import RunSettings
    from .story_set import Failure

_LIST = ".txt"
_RETRIES = 3


@dataclass(frozen=True)
class Crowd:
    """The options of several workers; see `options`."""

    workers: int | None
    address: str | None
    retries: int | None


def run_with_workers(
    paths: Sequence[Path], out: Path, overwrite: bool, as_published: bool, given: Mapping[str, Any], crowd: Crowd
) -> None:
    """Make one story or many, and say what could not be made.

    Raises:
        typer.Exit: With status 1 if something was not made.
    """
    from .run_folder import RunFolder
    from .story_set import StorySet

    settings = _settings(given, as_published, crowd.address is not None)
    stories, failures = _read_stories(paths, as_published)
    for name, story in stories.items():
        _say_warnings(name, story)
    with progress() as report:
        made = StorySet(
            stories,
            settings,
            out,
            overwrite=overwrite,
            retries=_RETRIES if crowd.retries is None else crowd.retries,
            report=report,
            notice=lambda sentence: say(sentence, error=True),
        )
        failures += made.make(crowd.workers, crowd.address)
    for failure in failures:
        say(f"Not made: {failure}", error=True)
    if "" in stories:
        say_painted(RunFolder(out), stories[""], settings)
    if failures:
        raise typer.Exit(1)
    say(f"The story is in {shown(out)}" if "" in stories else f"{len(stories)} stories are in {shown(out)}")


def is_collection(path: Path) -> bool:
    """Whether a path stands for several stories: a folder of them, or a file that lists them."""
    return path.is_dir() or path.suffix.lower() == _LIST


def story_files(paths: Sequence[Path]) -> list[Path]:
    """The story files that paths stand for: files, the .json files of folders, and those that .txt files list.

    Raises:
        ValueError, OSError: If a folder has none, or a list cannot be read or is empty.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            listed = sorted(path.glob("*.json"))
        elif is_collection(path):
            try:
                lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
            except UnicodeDecodeError as error:
                raise ValueError(f"{shown(path)} is no list of story files in UTF-8.") from error
            listed = [path.parent / line for line in lines if line and not line.startswith("#")]
        else:
            listed = [path]
        if not listed:
            what = "has no story file (.json)" if path.is_dir() else "lists no story file"
            raise ValueError(f"{shown(path)} {what}.")
        found += listed
    return found


def say_painted(folder: Any, story: "Story", settings: "RunSettings") -> None:
    """Say which masks of a run's folder somebody painted in."""
    for mask in folder.painted_masks(story):
        use = "`run --masks` into another folder" if settings.together else "`redenoise`"
        say(f"{shown(mask)} was painted in: it is kept, but not used here. {use} uses it.", error=True)


def _settings(given: Mapping[str, Any], as_published: bool, is_elsewhere: bool) -> "RunSettings":
    """The settings of all stories; a cluster's device need not be on this machine."""
    from ..core.story import CHARACTER
    from .cli import settings_from

    chosen = {"prompt": CHARACTER, **given} if as_published else dict(given)
    if not is_elsewhere:
        settings = settings_from(chosen)
        return settings.with_device(settings.device)
    device = chosen.pop("device", "cpu")
    return settings_from(chosen).with_device(device)


def _read_stories(paths: Sequence[Path], as_published: bool) -> "tuple[dict[str, Story], list[Failure]]":
    """The stories by name, and those that cannot be read. A single file is called "", others as their files.

    Raises:
        ValueError, OSError: If two would share a folder, or the only story cannot be read.
    """
    from ..core.story import Story
    from .story_set import Failure

    if len(paths) == 1 and not is_collection(paths[0]):
        return {"": Story.load(paths[0], as_published)}, []
    stories: dict[str, Story] = {}
    failures: list[Failure] = []
    seen: dict[str, Path] = {}
    for path in story_files(paths):
        other = seen.setdefault(path.stem.casefold(), path)
        if other is not path:
            raise ValueError(
                f"{quote(str(other))} and {quote(str(path))} would share the folder {quote(path.stem)}; rename one."
            )
        try:
            stories[path.stem] = Story.load(path, as_published)
        except (ValueError, OSError) as error:
            failures.append(Failure(path.stem, "", in_words(error)))
    return stories, failures


def _say_warnings(name: str, story: "Story") -> None:
    from ..core.story_warnings import story_warnings

    for sentence in story_warnings(story):
        say(f"{name}: {sentence}" if name else sentence, error=True)
