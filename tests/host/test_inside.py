"""The checks of `inside/`, which run in ComfyUI's own Python, each reported as a test."""

import ast
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.stand_ins.folder import write_all

from .server import environment

INSIDE = Path(__file__).parent / "inside"
TIMEOUT_S = 800
SLOW = {
    *("check_anchor_frames", "check_compiled_models", "check_families", "check_shared_attention"),
    *("check_regions", "check_steps_of_calls", "check_two_passes"),
}
"""Files whose checks take most of a minute, or more."""


def checks() -> list[Any]:
    """Every function `check_*` of every file there, found without importing any: the file and the function."""
    return [
        pytest.param(path.stem, statement.name, marks=[pytest.mark.slow] if path.stem in SLOW else [])
        for path in sorted(INSIDE.glob("check_*.py"))
        for statement in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(statement, ast.FunctionDef) and statement.name.startswith("check_")
    ]


@pytest.fixture(scope="session")
def results(request, comfyui, tmp_path_factory) -> Callable[[str], dict[str, str | None]]:
    """What the checks of one file came to; each file has one process, which runs on the first question.

    Only the checks that pytest selected are run.
    """
    wanted = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    base_directory = tmp_path_factory.mktemp("inside")
    write_all(base_directory / "models")
    known: dict[str, dict[str, str | None]] = {}

    def of(file: str) -> dict[str, str | None]:
        if file not in known:
            report = base_directory / f"{file}.json"
            command = [comfyui.python, INSIDE / "run.py", INSIDE / f"{file}.py", comfyui.root, base_directory, report]
            command += [params["name"] for params in wanted if params.get("file") == file]
            done = subprocess.run(
                command,
                cwd=base_directory,
                env=environment(base_directory) | {"OMP_NUM_THREADS": "1"},  # the networks are too small for more
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
            )
            ended = f"{file} ended with {done.returncode} before its report:\n{done.stdout}{done.stderr}"
            known[file] = json.loads(report.read_text()) if report.exists() else {"": ended}
        return known[file]

    return of


@pytest.mark.parametrize(("file", "name"), checks())
def test_inside(results, file, name):
    outcome = results(file)
    if name not in outcome:
        pytest.fail(outcome.get("", f"{name} was not run"), pytrace=False)
    if problem := outcome[name]:
        pytest.fail(problem, pytrace=False)
