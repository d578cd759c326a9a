"""Which ComfyUI the host tests take; none is needed for this."""

import os
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


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for a Python is a shell script")
@pytest.mark.parametrize(("installed", "missing"), [("torch Jaxtyping", []), ("torch", ["jaxtyping"])])
def test_what_its_python_lacks_is_named(tmp_path, installed, missing):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nfor name in {installed.lower()}; do echo $name; done\n")
    python.chmod(0o755)
    assert ComfyUI(tmp_path, python).missing_requirements() == missing
