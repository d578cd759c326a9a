"""The tables of inputs, outputs and nodes in the help pages and in docs/, from node_schemas.json and the workflows.

A table stands between a pair of markers, such as `<!-- inputs -->` and `<!-- /inputs -->`; the rest of a page is
written by hand.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .kinds import NOTE
from .schemas import PREFIX, Json

MACHINES = "choice"
"""The type of an input whose options are files of the machine, or ComfyUI's own."""


def filled_pages(pack: Path, schemas: Json) -> dict[Path, str]:
    """The text of every page with its tables as they should be, by path.

    Args:
        pack: The pack's folder.
        schemas: As in node_schemas.json.

    Raises:
        ValueError: If a node has no page, or a page lacks a pair of markers.
    """
    nodes = {name: node for name, node in schemas["nodes"].items() if name.startswith(PREFIX)}
    tables = {
        pack / "web" / "docs" / f"{name}.md": {
            "inputs": inputs_table(node["inputs"]),
            "outputs": outputs_table(node["outputs"]),
        }
        for name, node in nodes.items()
    }
    tables[pack / "docs" / "architecture.md"] = {"nodes": nodes_table(nodes)}
    return {path: filled_page(path, wanted) for path, wanted in tables.items()}


def inputs_table(inputs: list[Json]) -> str:
    """A row per input: its name, its type or range, its default, its tooltip."""
    if not inputs:
        return "This node has no inputs."
    rows = [(f"`{each['name']}`", _type(each), _default(each), each["tooltip"]) for each in inputs]
    return _table(("name", "type", "default", "what it does"), rows)


def outputs_table(outputs: list[Json]) -> str:
    """A row per output: its name, its type, its tooltip."""
    rows = [(f"`{each['name']}`", _listed(each), each["tooltip"]) for each in outputs]
    return _table(("name", "type", "what it is"), rows)


def nodes_table(nodes: dict[str, Json]) -> str:
    """A row per node: its id, its name in the editor, its inputs (optional ones in parentheses) and its outputs."""
    rows = []
    for name, node in nodes.items():
        inputs = [f"({each['name']})" if each.get("optional") else each["name"] for each in node["inputs"]]
        outputs = [f"{each['name']} ({_listed(each)})" for each in node["outputs"]]
        rows.append((name, node["display_name"], ", ".join(inputs), ", ".join(outputs)))
    return _table(("id", "display name", "inputs", "outputs"), rows)


def workflows_table(workflows: dict[str, Json]) -> str:
    """A row per workflow, given by file name: what its top level shows, what it folds, and how large it is shown."""
    header = ("workflow", "nodes", "links", "widgets", "subgraphs", "zoom")
    return _table(header, [_workflow(name, workflows[name]) for name in sorted(workflows)])


def _workflow(name: str, workflow: Json) -> tuple[str, ...]:
    subgraphs = [each["name"] for each in workflow.get("definitions", {}).get("subgraphs", [])]
    shown = sum(len(_widgets(node)) for node in workflow["nodes"] if node["type"] != NOTE.id)
    zoom = f"{workflow['extra']['ds']['scale']:.0%}".replace("%", " %")
    counts = map(str, (len(workflow["nodes"]), len(workflow["links"]), shown))
    return (f"`{name.removesuffix('.json')}`", *counts, "; ".join(subgraphs), zoom)


def _widgets(node: Json) -> list[str]:
    """The widgets that a node shows and nothing is connected to."""
    own = [each["name"] for each in node["inputs"] if "widget" in each and each["link"] is None]
    shown = [widget for _, widget in node["properties"].get("proxyWidgets", [])]
    return [*own, *shown]


def filled_page(path: Path, tables: dict[str, str]) -> str:
    """The text of a page with its tables, by the name of their markers, as they should be.

    Raises:
        ValueError: If the page is missing or lacks a pair of markers.
    """
    if not path.is_file():
        markers = ", ".join(f"<!-- {name} --> and <!-- /{name} -->" for name in tables)
        raise ValueError(f"{path} is missing. Write this help page, with the markers {markers} on lines of their own.")
    text = path.read_text(encoding="utf-8")
    for name, table in tables.items():
        pattern = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->\n)", re.DOTALL)
        text, count = pattern.subn(lambda found, table=table: f"{found[1]}\n{table}\n\n{found[2]}", text)
        if count != 1:
            raise ValueError(
                f"{path} must have the markers <!-- {name} --> and <!-- /{name} --> once each, on lines of their own; "
                "the table is written between them."
            )
    return text


def _type(spec: Json) -> str:
    kind: str = spec["type"]
    words = {
        "*": "anything",
        "BOOLEAN": "on, off",
        "STRING": "text",
        "COMBO": ", ".join(spec.get("options", [MACHINES])),
    }
    shown = _range(spec) if kind in ("INT", "FLOAT") else words.get(kind, kind.replace(",", ", "))
    return ", ".join([shown, *(mark for mark in ("optional", "advanced") if spec.get(mark))])


def _range(spec: Json) -> str:
    step = f" in steps of {spec['step']}" if spec["type"] == "INT" and spec.get("step", 1) != 1 else ""
    return f"{_number(spec['min'])} to {_number(spec['max'])}{step}"


def _number(value: float | int) -> str:
    return "2^64 - 1" if value == 2**64 - 1 else f"{value:g}" if isinstance(value, float) else str(value)


def _default(spec: Json) -> str:
    value: Any = spec.get("default")
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, str):
        first, *more = value.split("\n")
        return f"{first} …" if more else first or "empty"
    return "" if value is None else str(value)


def _listed(output: Json) -> str:
    kind = "anything" if output["type"] == "*" else output["type"]
    return f"{kind}, list" if output.get("list") else kind


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(map(_cell, line))} |" for line in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])


def _cell(text: str) -> str:
    """The text as Markdown shows it, word for word."""
    return text.replace("|", "\\|").replace("<", "&lt;")
