"""What the package says of itself is true."""

import re
from pathlib import Path

from story_identity.core.identity import PACK_VERSION

ROOT = Path(__file__).resolve().parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_version_written_into_identity_files_is_the_packages():
    assert re.search(r'^version = "(.+)"$', PROJECT, re.MULTILINE)[1] == PACK_VERSION


def test_every_folder_of_code_is_packaged():
    listed = set(re.findall(r'^    "(story_identity[\w.]*)",$', PROJECT, re.MULTILINE))
    found = {
        ".".join(("story_identity", *path.parent.relative_to(ROOT).parts))
        for folder in ("core", "nodes")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert listed == found | {"story_identity"}


def test_requirements_name_nothing_that_comfyui_installs():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    installed_by_the_host = {
        "torch",
        "torchvision",
        "torchaudio",
        "numpy",
        "scipy",
        "safetensors",
        "pillow",
        "transformers",
    }
    assert {re.split(r"[<>=]", line)[0].lower() for line in lines}.isdisjoint(installed_by_the_host)
    assert all("==" not in line for line in lines)
