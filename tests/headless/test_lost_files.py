"""Files that are lost, cut or damaged are made again with the same bytes: at the end of a run, and by the next one."""

import os
import random
import shutil

import pytest
from PIL import Image
from story_identity.headless import run as run_module
from story_identity.headless.run import run_story
from story_identity.headless.run_files import is_whole

from .stories import STORY, PlaceDetector, contents, settings, story

pytestmark = pytest.mark.slow

FRAMES = STORY["frames"][:2]


@pytest.fixture(scope="module")
def finished(toyworld_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return run_story(story(FRAMES), settings(toyworld_folder), out, detector=PlaceDetector()).root


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def make(out, folder, report=lambda *step: None, **changes):
    chosen = settings(folder, **changes)
    return run_story(story(FRAMES), chosen, out, detector=PlaceDetector(), report=report).root


@pytest.mark.slow
@pytest.mark.parametrize("share", [15, 40, 65, 90, 99])
def test_a_picture_that_ends_early_is_not_whole(finished, tmp_path, share):
    content = (finished / "frame_0001.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) * share // 100])
    assert not is_whole(tmp_path / "cut.png")
    assert is_whole(finished / "frame_0001.png")


def test_a_picture_with_a_wrong_byte_is_not_whole(finished, tmp_path):
    content = bytearray((finished / "frame_0001.png").read_bytes())
    chosen, cut = random.Random(3), tmp_path / "wrong.png"
    for position in (chosen.randrange(len(content)) for _ in range(30)):
        wrong = content.copy()
        wrong[position] ^= 0x10
        cut.write_bytes(wrong)
        assert not is_whole(cut), position


def test_what_is_no_file_or_no_picture_is_not_whole(tmp_path):
    (tmp_path / "text.png").write_text("a text")
    os.mkfifo(tmp_path / "pipe.png")
    assert not any(is_whole(path) for path in (tmp_path / "none.png", tmp_path, *tmp_path.iterdir()))


@pytest.mark.parametrize("name", ["frame_0001", "template/frame_0002", "masks/frame_0001", "layout/frame_0002"])
@pytest.mark.parametrize("share", [15, 90])
def test_a_cut_picture_of_a_frame_is_made_again_to_the_byte(finished, copy, toyworld_folder, name, share):
    content = (copy / f"{name}.png").read_bytes()
    (copy / f"{name}.png").write_bytes(content[: len(content) * share // 100])
    make(copy, toyworld_folder)
    assert contents(copy) == contents(finished)


@pytest.mark.parametrize("name", ["identities/Tom.safetensors", "portraits/Mira/002"])
def test_a_cut_file_is_made_again_to_the_byte(finished, copy, toyworld_folder, name):
    path = next(copy.glob(f"{name}*"))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    make(copy, toyworld_folder)
    assert contents(copy) == contents(finished)


LOST = [
    ["masks"],
    ["template"],
    ["layout"],
    ["portraits"],
    ["portraits/Tom"],
    ["identities"],
    ["masks/frame_0001.png", "layout/frame_0002.png"],
    ["template", "frame_0002.png"],
]


@pytest.mark.parametrize("lost", LOST, ids="+".join)
def test_what_a_finished_run_lost_comes_back_with_the_same_bytes_and_nothing_else_is_written(
    finished, copy, toyworld_folder, lost
):
    for name in lost:
        shutil.rmtree(copy / name) if (copy / name).is_dir() else (copy / name).unlink()
    times = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.suffix in (".png", ".safetensors")}
    make(copy, toyworld_folder)
    assert contents(copy) == contents(finished)
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.slow
@pytest.mark.parametrize("moment", ['Portraits of "Tom"', "frame 2, re-denoising"])
@pytest.mark.parametrize("name", [".", "masks", "template", "layout", "portraits", "identities", "manifest.json"])
def test_what_is_deleted_midway_is_made_again_before_the_run_ends(finished, toyworld_folder, tmp_path, name, moment):
    out, deleted = tmp_path / "out", []

    def delete(what, done, total):
        target = out / name
        if (what, done) == (moment, total) and not deleted and target.exists():
            deleted.append(target)
            shutil.rmtree(target) if target.is_dir() else target.unlink()

    make(out, toyworld_folder, report=delete)
    assert contents(out) == contents(finished)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["template/frame_0001.png", "frame_0001.png", "identities/Mira.safetensors"])
def test_files_that_go_missing_faster_than_they_are_made_are_an_error(copy, toyworld_folder, monkeypatch, name):
    def delete(*step):
        (copy / name).unlink(missing_ok=True)
        (copy / "frame_0002.png").unlink(missing_ok=True)  # so that there is always something to draw

    (copy / "frame_0002.png").unlink()
    with pytest.raises(ValueError, match="lost as soon as they are made.*run again"):
        make(copy, toyworld_folder, report=always(monkeypatch, delete))


def always(monkeypatch, delete):
    """Delete at the end of every round, too, as something that never stops would."""
    lost = run_module.RunFolder.lost

    def lost_more(self, *story):
        delete()
        return lost(self, *story)

    monkeypatch.setattr(run_module.RunFolder, "lost", lost_more)
    return delete


def test_a_finished_run_loads_no_model(copy, toyworld_folder, monkeypatch):
    monkeypatch.setattr(run_module, "open_studio", None)
    make(copy, toyworld_folder)
    make(copy, toyworld_folder, on_missing="skip")


def test_a_whole_picture_that_no_run_wrote_is_refused_in_the_place_of_a_frame(copy, toyworld_folder):
    Image.new("RGB", (64, 64)).save(copy / "frame_0001.png")
    before = contents(copy)
    with pytest.raises(ValueError, match="frame_0001.png.*move it away and run again"):
        make(copy, toyworld_folder)
    shutil.copy(copy / "template" / "frame_0001.png", copy / "frame_0001.png")
    with pytest.raises(ValueError, match="frame_0001.png is no frame.*move it away and run again"):
        make(copy, toyworld_folder)
    assert {**contents(copy), "frame_0001.png": b""} == {**before, "frame_0001.png": b""}


def no_writing(monkeypatch):
    """As in a folder that is read-only, which it is for nobody who is root."""

    def acquire(self, **options):
        raise OSError(30, "Read-only file system", self.lock_file)

    monkeypatch.setattr("story_identity.core.locking.FileLock.acquire", acquire)
    monkeypatch.setattr("story_identity.headless.run_folder.write_json", None)
    monkeypatch.setattr("story_identity.headless.production.write_picture", None)


def test_a_finished_run_in_a_read_only_folder_is_finished(copy, toyworld_folder, monkeypatch):
    no_writing(monkeypatch)
    before = contents(copy)
    assert make(copy, toyworld_folder) == copy
    assert contents(copy) == before


def test_an_unfinished_run_in_a_read_only_folder_is_refused_by_the_folder(copy, toyworld_folder, monkeypatch):
    no_writing(monkeypatch)
    (copy / "masks" / "frame_0002.png").unlink()
    with pytest.raises(ValueError, match="Nothing can be written in .*copy .Read-only file system.*not finished"):
        make(copy, toyworld_folder)


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path, toyworld_folder):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ValueError, match="out is a file; give a folder"):
        make(tmp_path / "out", toyworld_folder)
