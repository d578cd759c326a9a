"""Which ComfyUI the host tests take; none is needed for this."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from . import comfyui
from .comfyui import ComfyUI, find_comfyui


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch, tmp_path):
    """A home without ComfyUI, no COMFYUI_PATH, and the repository in no pack folder."""
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(comfyui, "PLACES", (tmp_path / "code" / "pack",))


def install(root, venv=None):
    (root / "comfy").mkdir(parents=True)
    (root / "main.py").touch()
    if venv:
        python = root / venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        python.parent.mkdir(parents=True)
        python.touch()
        return python
    return Path(sys.executable)


def test_none_is_none():
    assert find_comfyui() is None


def test_usual_places_in_order(tmp_path):
    for place in ("home/ComfyUI", "home/comfy/ComfyUI"):
        install(tmp_path / place)
        assert find_comfyui() == ComfyUI(tmp_path / place, Path(sys.executable))


def test_the_one_the_pack_is_installed_in_comes_before_those(tmp_path, monkeypatch):
    install(tmp_path / "home" / "ComfyUI")
    install(tmp_path / "mine")
    monkeypatch.setattr(comfyui, "PLACES", (tmp_path / "mine" / "custom_nodes" / "pack",))
    assert find_comfyui().root == tmp_path / "mine"


@pytest.mark.parametrize("venv", [".venv", "venv"])
def test_the_one_told_comes_first_with_its_own_python(tmp_path, monkeypatch, venv):
    install(tmp_path / "home" / "ComfyUI")
    python = install(tmp_path / "told", venv)
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "told"))
    assert find_comfyui() == ComfyUI(tmp_path / "told", python)


def test_a_wrong_path_is_an_error_even_if_another_one_is_around(tmp_path, monkeypatch):
    install(tmp_path / "home" / "ComfyUI")
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "told"))
    with pytest.raises(ValueError, match="COMFYUI_PATH is .*told, which has no main.py"):
        find_comfyui()


def test_a_link_to_a_python_that_is_gone_is_not_replaced_by_another(tmp_path, monkeypatch):
    python = install(tmp_path / "told", ".venv")
    python.unlink()
    python.symlink_to(tmp_path / "gone")
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "told"))
    assert find_comfyui().python == python
    assert "does not start" in find_comfyui().problem()


# --- what is said of one that cannot run the tests

unix = pytest.mark.skipif(os.name == "nt", reason="the stand-in for a Python is a shell script")
NO_TORCH = r"the ComfyUI in {root} cannot be imported \(ModuleNotFoundError: No module named 'torch'\), so nothing was"


def stand_in(tmp_path, *lines):
    """A ComfyUI whose Python is a shell script: it is called to do nothing, then to import the host."""
    install(tmp_path / "ComfyUI")
    python = tmp_path / "python"
    python.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    python.chmod(0o755)
    return ComfyUI(tmp_path / "ComfyUI", python)


@unix
@pytest.mark.parametrize(
    ("lines", "said", "mend"),
    [
        (["exit 3"], r"the Python of {root} does not start \(it ended with 3\), so nothing was tested", "anew"),
        (
            ['case "$*" in *nodes*)']
            + ["printf \"Traceback\\nModuleNotFoundError: No module named 'torch'\\n\" >&2; exit 1;; esac"],
            NO_TORCH,
            "{python} -m pip install -r {root}/requirements.txt",
        ),
    ],
)
def test_what_keeps_it_from_running_is_said_in_one_line_with_the_mend(tmp_path, lines, said, mend):
    found = stand_in(tmp_path, *lines)
    problem = found.problem()
    names = {"root": found.root, "python": found.python}
    assert re.match(said.format(**names), problem)
    assert mend.format(**names) in problem
    assert "\n" not in problem


@unix
def test_one_that_lacks_nothing_has_no_problem(tmp_path):
    assert stand_in(tmp_path, "exit 0").problem() is None


def test_a_file_that_is_no_program_does_not_start(tmp_path):
    install(tmp_path / "ComfyUI")
    found = ComfyUI(tmp_path / "ComfyUI", tmp_path / "ComfyUI" / "main.py")
    assert "does not start" in found.problem()


def run_host_tests(tmp_path, path, *names):
    """Run some host tests in a process of their own, with the ComfyUI at `path`."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    tests = [f"{Path(__file__).parent}/{name}" for name in names]
    own = os.environ | {"COMFYUI_PATH": str(path), "HOME": str(tmp_path)}
    return subprocess.run([*command, *tests], cwd=comfyui.REPOSITORY, env=own, capture_output=True, text=True)


@pytest.mark.slow
@unix
def test_all_tests_are_skipped_with_one_line(tmp_path):
    found = stand_in(tmp_path, 'case "$*" in *nodes*) echo "ModuleNotFoundError: no torch" >&2; exit 1;; esac')
    (found.root / "venv" / "bin").mkdir(parents=True)
    found.python.rename(found.root / "venv" / "bin" / "python")
    done = run_host_tests(tmp_path, found.root, "test_inside.py", "test_toyworld_parity.py", "test_pack_loads.py")
    assert done.returncode == 0, done.stdout
    reasons = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert len(reasons) == 1
    assert re.search(
        r"^SKIPPED \[\d{3}\].* cannot be imported \(ModuleNotFoundError: no torch\), so nothing was tested", reasons[0]
    )


@pytest.mark.slow
def test_a_wrong_path_ends_the_run_with_one_line(tmp_path):
    done = run_host_tests(tmp_path, tmp_path / "none", "test_inside.py")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "none, which has no main.py beside a folder comfy; correct or unset it" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
