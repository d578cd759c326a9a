"""The manifest of a StoryDB, and whether a file is one."""

from pathlib import Path, PurePosixPath
from typing import Any

from ...core.quoting import printable, quote
from ...headless.run_files import read_manifest

FORMAT = "story-identity-storydb/1"
GROUPS = "groups"

_CHARACTER = {"name": str, "word": str, "description": str}
_PICTURE = {"key": str, "source": str, "sha256": {...: str}}
_GROUP = {"key": str, "source": str, "file": str, "characters": [_CHARACTER], "pictures": [_PICTURE]}
_DROP = {"file": str, "source": str, "reason": str, "detail": str}
_FORM = {"settings": {...: object}, "sources": {...: {"fingerprint": str}}, "groups": [_GROUP], "drops": [_DROP]}
"""The keys there must be, with the types of their values; of a mapping with `...`, those of all values."""


def read_storydb(folder: Path) -> dict[str, Any]:
    """The manifest of a StoryDB: settings, models, sources, groups with checksums, drops with reasons.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is none of ours, or damaged.
    """
    manifest = find_storydb(folder)
    if manifest is None:
        raise FileNotFoundError(f"{folder} is no StoryDB: it has no manifest.json. Make one with build-storydb.")
    return manifest


def find_storydb(folder: Path) -> dict[str, Any] | None:
    """The manifest of a StoryDB, or None where there is none.

    Raises:
        ValueError: If it is none of ours, or damaged.
    """
    path = folder / "manifest.json"
    try:
        manifest = read_manifest(path, FORMAT, "a StoryDB")
    except RecursionError as error:
        raise ValueError(f"{path} is not valid JSON: it is nested too deeply.") from error
    if manifest is None:
        return None
    fault = _misfit(manifest, _FORM, "it")
    for entry in [] if fault else manifest["groups"]:
        if PurePosixPath(entry["file"]).parts[:-1] != (GROUPS,):
            fault = f'the file of a group is {quote(entry["file"])}, which is not in "{GROUPS}"'
    if fault:
        raise ValueError(f"{path} is damaged: {fault}. Build the StoryDB again in another folder.")
    return manifest


def _misfit(value: Any, form: Any, where: str) -> str:
    """Where a value is not of a form, in words; empty if it is."""
    if isinstance(form, type):
        return "" if isinstance(value, form) else f"{where} is {quote(value)}, expected {form.__name__}"
    if isinstance(form, list):
        if not isinstance(value, list):
            return f"{where} is {quote(value)}, expected a list"
        parts = ((each, form[0], f"number {place} of {where}") for place, each in enumerate(value, start=1))
    else:
        if not isinstance(value, dict):
            return f"{where} is {quote(value)}, expected an object"
        if missing := [key for key in form if key is not ... and key not in value]:
            return f"{where} has no {quote(missing[0])}"
        keys = value if ... in form else form
        parts = ((value[key], form.get(key, form.get(...)), f"{printable(key, 60)} of {where}") for key in keys)
    return next((fault for part in parts if (fault := _misfit(*part))), "")
