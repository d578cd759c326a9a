"""What the registry ships is a whole pack: alone in a real ComfyUI, without jaxtyping, it draws the toy story."""

import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.lab.archive import is_in_git, write_archive

from .comfyui import ComfyUI
from .server import PACK, Host
from .test_workflows_run import nodes_of, pixels, saved
from .write_api_twins import TWINS

ABSENT = ("jaxtyping", "beartype", "diffusers")
"""Packages that no user of ComfyUI needs to have for this pack."""
SCRIPT = """
for name in {names}:
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        print(error.name)
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not is_in_git():
        pytest.skip("the pack does not lie in a git repository, from which the registry's archive is made")
    folder = tmp_path_factory.mktemp("registry")
    write_archive(folder / "archive.zip")
    with zipfile.ZipFile(folder / "archive.zip") as archive:
        archive.extractall(folder / PACK)
    return folder / PACK


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose modules hide packages: importing one fails as where it is not installed."""
    folder = tmp_path_factory.mktemp("without")
    for name in ABSENT:
        text = f"raise ModuleNotFoundError(\"No module named '{name}'\", name={name!r})\n"
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def shipped(comfyui: ComfyUI, unpacked: Path, without: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server that has the archive's pack, no other one, and no model file."""
    folder = tmp_path_factory.mktemp("shipped")
    with Host(comfyui, folder, {PACK: unpacked}, {"PYTHONPATH": str(without)}) as server:
        yield server


def test_the_packages_are_hidden(shipped: Host):
    command = [shipped.comfyui.python, "-c", SCRIPT.format(names=ABSENT)]
    done = subprocess.run(command, env=shipped.environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(ABSENT)


def test_its_subgraphs_are_offered(shipped: Host):
    listed = (each for each in shipped.get("/global_subgraphs").values() if PACK in each["info"]["node_pack"])
    names = {each["name"].split(" (")[0] for each in listed}
    assert names == {"Consistent story", "Draw frames together", "Find identities"}


def test_the_archive_draws_the_toy_story(shipped: Host):
    """With a quarter of the portraits, in a fifth of the steps: they take most of the time."""
    graph = json.loads((TWINS / "toyworld_quickstart.json").read_text(encoding="utf-8"))
    for key in nodes_of(graph, "StoryIdentityFindIdentity"):
        graph[key]["inputs"] |= {"count": 16, "steps": 4}
    pictures = saved(shipped, graph)
    frames, sheet = pictures["frames"], pictures["sheet"]
    assert (len(frames), len(sheet)) == (4, 1)
    for path in frames:
        with Image.open(path) as image:
            assert (image.format, *image.size) == ("PNG", TOY_WORLD.picture_side, TOY_WORLD.picture_side)
    assert len({pixels(path) for path in (*frames, *sheet)}) == 5
    assert "Traceback" not in shipped.log()
