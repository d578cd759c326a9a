"""The folder of a run: its files, its manifest, and which of them are there."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.atomic_files import atomic_write, remove_unfinished
from ..core.character_mentions import Character
from ..core.identity import PACK_VERSION, Identity, safe_file_name
from ..core.locking import locked
from ..core.quoting import printable, quote
from ..core.story import Appearance, Frame, Story
from .manifest import FORMAT, FrameEntry, Manifest, StoryPart
from .run_files import frame_file, is_painted, is_whole, json_bytes, read_about, read_manifest, write_json
from .run_settings import RecordedSettings, RunSettings
from .schema import checked

FRAME_FILES = ("template", "masks", "layout", "frame")
"""What there may be of one frame, in the order in which it is written."""


@dataclass(frozen=True)
class Extent:
    """How many files a run has.

    Args:
        frames: How many frames.
        names: Who is in them, and has an identity.
        drawn: Those of whom portraits are drawn.
        portraits: How many of each.
        files: What there is of each frame, of `FRAME_FILES`.
    """

    frames: int
    names: tuple[str, ...]
    drawn: tuple[str, ...]
    portraits: int
    files: tuple[str, ...] = FRAME_FILES

    @classmethod
    def of(cls, story: Story, settings: RunSettings) -> "Extent":
        """That of a run which is to be made."""
        if settings.together:
            return cls._together(len(story.frames), settings.finds_layouts)
        casts = [[character.name for character in frame.cast] for frame in story.frames]
        return cls._of(casts, [name for name, _ in settings.identities], settings.portraits)

    @classmethod
    def listed(cls, manifest: Mapping[str, Any] | None) -> "Extent":
        """That of the run which a manifest lists; without one there is nothing."""
        if manifest is None:
            return cls(0, (), (), 0)
        if manifest["settings"].get("together"):
            return cls._together(len(manifest["frames"]), _found_layouts(manifest["places"]))
        casts = [frame["cast"] for frame in manifest["frames"]]
        given = [name for name, _ in manifest["places"].get("identities", [])]
        return cls._of(
            casts, given, manifest["settings"].get("portraits", RecordedSettings.model_fields["portraits"].default)
        )

    @classmethod
    def _together(cls, frames: int, with_layouts: bool) -> "Extent":
        """That of frames drawn together, which have no identities."""
        return cls(frames, (), (), 0, FRAME_FILES if with_layouts else FRAME_FILES[-1:])

    @classmethod
    def _of(cls, casts: Sequence[Sequence[str]], given: Sequence[str], portraits: int) -> "Extent":
        names = tuple(dict.fromkeys(name for cast in casts for name in cast))
        return cls(len(casts), names, tuple(name for name in names if name not in given), portraits)


@dataclass(frozen=True)
class Lost:
    """The characters, by name, and the frames, from 0, of which a finished story's folder lacks files."""

    names: tuple[str, ...]
    frames: tuple[int, ...]


