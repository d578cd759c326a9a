"""GitHub's workflows and pre-commit's hooks: they can be read, and call what there is."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FILES = [*sorted((ROOT / ".github" / "workflows").glob("*.yml")), ROOT / ".pre-commit-config.yaml"]
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in FILES[:-1]}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
ON = True
"""YAML 1.1, which PyYAML reads, takes the key `on` for a truth value."""


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job.get("steps", [])]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_make_target_that_is_called_is_in_the_makefile(path: Path):
    called = set(re.findall(r"(?:run|entry): make ([\w-]+)|^\s+make ([\w-]+)", path.read_text("utf-8"), re.MULTILINE))
    targets = {one or other for one, other in called}
    assert targets or path.stem == "publish"
    assert targets <= set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))


def test_the_tests_run_on_every_python_from_the_oldest_that_the_pack_supports():
    versions = WORKFLOWS["tests"]["jobs"]["tests"]["strategy"]["matrix"]["python"]
    oldest = re.search(r'^requires-python = ">=(.+)"$', PROJECT, re.MULTILINE)[1]
    assert versions == ["3.10", "3.11", "3.12", "3.13"]
    assert versions[0] == oldest


def test_lint_types_and_tests_are_run():
    scripts = " ".join(step.get("run", "") for step in steps(WORKFLOWS["tests"]))
    assert "make lint" in scripts
    assert "make test-all\n" in scripts


def test_a_tag_publishes_after_the_tests_and_nothing_else_does():
    publish = WORKFLOWS["publish"]
    assert publish[ON] == {"push": {"tags": ["v*.*.*"]}}
    assert publish["jobs"]["tests"]["uses"] == "./.github/workflows/tests.yml"
    assert "workflow_call" in WORKFLOWS["tests"][ON]
    assert publish["jobs"]["publish"]["needs"] == "tests"
    repository = re.search(r'^Repository = "https://github.com/(.+)"$', PROJECT, re.MULTILINE)[1]
    assert publish["jobs"]["publish"]["if"] == f"github.repository == '{repository}'"


def test_the_version_is_where_publishing_looks_for_it():
    """The step greps for a whole line."""
    (check,) = [step["run"] for step in steps(WORKFLOWS["publish"]) if "pyproject.toml" in step.get("run", "")]
    assert check == 'grep -Fx "version = \\"${GITHUB_REF_NAME#v}\\"" pyproject.toml'
    assert len(re.findall(r'^version = "\d+\.\d+\.\d+"$', PROJECT, re.MULTILINE)) == 1


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_only_read_the_repository(name: str):
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"}


def test_actions_of_others_are_pinned_to_a_commit():
    used = [step["uses"] for workflow in WORKFLOWS.values() for step in steps(workflow) if "uses" in step]
    foreign = [each for each in used if not each.startswith(("actions/", "./"))]
    assert foreign
    assert all(re.search(r"@[0-9a-f]{40}$", each) for each in foreign)
