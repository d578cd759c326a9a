"""A worker of many: the loaded models, and the tasks that it is given. It runs in a process of its own."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..core.atomic_files import atomic_write, is_full
from ..core.character_mentions import Character
from ..core.quoting import printable
from ..core.story import Frame, Story
from .detection import load_detector
from .manifest import differences
from .processes import cpu_threads
from .production import Production, check_loaded
from .run_folder import Lost, RunFolder
from .run_settings import RunSettings
from .studio import Studio, open_studio
from .terminal import in_words, quiet_libraries

Files = dict[str, bytes]
"""The files of a run's folder by their paths in it, with `/`."""


@dataclass(frozen=True)
class Look:
    """Check a story against the loaded models, and say what its folder lacks."""

    story: Story

    def do(self, production: Production) -> Lost:
        check_loaded(production.studio, self.story)
        return production.folder.lost_parts(self.story, production.studio.settings)


@dataclass(frozen=True)
class FindIdentity:
    """Find the identity of one character, the story's `number`th, from 0."""

    person: Character
    number: int

    def do(self, production: Production) -> None:
        production.find_identity(self.person, self.number)


@dataclass(frozen=True)
class MakeFrame:
    """Make one frame, whose identities are there; `numbers` are the positions of its cast in the story."""

    frame: Frame
    numbers: tuple[int, ...]

    def do(self, production: Production) -> None:
        folder = production.folder
        identities = {
            person.name: folder.saved_identity(person.name) or production.find_identity(person, number)
            for person, number in zip(self.frame.cast, self.numbers, strict=True)
        }
        production.make_frame(self.frame, identities)


Task = Look | FindIdentity | MakeFrame
"""A piece of work on a run."""


@dataclass(frozen=True)
class Opened:
    """A worker whose models are loaded: where it is, and whether it sees the folder of the results."""

    host: str
    process: int
    shares_folder: bool


@dataclass(frozen=True)
class Done:
    """What a task came to, and the files that it made where the worker does not see the folder of the results."""

    found: Any
    files: Files


@dataclass(frozen=True)
class Failed:
    """Why a task, or the loading of the models, did not succeed, in one sentence or two."""

    why: str
    disk_is_full: bool = False


class Worker:
    """One process's models and settings.

    Args:
        settings: Those of the run; the files that they name must be at the same paths on every host.
        record: `settings.record()` where the work is given out; a host with other files is refused.
        folder: What the paths of the settings start from.
    """

    def __init__(self, settings: RunSettings, record: Mapping[str, Any], folder: Path) -> None:
        self._settings, self._record, self._folder = settings, record, folder
        self._studio: Studio | None = None
        self._progress: tuple[str, int, int] | None = None

    def open(self, sign: Path, content: str) -> Opened | Failed:
        """Load the models.

        Args:
            sign: A file in the folder of the results; a worker that can read it shares that folder.
            content: What is in it.
        """
        host = socket.gethostname()
        quiet_libraries()
        try:
            with cpu_threads(self._settings.threads):
                self._studio = self._open_studio()
        except (ValueError, OSError) as error:
            return Failed(f"{printable(host)}: {in_words(error)}")
        try:
            shares_folder = sign.read_text() == content
        except OSError:
            shares_folder = False
        return Opened(host, os.getpid(), shares_folder)

    def do(self, task: Task, root: Path, files: Files | None) -> Done | Failed:
        """Do a task; what the user can mend comes back as `Failed`, all else is raised.

        Args:
            task: What to do.
            root: The run's folder.
            files: None where this worker sees that folder. Otherwise what the task reads of it; it is then done in
                a temporary folder.
        """
        try:
            with cpu_threads(self._settings.threads):
                if files is None:
                    return Done(task.do(self._production(root)), {})
                with TemporaryDirectory() as place:
                    write_files(Path(place), files)
                    found = task.do(self._production(Path(place)))
                    return Done(
                        found, {path: made for path, made in read_files(Path(place)).items() if path not in files}
                    )
        except (ValueError, OSError) as error:
            return Failed(in_words(error), isinstance(error, OSError) and is_full(error))

    def progress(self) -> tuple[str, int, int] | None:
        """What is being made, how many steps of it are done, and how many there are."""
        return self._progress

    def _open_studio(self) -> Studio:
        if self._folder.is_dir():
            os.chdir(self._folder)
        settings = replace(self._settings)  # checked anew, on this host
        found = differences(dict(self._record), settings.record(), "settings")
        if found:
            raise ValueError(f"the files here differ from those where the run was started: {'; '.join(found[:4])}.")
        return open_studio(settings, settings.device, load_detector(settings, settings.device))

    def _production(self, root: Path) -> Production:
        assert self._studio is not None  # opened before it is given tasks
        return Production(self._studio, RunFolder(root), self._record, self._tell)

    def _tell(self, *progress: Any) -> None:
        self._progress = progress


def read_files(root: Path) -> Files:
    """All files below a folder."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def write_files(root: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder, each whole or not at all."""
    for path, content in files.items():
        with atomic_write(root / path) as temporary:
            temporary.write_bytes(content)
