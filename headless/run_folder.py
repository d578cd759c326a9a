"""The folder of a run: its files, its manifest, and what may be continued in it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..core.atomic_files import remove_unfinished
from ..core.character_mentions import Character
from ..core.identity import PACK_VERSION, safe_file_name
from ..core.locking import locked
from ..core.story import Frame, Story
from .run_files import frame_file, read_about, read_manifest, write_json
from .run_settings import RunSettings

_FORMAT = "story-identity-run/1"
_OURS = ("frame_*.png", "template/frame_*.png", "layout/frame_*.png", "masks/frame_*.png", "identities/*.safetensors")

_RESULTS = {"not_found": None}
"""What a manifest says of a frame that is no part of the story."""


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

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the folder; the system lets go of the lock when the process ends, however it ends."""
        refusal = (
            f"Another run is working in {self.root}. Wait for it, choose another folder, or share one run between "
            "processes with torchrun."
        )
        with locked(self.root, refusal):
            yield

    def read_manifest(self) -> dict[str, Any] | None:
        """The manifest, or None where there is none.

        Raises:
            ValueError: If it is not one of ours.
        """
        return read_manifest(self.manifest, _FORMAT, "a run")

    def check(self, story: Story, settings: RunSettings) -> None:
        """Refuse to continue what was begun otherwise; a story may have grown at its end.

        Raises:
            ValueError: If the settings or the story differ from those of the files here; it says in what.
        """
        manifest = self.read_manifest()
        fix = f"{self.root} cannot be continued; choose another folder, or start it over with --overwrite."
        if manifest is None:
            if any(path for pattern in _OURS for path in self.root.glob(pattern)):
                raise ValueError(f"There are frames or identities, but no manifest.json. {fix}")
            return
        new = self.describe(story, settings)
        found = _differences(manifest["settings"], new["settings"], "settings")
        for part in ("characters", "frames"):
            if len(new[part]) < len(manifest[part]):
                found.append(f"there were {len(manifest[part])} {part}, now there are {len(new[part])}")
            for number, (old, now) in enumerate(zip(manifest[part], new[part], strict=False), start=1):
                found += _differences({**old, **_RESULTS}, {**now, **_RESULTS}, f"{part} {number}")
        if found:
            raise ValueError(f"This run differs from the one begun here: {'; '.join(found[:4])}. {fix}")

    def clear(self) -> None:
        """Remove the files of an earlier run, its manifest last."""
        for pattern in (*_OURS, "portraits/*/*.png"):
            for path in self.root.glob(pattern):
                path.unlink()
        self.manifest.unlink(missing_ok=True)

    def prepare(self, story: Story, settings: RunSettings, overwrite: bool) -> None:
        """Sweep up after killed processes (or clear everything away), and write the manifest as things stand."""
        remove_unfinished(self.root)
        if overwrite:
            self.clear()
        self.write_manifest(story, settings)

    def write_manifest(self, story: Story, settings: RunSettings) -> None:
        write_json(self.manifest, self.describe(story, settings))

    def describe(self, story: Story, settings: RunSettings) -> dict[str, Any]:
        """The manifest: settings, characters, frames, and who was not found in the frames that are done."""
        frames = []
        for frame in story.frames:
            entry = describe_frame(frame)
            if self.frame(frame.index).is_file():
                entry["not_found"] = read_about(self.frame(frame.index))["not_found"]
            frames.append({"file": frame_file(frame.index), **entry})
        return {
            "format": _FORMAT,
            "pack_version": PACK_VERSION,
            "settings": json.loads(json.dumps(settings.record())),  # as it will be read
            "places": settings.places(),
            "characters": [_describe_character(character) for character in story.characters],
            "frames": frames,
        }


def story_of(manifest: Mapping[str, Any]) -> Story:
    """The story a manifest describes, word for word."""
    characters = {entry["name"]: Character(**entry) for entry in manifest["characters"]}
    frames = []
    for index, entry in enumerate(manifest["frames"]):
        cast = tuple(characters[name] for name in entry["cast"])
        words = {
            "word_spans": tuple((start, end) for start, end in entry["word_spans"]),
            "telling_words": tuple(tuple((start, end) for start, end in own) for own in entry["telling_words"]),
        }
        texts = {key: entry[key] for key in ("prompt", "negative", "caption", "seed")}
        frames.append(Frame(index=index, cast=cast, story_names=tuple(characters), **words, **texts))
    return Story(tuple(characters.values()), tuple(frames))


def describe_frame(frame: Frame) -> dict[str, Any]:
    """A frame of the story as JSON; its seed is None where the run's counts."""
    return {
        "caption": frame.caption,
        "prompt": frame.prompt,
        "negative": frame.negative,
        "seed": frame.seed,
        "cast": [character.name for character in frame.cast],
        "word_spans": [list(span) for span in frame.word_spans],
        "telling_words": [[list(span) for span in own] for own in frame.telling_words],
    }


def check_file_names(characters: Sequence[Character]) -> None:
    """Raise a ValueError if two characters' files would be the same."""
    seen: dict[str, str] = {}
    for character in characters:
        other = seen.setdefault(safe_file_name(character.name).lower(), character.name)
        if other != character.name:
            raise ValueError(f'"{other}" and "{character.name}" would share a file; rename one of them.')


def _describe_character(character: Character) -> dict[str, Any]:
    return {"name": character.name, "word": character.word, "description": character.description}


def _differences(old: Any, new: Any, where: str) -> list[str]:
    """Where two JSON values differ, one sentence each."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [text for key in keys for text in _differences(old.get(key), new.get(key), f"{where}, {key}")]
    return [] if old == new else [f"{where}: it was {json.dumps(old)}, now it is {json.dumps(new)}"]
