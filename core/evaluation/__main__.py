"""Measure again what `docs/evidence.md` says of the toy world.

    python -m story_identity.core.evaluation toyworld --stories 60 --out evaluation --processes 2

Every story is a file in `--out`; stories that are there are not done again. A folder belongs to one set of weights.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..replacing import replacing
from .figure import write_figure
from .folder import claim_folder, measure_stories, pictures_of, read_rows
from .tables import find_markers, make_tables, write_between_markers

SHOWN = (0, 1, 2, 4)
"""The stories on the figure."""

app = typer.Typer(add_completion=False)


@app.callback()
def main() -> None:
    """Measure what the documentation claims."""


@app.command()
def toyworld(
    out: Annotated[Path, typer.Option(help="Folder for the numbers and pictures of each story.")],
    stories: Annotated[int, typer.Option(min=2, help="How many stories; a third of them have two people.")] = 60,
    processes: Annotated[int, typer.Option(min=1, help="How many work on them, each on one CPU thread.")] = 1,
    page: Annotated[Path, typer.Option(help="The page whose tables are filled in; the figure goes beside it.")] = Path(
        "docs/evidence.md"
    ),
) -> None:
    """Draw stories of the toy world every way, measure them, and write the tables and the figure."""
    try:
        find_markers(page)
        claim_folder(out)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    measure_stories(out, stories, processes)
    rows = read_rows(out, stories)
    with replacing(out / "rows.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_between_markers(page, make_tables(rows))
    shown = [number for number in SHOWN if number < stories]
    captions = ["; ".join(rows[number]["people"]) for number in shown]
    write_figure(page.with_name(f"{page.stem}_identity.png"), [pictures_of(out, number) for number in shown], captions)
    typer.echo(f"{page}: {stories} stories")


if __name__ == "__main__":
    app()