class RunFolder:
    """Where a run's files lie."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifest = root / "manifest.json"
        self.masks_folder = root / "masks"

    def frame(self, index: int) -> Path:
        return self.root / frame_file(index)

    def template(self, index: int) -> Path:
        return self.root / "template" / frame_file(index)

    def layout(self, index: int) -> Path:
        return self.root / "layout" / frame_file(index)

    def masks(self, index: int) -> Path:
        return self.masks_folder / frame_file(index)

    def identity(self, name: str) -> Path:
        return self.root / "identities" / f"{safe_file_name(name)}.safetensors"

    def portraits(self, name: str) -> Path:
        return self.root / "portraits" / safe_file_name(name)

    def portrait(self, name: str, number: int, kept: bool = False) -> Path:
        """A portrait, numbered from 1; those that the identity is made of are called kept."""
        return self.portraits(name) / _portrait_file(number, kept)

    def whole_portrait(self, name: str, number: int) -> Path | None:
        """The file of a portrait, under whichever of its names it is whole."""
        places = (self.portrait(name, number, kept) for kept in (True, False))
        return next((path for path in places if is_whole(path)), None)

    def frame_files(self, index: int, files: Sequence[str] = FRAME_FILES) -> list[Path]:
        """The files of one frame; its own is made last."""
        return [getattr(self, name)(index) for name in files]

    def files(self, extent: Extent) -> Iterator[Path]:
        """Every file that a run may write, except its manifest."""
        for index in range(extent.frames):
            yield from self.frame_files(index, extent.files)
        yield from map(self.identity, extent.names)
        for name in extent.drawn:
            place = self.portraits(name)
            for number in range(1, extent.portraits + 1):
                yield from (place / _portrait_file(number, kept) for kept in (True, False))

    def folders(self, *extents: Extent) -> list[Path]:
        """The folders below this one that runs write in."""
        own = [self.root / name for name in ("template", "layout", "masks", "identities", "portraits")]
        return own + [self.portraits(name) for name in dict.fromkeys(name for each in extents for name in each.drawn)]

    @contextmanager
    def locked(self) -> Iterator[OSError | None]:
        """Keep other runs out of the folder; the system releases the lock when the process ends, however it ends.

        Yields:
            Why nothing can be written here; None if it can. A folder in which nobody can write needs no lock.
        """
        place, obstacle = printable(str(self.root)), None
        if self.root.exists() and not self.root.is_dir():
            raise ValueError(f"{place} is a file; give a folder for the run.")
        refusal = (
            f"Another run is working in {place}. Wait for it, or choose another folder. One run has several processes "
            "where it is started with --workers."
        )
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.root, refusal))
            except OSError as error:
                obstacle = error
            yield obstacle

    def read_manifest(self) -> dict[str, Any] | None:
        """The manifest, or None where there is none.

        Raises:
            ValueError: If it is not one of ours, or is damaged.
        """
        manifest = read_manifest(self.manifest, FORMAT, "a run")
        if manifest is not None:
            checked(Manifest, manifest, str(self.manifest))
        return manifest

    def lost(self, story: Story, settings: RunSettings) -> Iterator[Path]:
        """What a finished story must hold and this folder does not: files that are missing or damaged.

        The last frames come first, since they are the likeliest.
        """
        extent = Extent.of(story, settings)
        for index in reversed(range(extent.frames)):
            yield from self.lost_of_frame(index, extent.files)
        for name in extent.names:
            if self.saved_identity(name) is None:
                yield self.identity(name)
        for name in extent.drawn:
            yield from self.lost_portraits(name, self.portrait_count(name, extent.portraits))

    def lost_parts(self, story: Story, settings: RunSettings) -> Lost:
        """What `lost` says, by the pieces of work that make it."""
        extent = Extent.of(story, settings)
        names = tuple(name for name in extent.names if self._lacks_identity(name, extent))
        return Lost(names, tuple(i for i in range(extent.frames) if self.lost_of_frame(i, extent.files)))

    def _lacks_identity(self, name: str, extent: Extent) -> bool:
        if self.saved_identity(name) is None:
            return True
        count = self.portrait_count(name, extent.portraits)
        return name in extent.drawn and next(self.lost_portraits(name, count), None) is not None

    def lost_of_frame(self, index: int, files: Sequence[str] = FRAME_FILES) -> list[Path]:
        """Those of a frame's files that are missing or damaged."""
        return [path for path in self.frame_files(index, files) if not is_whole(path)]

    def portrait_count(self, name: str, most: int) -> int:
        """How many portraits a character's saved identity was found in; `most` where none is saved."""
        saved = self.saved_identity(name)
        discovery = saved.metadata.get("discovery") if saved else None
        count = discovery.get("portraits") if isinstance(discovery, Mapping) else None
        return min(count, most) if isinstance(count, int) and count > 0 else most

    def lost_portraits(self, name: str, count: int) -> Iterator[Path]:
        """Portraits of one character that are missing or damaged."""
        for number in range(1, count + 1):
            if self.whole_portrait(name, number) is None:
                yield self.portrait(name, number)

    def saved_identity(self, name: str) -> Identity | None:
        """A character's identity; None if the file is missing or damaged."""
        try:
            return Identity.load(self.identity(name))
        except (FileNotFoundError, ValueError):
            return None

    def name_portraits(self, name: str, count: int, kept: Sequence[int]) -> None:
        """Give portraits their names: `kept` has the positions, from 0, of those that the identity is made of."""
        for number in range(1, count + 1):
            chosen, other = (self.portrait(name, number, is_kept) for is_kept in _with_opposite(number - 1 in kept))
            if not other.is_file():
                continue
            if is_whole(chosen):
                other.unlink()
            else:
                other.replace(chosen)

    def painted_masks(self, story: Story) -> list[Path]:
        """The mask files that somebody painted in since the run wrote them."""
        return [path for path in map(self.masks, range(len(story.frames))) if is_painted(path)]

    def prepare(self, story: Story, settings: RunSettings, overwrite: bool) -> None:
        """Delete what killed processes left (or everything), and write the manifest of the present state."""
        old = Extent.listed(self.read_manifest())
        self.remove_unfinished(Extent.of(story, settings), old)
        if overwrite:
            for path in self.files(old):
                path.unlink(missing_ok=True)
            self.manifest.unlink(missing_ok=True)  # last: until then it lists what is left
        self.write_manifest(story, settings)

    def remove_unfinished(self, *extents: Extent) -> None:
        """Delete what killed processes left."""
        for folder in (self.root, *self.folders(*extents)):
            remove_unfinished(folder, below=False)

    def keep(self, files: Mapping[str, bytes]) -> None:
        """Write files of a run, by their paths in its folder, where they are missing or damaged."""
        for path, content in files.items():
            if not is_whole(self.root / path):
                with atomic_write(self.root / path) as temporary:
                    temporary.write_bytes(content)

    def keep_identity(self, name: str, files: Mapping[str, bytes]) -> None:
        """`keep` for one character's identity and portraits; those that are there get the names that they have here."""
        identity = self.identity(name).relative_to(self.root).as_posix()
        names = [Path(path).name for path in files if path != identity]
        kept = [number for number in range(len(names)) if _portrait_file(number + 1, True) in names]
        self.name_portraits(name, len(names), kept)
        self.keep(
            {path: content for path, content in files.items() if path != identity or self.saved_identity(name) is None}
        )

    def write_manifest(self, story: Story, settings: RunSettings) -> None:
        """Write the manifest of the present state; one that says the same already stays untouched."""
        content = self.describe(story, settings)
        if not self.manifest.is_file() or self.manifest.read_bytes() != json_bytes(content):
            write_json(self.manifest, content)

    def describe(self, story: Story, settings: RunSettings) -> dict[str, Any]:
        """The manifest: settings, characters, frames, and who was not found in the frames that are done.

        Raises:
            ValueError: If a frame is a whole picture, but none that a run wrote.
        """
        frames = []
        for frame in story.frames:
            found = self._not_found(frame.index)
            frames.append({
                "file": frame_file(frame.index),
                **describe_frame(frame),
                **({} if found is None else {"not_found": found}),
            })  # fmt: skip
        content = {
            "format": FORMAT,
            "pack_version": PACK_VERSION,
            "settings": settings.record(),
            "places": settings.places(),
            "characters": [_describe_character(character) for character in story.characters],
            "frames": frames,
        }
        return json.loads(json.dumps(content))  # as it will be read

    def _not_found(self, index: int) -> list[str] | None:
        """Who was not found in a frame that is done; None while it is not."""
        path = self.frame(index)
        try:
            about = read_about(path)
        except ValueError:
            if is_whole(path):
                raise
            return None
        if not isinstance(about.get("not_found"), list):
            raise ValueError(f"{printable(str(path))} is no frame that a run finished; move it away and run again.")
        return about["not_found"]


