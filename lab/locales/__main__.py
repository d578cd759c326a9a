"""Write `locales/`, say what the translations lack, print what is to be translated, add what was translated."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..workflows.schemas import Json
from .faults import missing, stale, untrue
from .texts import LANGUAGES, as_text, generated, read_nodes, read_source, source_file, write_source


def main(
    to_translate: Annotated[
        str,
        typer.Option(
            "--missing",
            metavar="LANG",
            help="Print the texts that lack a translation, as JSON; what is left over goes to the standard error.",
        ),
    ] = "",
    add: Annotated[
        tuple[str, Path],
        typer.Option(metavar="LANG FILE", help="Take over what that JSON became, and drop what no node says any more."),
    ] = ("", Path()),
) -> None:
    """Write the translations that ComfyUI reads, and say which texts are missing, left over or not true."""
    nodes = read_nodes()
    if to_translate:
        translations = read_source(to_translate)
        typer.echo(as_text(dict.fromkeys(missing(nodes, translations), "")), nl=False)
        for text in stale(nodes, translations):  # often the former wording of one that is missing
            typer.echo(f"left over: {text!r}: {translations[text]!r}", err=True)
        return
    if add[0]:
        _add(nodes, *add)
    for path, text in generated(nodes).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    faults = [line for language in LANGUAGES for line in _faults(nodes, language)]
    typer.echo("\n".join(faults) or f"All texts are translated: {', '.join(LANGUAGES)}.")
    if faults:
        raise typer.Exit(1)


def _add(nodes: Json, language: str, file: Path) -> None:
    try:
        added = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(added, dict) or not all(isinstance(line, str) for line in added.values()):
            raise ValueError("it must be an object whose values are texts")
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{file} is not a JSON file of English texts and translations: {error}") from error
    translations = {**read_source(language), **{text: line for text, line in added.items() if line}}
    for text in stale(nodes, translations):
        typer.echo(f"Dropped, since no node says so: {text!r}: {translations.pop(text)!r}")
    write_source(language, translations)


def _faults(nodes: Json, language: str) -> list[str]:
    translations, file = read_source(language), source_file(language).name
    return [
        *(f"{file}: {text!r} is missing" for text in missing(nodes, translations)),
        *(f"{file}: {text!r} is left over: no node says so" for text in stale(nodes, translations)),
        *(f"{file}: {line}" for line in untrue(nodes, language, translations)),
    ]


if __name__ == "__main__":
    typer.run(main)
