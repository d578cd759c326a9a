"""What the package says of itself is true."""

import re
from pathlib import Path

import pytest
from PIL import Image
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


def test_the_registry_is_told_the_oldest_comfyui_in_the_form_that_it_reads():
    """It drops a version without three parts."""
    init = (ROOT / "__init__.py").read_text(encoding="utf-8")
    major, minor = re.search(r"^_OLDEST_HOST = \((\d+), (\d+)\)$", init, re.MULTILINE).groups()
    assert re.search(r'^requires-comfyui = "(.+)"$', PROJECT, re.MULTILINE)[1] == f">={major}.{minor}.0"


def test_classifiers_of_systems_and_graphics_cards_are_in_the_registrys_words():
    """One that it does not know makes it drop all of that kind."""
    assert re.findall(r'"Operating System :: (.+)"', PROJECT) == ["OS Independent"]
    cards = {"GPU :: NVIDIA CUDA", "GPU :: AMD ROCm", "GPU :: Intel Arc", "NPU :: Huawei Ascend", "GPU :: Apple Metal"}
    assert {*re.findall(r'"Environment :: (.+)"', PROJECT)} <= cards


@pytest.mark.parametrize(("key", "ratio", "largest"), [("Icon", (1, 1), 400), ("Banner", (21, 9), 2100)])
def test_icon_and_banner_are_pictures_of_the_repository(key: str, ratio: tuple[int, int], largest: int):
    repository = re.search(r'^Repository = "https://github.com/(.+)"$', PROJECT, re.MULTILINE)[1]
    url = re.search(rf'^{key} = "(.+)"$', PROJECT, re.MULTILINE)[1]
    start = f"https://raw.githubusercontent.com/{repository}/main/"
    assert url.startswith(start)
    with Image.open(ROOT / url.removeprefix(start)) as picture:
        assert picture.format == "PNG"
        assert picture.width * ratio[1] == picture.height * ratio[0]
        assert max(picture.size) <= largest