def story_of(manifest: Mapping[str, Any]) -> Story:
    """The story a manifest describes, word for word.

    Raises:
        ValueError: If the manifest has another form.
    """
    part = checked(StoryPart, manifest, "The manifest")
    characters = {each.name: Character(each.name, each.word, each.description) for each in part.characters}
    frames = tuple(_frame_of(index, entry, characters) for index, entry in enumerate(part.frames))
    return Story(tuple(characters.values()), frames)


def _frame_of(index: int, entry: FrameEntry, characters: Mapping[str, Character]) -> Frame:
    identifying = entry.telling_words or [[] for _ in entry.cast]
    return Frame(
        index=index,
        prompt=entry.prompt,
        appearances=tuple(
            Appearance(characters[name], span, tuple(spans))
            for name, span, spans in zip(entry.cast, entry.word_spans, identifying, strict=True)
        ),
        seed=entry.seed,
        negative=entry.negative,
        caption=entry.caption,
        story_names=tuple(characters),
        style_prefix=entry.style_prefix,
    )


def describe_frame(frame: Frame) -> dict[str, Any]:
    """A frame of the story as JSON; its seed is None where the run's counts."""
    return {
        "caption": frame.caption,
        "prompt": frame.prompt,
        "negative": frame.negative,
        "seed": frame.seed,
        "cast": [character.name for character in frame.cast],
        "word_spans": [list(each.class_word) for each in frame.appearances],
        "telling_words": [[list(span) for span in each.identifying_words] for each in frame.appearances],
        **({"style_prefix": frame.style_prefix} if frame.style_prefix else {}),
    }


def check_file_names(characters: Sequence[Character]) -> None:
    """Raise a ValueError if two characters' files would be the same."""
    seen: dict[str, str] = {}
    for character in characters:
        other = seen.setdefault(safe_file_name(character.name).lower(), character.name)
        if other != character.name:
            raise ValueError(f"{quote(other)} and {quote(character.name)} would share a file; rename one of them.")


def _describe_character(character: Character) -> dict[str, Any]:
    return {"name": character.name, "word": character.word, "description": character.description}


def _found_layouts(places: Mapping[str, Any]) -> bool:
    """`RunSettings.finds_layouts` of frames drawn together, from a manifest's places."""
    return bool(places.get("adapter")) and not places.get("masks") and places.get("detector", "none") != "none"


def _portrait_file(number: int, kept: bool) -> str:
    return f"{number:03d}{'_kept' if kept else ''}.png"


def _with_opposite(value: bool) -> tuple[bool, bool]:
    return value, not value
