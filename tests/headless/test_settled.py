"""Portraits are drawn until the identity has settled, and a run knows how many there are."""

import shutil

import pytest
from story_identity.core.identity import Identity
from story_identity.headless import run as run_module
from story_identity.headless.run import run_story

from .stories import STORY, PlaceDetector, contents, settings, story

FRAMES = STORY["frames"][:1]
AT_ONCE = {"settled": 2.0, "portraits": 8, "portrait_batch": 2}  # any movement is small enough


def make(out, folder, **changes):
    return run_story(story(FRAMES), settings(folder, **changes), out, detector=PlaceDetector())


@pytest.fixture(scope="module")
def settled(toyworld_folder, tmp_path_factory):
    return make(tmp_path_factory.mktemp("run"), toyworld_folder, **AT_ONCE).root


def portraits_of(out, name):
    return len(list((out / "portraits" / name).glob("*.png")))


def drawn_of(out, name):
    return Identity.load(out / "identities" / f"{name}.safetensors").metadata["discovery"]["portraits"]


def test_fewer_portraits_are_drawn_and_the_identity_says_how_many(settled):
    assert portraits_of(settled, "Mira") == drawn_of(settled, "Mira") < AT_ONCE["portraits"]


def test_the_identity_is_that_of_a_run_with_just_so_many(settled, toyworld_folder, tmp_path):
    count = drawn_of(settled, "Mira")
    chosen = Identity.load(settled / "identities" / "Mira.safetensors")
    rank = chosen.metadata["discovery"]["rank"]
    few = make(tmp_path, toyworld_folder, portraits=count, portrait_batch=2, rank=rank).root
    assert chosen.embedding.tolist() == Identity.load(few / "identities" / "Mira.safetensors").embedding.tolist()


def test_a_finished_run_is_finished(settled, toyworld_folder, monkeypatch):
    monkeypatch.setattr(run_module, "open_studio", None)
    before = contents(settled)
    make(settled, toyworld_folder, **AT_ONCE)
    assert contents(settled) == before


def test_a_lost_portrait_is_made_again(settled, toyworld_folder, tmp_path):
    shutil.copytree(settled, tmp_path / "copy")
    next((tmp_path / "copy" / "portraits" / "Mira").iterdir()).unlink()
    make(tmp_path / "copy", toyworld_folder, **AT_ONCE)
    assert contents(tmp_path / "copy") == contents(settled)


def test_a_single_batch_has_nothing_to_settle_from(toyworld_folder, tmp_path):
    out = make(tmp_path, toyworld_folder, **{**AT_ONCE, "portrait_batch": 8}).root
    assert portraits_of(out, "Mira") == drawn_of(out, "Mira") == AT_ONCE["portraits"]
