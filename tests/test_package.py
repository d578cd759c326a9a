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
        for folder in ("core", "nodes", "headless", "lab")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert listed == found | {"story_identity"}


def test_a_user_of_comfyui_installs_nothing():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert all(line.startswith("#") for line in lines)
