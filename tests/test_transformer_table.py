"""The table of diffusion transformers in docs/storynizor.md is the list that the checks inside ComfyUI are made for."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LISTS = ROOT / "tests/host/inside/transformer_frames.py"
PAGE = ROOT / "docs/storynizor.md"


def listed(name: str) -> list[str]:
    """The strings of a tuple, or the keys of a dict, that the checks' module gives a name."""
    for statement in ast.parse(LISTS.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            value = statement.value
            if isinstance(value, ast.Dict):
                return list(ast.literal_eval(value))
            assert isinstance(value, ast.Tuple)
            parts = [listed(each.value.id) if isinstance(each, ast.Starred) else [each.value] for each in value.elts]
            return [word for part in parts for word in part]
    raise AssertionError(f"{LISTS.name} has no {name}")


def rows() -> dict[str, list[str]]:
    """Family -> what the table says of it."""
    part = PAGE.read_text(encoding="utf-8").split("## Diffusion transformers")[1]
    found = re.findall(r"^\| ([^|]+?) \|(.+)\|$", part, re.MULTILINE)
    return {family: [cell.strip() for cell in rest.split("|")] for family, rest in found[1:]}


def test_the_table_says_works_of_the_families_that_are_checked():
    assert [name for name, cells in rows().items() if cells[0] == "works"] == listed("ALL")


def test_the_table_says_refused_of_the_families_that_are_checked_to_be_refused():
    refused = {name for name, cells in rows().items() if cells[0].startswith("refused")}
    assert refused == {*listed("REFUSED"), "PixArt"}


def test_positions_that_cannot_be_matched_are_named():
    matched = {name for name, cells in rows().items() if cells[0] == "works" and "matched" in cells[2]}
    assert matched == set(listed("ALL")) - {"SD3.5", "AuraFlow", "Anima"}
