"""What may be continued or started over in a run's folder, checked before anything is loaded or written."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.quoting import printable, quote_all
from ..core.story import Story
from .manifest import differences
from .run_files import frame_file, is_painted
from .run_folder import Extent, RunFolder
from .run_settings import RecordedSettings, RunSettings

_RESULTS = {"not_found": None}
"""What a manifest says of a frame that is no part of the story."""
_NOT_IN_FIRST_VERSION = ("telling_words", "style_prefix")
_NAMED = 3


def check_continuing(folder: RunFolder, story: Story, settings: RunSettings) -> None:
    """Refuse to continue what was begun otherwise; a story may have grown at its end.

    Raises:
        ValueError: If the settings or the story differ from those of the files here; it says in what. If files that no
            manifest lists have the names of files of this run.
    """
    manifest = folder.read_manifest()
    _refuse_foreign(folder, manifest, Extent.of(story, settings))
    if manifest is None:
        return
    new = folder.describe(story, settings)
    found = differences(_with_defaults(manifest["settings"]), _with_defaults(new["settings"]), "settings")
    for part in ("characters", "frames"):
        if len(new[part]) < len(manifest[part]):
            found.append(f"there were {len(manifest[part])} {part}, now there are {len(new[part])}")
        for number, (old, now) in enumerate(zip(manifest[part], new[part], strict=False), start=1):
            first_version = {key: now[key] for key in _NOT_IN_FIRST_VERSION if key in now and key not in old}
            found += differences({**old, **first_version, **_RESULTS}, {**now, **_RESULTS}, f"{part} {number}")
    if found:
        raise ValueError(
            f"This run differs from the one begun here: {'; '.join(found[:4])}. {_shown(folder.root)} cannot be "
            "continued; choose another folder, or start it over with --overwrite."
        )


def check_overwriting(folder: RunFolder, story: Story, settings: RunSettings) -> None:
    """Refuse to start over where that would delete what no run wrote, or what this run is to read.

    Raises:
        ValueError: It names the files, and says what to do.
    """
    manifest = folder.read_manifest()
    new, old = Extent.of(story, settings), Extent.listed(manifest)
    _refuse_foreign(folder, manifest, new)
    refuse_links(folder, new, old)
    painted = [path for path in map(folder.masks, range(old.frames)) if is_painted(path)]
    if painted:
        raise ValueError(
            f"In {_shown(folder.root)} masks were painted after the run wrote them, or are not the run's: "
            f"{_named(folder, painted)}. Move them elsewhere or delete them before you start over, or choose another "
            "folder."
        )
    doomed = {path.resolve() for path in folder.files(old) if path.exists()}
    read = [Path(path) for _, path in settings.identities]
    read += [Path(settings.masks) / frame_file(index) for index in range(new.frames) if settings.masks]
    needed = [str(path) for path in read if path.resolve() in doomed]
    if needed:
        raise ValueError(
            f"--overwrite would delete what this run is to read: {quote_all(needed, _NAMED)}. Choose another folder."
        )


def refuse_links(folder: RunFolder, *extents: Extent) -> None:
    """Raise a ValueError if a folder of the run's files is a link, through which files elsewhere would change."""
    for path in folder.folders(*extents):
        if os.path.islink(path) or getattr(os.path, "isjunction", lambda path: False)(path):
            raise ValueError(
                f"{_shown(path)} is a link to another folder, and a run changes nothing outside its own. Put a folder "
                "in its place, or choose another folder for the run."
            )


def _refuse_foreign(folder: RunFolder, manifest: Mapping[str, Any] | None, extent: Extent) -> None:
    listed = set(folder.files(Extent.listed(manifest)))
    foreign = [path for path in folder.files(extent) if path not in listed and os.path.lexists(path)]
    if foreign:
        reason = "there is no manifest.json that lists them" if manifest is None else "its manifest.json lists others"
        raise ValueError(
            f"{_shown(folder.root)} has files with names of this run's, but {reason}: {_named(folder, foreign)}. Move "
            "them elsewhere, or choose another folder."
        )


def _with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """With what a manifest means that does not mention a setting which a later version added."""
    return {**{name: each.default for name, each in RecordedSettings.model_fields.items()}, **settings}


def _named(folder: RunFolder, paths: Sequence[Path]) -> str:
    return quote_all((path.relative_to(folder.root).as_posix() for path in paths), _NAMED)


def _shown(path: Path) -> str:
    return printable(str(path))
