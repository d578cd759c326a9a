"""Files that version 0.1 wrote still load; `tests/host/test_former_versions.py` runs its workflow."""

import json
from pathlib import Path
from typing import Any

import pytest
from story_identity.core.identity import Identity
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.headless.continuing import check_continuing
from story_identity.headless.run_folder import RunFolder, story_of
from story_identity.headless.run_settings import settings_of

FILES = Path(__file__).parent / "files" / "version_0_1"


@pytest.mark.parametrize("name", ["Mira", "Tom"])
def test_an_identity_file_loads(name: str):
    identity = Identity.load(FILES / f"{name}.safetensors", "toy-world-1")
    assert (identity.name, identity.metadata["discovery"]["rank"]) == (name, 3)
    assert identity.embedding.isfinite().all()


def test_a_manifest_gives_its_story_and_its_settings(tmp_path: Path):
    (tmp_path / "manifest.json").write_bytes((FILES / "manifest.json").read_bytes())
    manifest = RunFolder(tmp_path).read_manifest()
    assert manifest is not None
    written = json.loads((FILES / "manifest.json").read_text(encoding="utf-8"))
    story, settings = story_of(manifest), settings_of(manifest)
    assert [frame.prompt for frame in story.frames] == [frame["prompt"] for frame in written["frames"]]
    assert [[person.name for person in frame.cast] for frame in story.frames] == [f["cast"] for f in written["frames"]]
    assert (settings.steps, settings.start, settings.rank, settings.checkpoint) == (50, 5, 3, "toyworld")


def test_a_run_of_it_can_be_continued_but_with_the_toy_worlds_former_weights_only(tmp_path: Path):
    """The story and the settings are those of the files in the folder, by today's words too; the weights are others."""
    (tmp_path / "manifest.json").write_bytes((FILES / "manifest.json").read_bytes())
    folder = RunFolder(tmp_path)
    manifest = folder.read_manifest()
    assert manifest is not None
    story, settings = story_of(manifest), settings_of(manifest)
    described = folder.describe(story, settings)
    assert without_weights(described["settings"]) == without_weights(manifest["settings"])
    assert described["characters"] == manifest["characters"]
    for now, before in zip(described["frames"], manifest["frames"], strict=True):
        assert now == {key: value for key, value in before.items() if key != "not_found"}
    with pytest.raises(ValueError, match="settings, checkpoint, content: .*cannot be continued; choose another folder"):
        check_continuing(folder, story, settings)


def without_weights(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without the digests of the toy world's files."""
    own = {"checkpoint", "photomaker", "detector"}
    return {key: value["name"] if key in own else value for key, value in settings.items()}


def test_an_identity_of_the_former_toy_world_is_refused_by_name():
    with pytest.raises(ValueError, match='"Mira" was made with the encoder "toy-world-1", but "toy-world-2" is in use'):
        Identity.load(FILES / "Mira.safetensors", TOY_WORLD.name)
