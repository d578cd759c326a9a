"""The files below a folder, and which symbolic links among them are followed."""

import os
from dataclasses import dataclass
from pathlib import Path

from ...core.quoting import printable


@dataclass(frozen=True)
class Refusal:
    """Why a file or folder is left out.

    Args:
        reason: In two or three words, the same for all that are left out for it.
        detail: What was found.
    """

    reason: str
    detail: str


@dataclass(frozen=True)
class FoundFiles:
    """What lies below a folder.

    Args:
        files: Paths below the folder, sorted; with nothing to each, so that one is found fast.
        refused: What is left out, by its path below the folder.
    """

    files: dict[str, None]
    refused: dict[str, Refusal]


def walk(root: Path) -> FoundFiles:
    """All files below a folder but those whose names begin with a dot, or that lie in such a folder.

    Symbolic links are followed where they lead to something inside the folder that is not one of their own folders.
    """
    inside = root.resolve()
    files: list[str] = []
    refused: dict[str, Refusal] = {}
    waiting: list[tuple[Path, tuple[Path, ...]]] = [(Path(), (inside,))]  # folders, with those they lie in, resolved
    while waiting:
        folder, above = waiting.pop()
        try:
            names = os.listdir(root / folder)
        except OSError as error:
            refused[folder.as_posix()] = Refusal("unreadable folder", str(error.strerror))
            continue
        for name in names:
            path = folder / name
            if name.startswith("."):
                continue
            target = Path(os.path.realpath(root / path))
            if why := _why_not(root / path, target, inside, above):
                refused[printable(path.as_posix())] = why
            elif target.is_dir():
                waiting.append((path, (*above, target)))
            elif target.is_file():
                files.append(path.as_posix())
    return FoundFiles(dict.fromkeys(sorted(files, key=lambda file: file.split("/"))), refused)


def _why_not(path: Path, target: Path, inside: Path, above: tuple[Path, ...]) -> Refusal | None:
    """Why a path is left out, if it is."""
    try:
        path.name.encode()
    except UnicodeEncodeError:
        return Refusal("name not UTF-8", "give it a name in UTF-8")
    if not path.is_symlink():
        return None
    if not target.is_relative_to(inside):
        return Refusal("link outside", f"it leads to {printable(str(target))}; copy what it leads to into the folder")
    if not os.path.exists(target):
        return Refusal("broken link", f"it leads to {printable(str(target))}, which is not there")
    if target in above:
        return Refusal("link in a circle", "it leads to a folder that it lies in")
    return None
