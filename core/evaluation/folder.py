"""The folder of an evaluation: a file of numbers and a strip of pictures for every story that is done."""

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import typer

from ..headless.files import write_json
from ..headless.processes import cpu_threads
from .figure import write_strip
from .toyworld import Row, evaluation_settings, measure_story, open_instruments


def claim_folder(out: Path) -> None:
    """Note in the folder what its stories are made with.

    Raises:
        ValueError: If what is there was made with other settings or weights.
    """
    path, record = out / "settings.json", json.loads(json.dumps(evaluation_settings().record()))
    if not path.is_file():
        write_json(path, record)
    made_with = json.loads(path.read_text(encoding="utf-8"))
    other = sorted(name for name in {*made_with, *record} if made_with.get(name) != record.get(name))
    if other:
        raise ValueError(f"The stories in {out} were made with another {', '.join(other)}; give another folder.")


def measure_stories(out: Path, stories: int, processes: int) -> None:
    """Measure the stories that are not done yet, shared out among processes of one CPU thread each."""
    missing = [number for number in range(stories) if not numbers_of(out, number).is_file()]
    shares = [missing[first::processes] for first in range(processes)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for _ in pool.map(partial(measure_share, out), [share for share in shares if share]):
            pass  # an error of a process is raised here


def measure_share(out: Path, numbers: Sequence[int]) -> None:
    """Measure some stories and write the files of each as it is done."""
    with cpu_threads(1):
        instruments = open_instruments(evaluation_settings())
        for number in numbers:
            row, pictures = measure_story(instruments, number)
            write_strip(pictures_of(out, number), pictures)
            write_json(numbers_of(out, number), row)  # last: it says that the story is done
            typer.echo(f"story {number + 1}: Face-Sim {row['face_sim']['discovered']}")


def read_rows(out: Path, stories: int) -> list[Row]:
    return [json.loads(numbers_of(out, number).read_text(encoding="utf-8")) for number in range(stories)]


def numbers_of(out: Path, number: int) -> Path:
    return out / "stories" / f"{number:04d}.json"


def pictures_of(out: Path, number: int) -> Path:
    return out / "stories" / f"{number:04d}.png"
