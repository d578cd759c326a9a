"""The help pages say what the nodes say: every node has one, and every message they quote is in the code.

The tables of inputs and outputs are generated from lab/workflows/node_schemas.json; tests/test_workflows.py compares
them. Messages are quoted in the first column of the tables headed "message"; "…" stands for what varies, with the
quotation marks around it that the code may leave to `core.quoting.quote`.
"""

import ast
import re
from pathlib import Path

import pytest
from story_identity.lab.workflows.schemas import PREFIX, read_schemas

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "web" / "docs").glob("*.md"))}
SCHEMAS = {name: node for name, node in read_schemas()["nodes"].items() if name.startswith(PREFIX)}
CODE = [
    ast.parse(path.read_text(encoding="utf-8"))
    for folder in ("core", "nodes")
    for path in (ROOT / folder).rglob("*.py")
]
SHORTEST = 12
"""A quote needs this many fixed letters in a row, so that it says something."""
LONGEST = 200
"""A tooltip has at most this many letters, so that it can be read at a glance."""
REFRESH = "run python -m tests.host.write_node_schemas, then python -m story_identity.lab.workflows"


def literals() -> list[str]:
    """Every text in the code but docstrings, with … for the parts of f-strings that vary, in quotes if they are."""
    nodes = [node for tree in CODE for node in ast.walk(tree)]
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    texts = []
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            texts.append(
                "".join(part.value if isinstance(part, ast.Constant) else _shown(part) for part in node.values)
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            texts.append(node.value)
    return [" ".join(text.split()).replace('"…"', "…") for text in texts]


def _shown(part: ast.expr) -> str:
    """What a part of an f-string that varies looks like in a help page."""
    call = part.value if isinstance(part, ast.FormattedValue) else part
    quoted = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "quote"
    return '"…"' if quoted else "…"


def given(keyword: str) -> set[str]:
    """The texts that the code gives for a keyword, such as `tooltip`."""
    calls = [node for tree in CODE for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == keyword]
    return {call.value.value for call in calls if isinstance(call.value, ast.Constant)}


def tooltips() -> list[tuple[str, str]]:
    """The node and name of every input and output, and its tooltip."""
    return [
        (f"{node_id} {each['name']}", each["tooltip"])
        for node_id, node in SCHEMAS.items()
        for each in (*node["inputs"], *node["outputs"])
    ]


def first_cells(page: str, header: str) -> list[str]:
    """The first column of the page's tables whose first heading is `header`."""
    tables = re.findall(rf"^\| {header} \|.*\n\|[-|]+\n((?:\|.*\n?)+)", page, re.MULTILINE)
    rows = "".join(tables).splitlines()
    return [re.split(r"(?<!\\)\|", row)[1].strip().replace("\\|", "|") for row in rows]


LITERALS = literals()


def test_every_node_has_a_page_and_every_page_a_node():
    assert given("node_id") == SCHEMAS.keys() == PAGES.keys(), REFRESH


def test_the_stored_schemas_have_the_texts_of_the_code():
    """Without a ComfyUI the texts alone tell whether the file is up to date."""
    stored = {tooltip for _, tooltip in tooltips()}
    assert stored <= set(LITERALS), REFRESH
    assert given("tooltip") <= stored, REFRESH
    for key in ("display_name", "description"):
        assert {node[key] for node in SCHEMAS.values()} <= set(LITERALS), REFRESH


@pytest.mark.parametrize(("where", "tooltip"), tooltips(), ids=lambda value: value if value[:5] == PREFIX[:5] else "")
def test_a_tooltip_is_short_and_in_sentences(where: str, tooltip: str):
    assert 0 < len(tooltip) <= LONGEST, where
    assert tooltip.endswith("."), where
    assert not tooltip.startswith("Of "), where


@pytest.mark.parametrize(
    ("node", "quote"), [(node, quote) for node, page in PAGES.items() for quote in first_cells(page, "message")]
)
def test_a_quoted_message_is_in_the_code(node: str, quote: str):
    fixed = [part for part in quote.replace('"…"', "…").split("…") if part.strip()]
    assert max(map(len, fixed)) >= SHORTEST
    pattern = re.compile(".*".join(map(re.escape, fixed)))
    assert any(pattern.search(text) for text in LITERALS), quote
