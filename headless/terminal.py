"""What commands write to the terminal: bars, lines, and mistakes in one line each. User text is never markup there."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..core.quoting import printable
from .option_values import NEEDED
from .stopping import STOPPED, exit_status, stoppable

if TYPE_CHECKING:
    from .studio import Report

_LONGEST_TASK = 60
_LONGEST_MESSAGE = 3000


@contextmanager
def progress() -> Iterator["Report"]:
    """A bar for what is being made; the libraries' own would run through it."""
    quiet_libraries()
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with stoppable(), Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        running: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in running:
                if done == total:
                    return
                running[what] = bars.add_task(printable(what, _LONGEST_TASK), total=total)
            bars.update(running[what], completed=done, total=total)
            if done == total:
                bars.remove_task(running.pop(what))

        yield report


def quiet_imports() -> None:
    """Have the libraries log errors only, by the settings that they read when they are imported."""
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")


def quiet_libraries() -> None:
    """Import the libraries without their messages and progress bars."""
    quiet_imports()
    import transformers.utils.logging

    transformers.utils.logging.set_verbosity_error()  # before diffusers has it tell what is not installed
    import diffusers.utils.logging

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.disable_progress_bar()


@contextmanager
def plain_errors() -> Iterator[None]:
    """What the user can mend is said in one line (exit status 2), a stop too (see `stopping`); all else is a defect."""
    try:
        yield
    except KeyboardInterrupt as stop:
        say(STOPPED, error=True)
        raise typer.Exit(exit_status(stop)) from stop
    except ModuleNotFoundError as missing:
        say(f"{missing}. {NEEDED}", error=True)
        raise typer.Exit(2) from missing
    except (ValueError, OSError) as problem:
        say(printable(in_words(problem), _LONGEST_MESSAGE), error=True)
        raise typer.Exit(2) from problem


def in_words(problem: ValueError | OSError) -> str:
    """An error of the system as a sentence that names the file; any other as it is."""
    if isinstance(problem, OSError) and problem.filename and problem.strerror:
        return f"{problem.filename}: {problem.strerror}."
    return str(problem)


def shown(path: Path) -> str:
    """A path as a message may carry it."""
    return printable(str(path))


def say(line: str, error: bool = False) -> None:
    """Write a line; what the terminal's encoding does not have is escaped."""
    stream = sys.stderr if error else sys.stdout
    encoding = stream.encoding or "utf-8"
    stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
