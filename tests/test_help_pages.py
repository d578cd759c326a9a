"""The help pages say what the nodes say: every node, every socket, every quoted message.

Messages are quoted in the first column of the tables headed "message"; "…" stands for what varies, with the quotation
marks around it that the code may leave to `core.quoting.quote`.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "web" / "docs").glob("*.md"))}
CODE = [
    ast.parse(path.read_text(encoding="utf-8"))
    for folder in ("core", "nodes")
    for path in (ROOT / folder).rglob("*.py")
]
SHORTEST = 12
"""A quote needs this many fixed letters in a row, so that it says something."""


def schemas() -> dict[str, set[str]]:
    """Names of all inputs and outputs, by node id."""
    found = {}
    for call in (node for tree in CODE for node in ast.walk(tree)):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "Schema":
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            inputs = {entry.args[0].value for entry in given["inputs"].elts}
            outputs = [keyword for entry in given["outputs"].elts for keyword in entry.keywords]
            names = inputs | {keyword.value.value for keyword in outputs if keyword.arg == "display_name"}
            found[given["node_id"].value] = names
    return found


def literals() -> list[str]:
    """Every text in the code but docstrings, with "…" for the parts of f-strings that vary."""
    nodes = [node for tree in CODE for node in ast.walk(tree)]
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    texts = []
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            texts.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            texts.append(node.value)
    return [" ".join(text.split()).replace('"…"', "…") for text in texts]


def first_cells(page: str, header: str) -> list[str]:
    """The first column of the page's tables whose first heading is `header`."""
    tables = re.findall(rf"^\| {header} \|.*\n\|[-|]+\n((?:\|.*\n?)+)", page, re.MULTILINE)
    rows = "".join(tables).splitlines()
    return [re.split(r"(?<!\\)\|", row)[1].strip().replace("\\|", "|") for row in rows]


SCHEMAS, LITERALS = schemas(), literals()


def test_every_node_has_a_page_and_every_page_a_node():
    assert SCHEMAS.keys() == PAGES.keys()


@pytest.mark.parametrize("node", PAGES)
def test_a_page_names_the_nodes_inputs_and_outputs(node: str):
    assert SCHEMAS[node] - set(re.findall(r"`([^`]+)`", PAGES[node])) == set()
    assert set(re.findall(r"`([^`]+)`", " ".join(first_cells(PAGES[node], "name")))) - SCHEMAS[node] == set()


@pytest.mark.parametrize(
    ("node", "quote"), [(node, quote) for node, page in PAGES.items() for quote in first_cells(page, "message")]
)
def test_a_quoted_message_is_in_the_code(node: str, quote: str):
    fixed = [part for part in quote.replace('"…"', "…").split("…") if part.strip()]
    assert max(map(len, fixed)) >= SHORTEST
    pattern = re.compile(".*".join(map(re.escape, fixed)))
    assert any(pattern.search(text) for text in LITERALS), quote
