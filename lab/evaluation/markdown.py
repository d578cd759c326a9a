"""Tables as Markdown, between the markers of a page: means with their intervals, in plain characters."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.atomic_files import atomic_write
from ...core.scores.statistics import Interval, bootstrap_interval, paired_differences
from .stories import FRAMES

Rows = Sequence[Mapping[str, Any]]
"""The numbers of stories, a row each."""
Value = Callable[[Mapping[str, Any]], float | None]
"""What is taken out of a row; None where the story has no such value."""
Of = Callable[[str], Value]
"""The name of a drawing mode to what is taken out of a row for it."""
Columns = Mapping[str, tuple[Of, int, int]]
"""Titles, and what is shown under them of a drawing mode: the value, its scale and digits (see `cell`)."""


def markers(name: str) -> tuple[str, str]:
    """The comments between which the tables of an evaluation stand."""
    return f"<!-- {name} tables: begin -->", f"<!-- {name} tables: end -->"


def write_between_markers(page: Path, name: str, text: str) -> None:
    """Put a text between the two marker comments of a page; every other byte stays.

    Raises:
        ValueError: If the page does not have both, once, in order.
    """
    start, end = find_markers(page, name)
    content = page.read_text(encoding="utf-8")
    with atomic_write(page) as temporary:
        temporary.write_text(f"{content[:start]}\n{text}\n{content[end:]}", encoding="utf-8")


def find_markers(page: Path, name: str) -> tuple[int, int]:
    """Where the text between a page's markers begins and ends.

    Raises:
        ValueError: If the page does not have both, once, in order.
    """
    content = page.read_text(encoding="utf-8") if page.is_file() else ""
    begin, end = markers(name)
    if content.count(begin) != 1 or content.count(end) != 1 or content.index(begin) > content.index(end):
        raise ValueError(f'{page} needs the lines "{begin}" and "{end}", once each; the tables go between them.')
    return content.index(begin) + len(begin), content.index(end)


def check_stories(page: Path, name: str, stories: int) -> None:
    """Refuse to put tables of fewer stories in the place of those that stand on a page.

    Raises:
        ValueError: If the page does not have the markers, or its tables are of more than `stories` stories.
    """
    start, end = find_markers(page, name)
    standing = re.match(r"\s*(\d+) stories of ", page.read_text(encoding="utf-8")[start:end])
    if standing and int(standing[1]) > stories:
        raise ValueError(
            f"The tables of {name} on {page} are of {standing[1]} stories, more than {stories}; measure at least as "
            f"many, or give --page a copy of it."
        )


def about(rows: Rows) -> str:
    """What the tables begin with."""
    pairs = sum(len(row["people"]) == 2 for row in rows)
    evaluations = sum(row["evaluations"] for row in rows)
    return (
        f"{len(rows)} stories of {FRAMES} frames, {len(rows) - pairs} with one person and {pairs} with two; "
        f"{evaluations:,} UNet evaluations. Means over stories, with 95 % bootstrap intervals; differences are taken "
        "story by story, where both have a value."
    )


def at(*path: str) -> Value:
    """The value at the end of a path of keys; None where the path breaks off."""

    def value(row: Mapping[str, Any]) -> float | None:
        found: Any = row
        for key in path:
            found = None if found is None else found.get(key)
        return found

    return value


def table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = (titles, ("---",) * len(titles), *lines)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cell(rows: Rows, value: Value, scale: int = 1, digits: int = 3) -> str:
    """The mean of a value over the rows that have it."""
    return show([found for found in map(value, rows) if found is not None], scale, digits)


def difference(rows: Rows, value: Value, other: Value, scale: int = 1, digits: int = 3) -> str:
    """The mean of `value - other` over the rows that have both."""
    found = paired_differences([value(row) for row in rows], [other(row) for row in rows])
    return show(found, scale, digits, signed=True)


def cells(rows: Rows, mode: str, columns: Columns) -> list[str]:
    """The means of a drawing mode, one per column."""
    return [cell(rows, of(mode), scale, digits) for of, scale, digits in columns.values()]


def differences(rows: Rows, one: str, other: str, columns: Columns) -> list[str]:
    """The differences of two drawing modes, one per column."""
    return [difference(rows, of(one), of(other), scale, digits) for of, scale, digits in columns.values()]


def show(values: Sequence[float], scale: int = 1, digits: int = 3, signed: bool = False) -> str:
    """Such as "0.512 [0.480, 0.545]"; a dash where no story has the value."""
    if not values:
        return "–"
    return show_interval(bootstrap_interval([scale * value for value in values]), digits, signed)


def show_interval(interval: Interval, digits: int, signed: bool = False) -> str:
    """A mean and its interval in words, with a real minus sign."""
    sign = "+" if signed else ""
    mean, low, high = (f"{each:{sign}.{digits}f}" for each in (interval.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]".replace("-", "−")
