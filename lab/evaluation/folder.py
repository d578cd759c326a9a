"""The folder of an evaluation: a file of numbers and a strip of pictures for every story that is done."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import typer

from ...core.atomic_files import atomic_write
from ...core.quoting import printable, quote_all
from ...headless.processes import cpu_threads
from ...headless.run_files import write_json
from .figure import Figure, write_figure, write_strip
from .identitystory import Picture, Row, evaluation_settings
from .markdown import Rows, write_between_markers

Measure = Callable[[int], tuple[Row, Mapping[str, Sequence[Picture]]]]
"""A story's number to its numbers (JSON's own types) and its pictures, by the mode they were drawn in."""


_FORMER = {"ways": "drawing_modes"}
"""Names in the settings of older folders, and what they are now."""


@dataclass(frozen=True)
class Evaluation:
    """What is measured of stories and what is made of it. It goes to other processes: functions are modules' own.

    Args:
        name: The name of the markers on the page.
        open_measure: Loads everything.
        make_tables: Rows to Markdown.
        figure: What the figure shows.
        reported: The mode whose Face-Sim is printed when a story is done.
        made_with: What besides the settings of the toy world's evaluation the numbers depend on.
    """

    name: str
    open_measure: Callable[[], Measure]
    make_tables: Callable[[Rows], str]
    figure: Figure
    reported: str
    made_with: Mapping[str, Any] = field(default_factory=dict)


def evaluate(evaluation: Evaluation, out: Path, stories: int, processes: int, page: Path) -> None:
    """Measure the stories that are not done yet in a claimed folder, and write tables and figure of all."""
    measure_stories(evaluation, out, stories, processes)
    rows = read_rows(out, stories)
    with atomic_write(out / "rows.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_between_markers(page, evaluation.name, evaluation.make_tables(rows))
    shown = [number for number in evaluation.figure.stories if number < stories]
    if not shown:
        return
    captions = ["; ".join(rows[number]["people"]) for number in shown]
    path = page.with_name(f"{page.stem}_{evaluation.figure.name}.png")
    write_figure(path, evaluation.figure, [pictures_of(out, number) for number in shown], captions)


def claim_folder(out: Path, made_with: Mapping[str, Any]) -> None:
    """Note in the folder what its stories are made with.

    Raises:
        ValueError: If what is there was made with other settings or weights.
    """
    path = out / "settings.json"
    if not path.is_file():
        write_json(path, _record(made_with))
    check_settings(out, made_with)


def check_settings(out: Path, made_with: Mapping[str, Any]) -> None:
    """Check that the stories of a folder were made with the present settings and weights.

    Raises:
        ValueError: If they were not, or if the folder does not say what they were made with.
    """
    path, record = out / "settings.json", _record(made_with)
    if not path.is_file():
        raise ValueError(f"{out} is no folder of an evaluation: it has no settings.json.")
    found = {_FORMER.get(name, name): value for name, value in _read(path).items()}
    other = sorted(name for name in {*found, *record} if found.get(name) != record.get(name))
    if other:
        raise ValueError(f"The stories in {out} were made with another {quote_all(other)}; give another folder.")


def _record(made_with: Mapping[str, Any]) -> dict[str, Any]:
    """What the numbers depend on, as JSON gives it back."""
    return json.loads(json.dumps({**evaluation_settings().record(), **made_with}))


def check_done(out: Path, stories: int) -> None:
    """Raise a ValueError if the numbers of a story that is done cannot be read."""
    for number in range(stories):
        if numbers_of(out, number).is_file():
            _read(numbers_of(out, number))


def measure_stories(evaluation: Evaluation, out: Path, stories: int, processes: int) -> None:
    """Measure the stories that are not done yet, shared out among processes of one CPU thread each."""
    missing = [number for number in range(stories) if not numbers_of(out, number).is_file()]
    shares = [missing[first::processes] for first in range(processes)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for _ in pool.map(partial(measure_share, evaluation, out), [share for share in shares if share]):
            pass  # an error of a process is raised here


def measure_share(evaluation: Evaluation, out: Path, numbers: Sequence[int]) -> None:
    """Measure some stories and write the files of each as it is done."""
    with cpu_threads(1):
        measure = evaluation.open_measure()
        for number in numbers:
            row, pictures = measure(number)
            write_strip(pictures_of(out, number), pictures, evaluation.figure.rows)
            write_json(numbers_of(out, number), row)  # last: it says that the story is done
            typer.echo(f"story {number + 1}: Face-Sim {row['face_sim'][evaluation.reported]}")


def read_rows(out: Path, stories: int) -> list[Row]:
    return [_read(numbers_of(out, number)) for number in range(stories)]


def _read(path: Path) -> dict[str, Any]:
    """An object that `write_json` wrote.

    Raises:
        ValueError: If the file is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        why = printable(str(error), 300)
        raise ValueError(f"{path} is not valid JSON ({why}); delete it and run again.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no record of an evaluation; delete it and run again.")
    return found


def numbers_of(out: Path, number: int) -> Path:
    return out / "stories" / f"{number:04d}.json"


def pictures_of(out: Path, number: int) -> Path:
    return out / "stories" / f"{number:04d}.png"
