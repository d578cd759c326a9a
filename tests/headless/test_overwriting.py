"""`overwrite` deletes what the manifest lists, and nothing that is the user's; nothing is written through links."""

import json
import shutil

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from story_identity.headless.run import run_story
from story_identity.headless.run_files import png_bytes

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


@pytest.fixture
def make(toyworld_folder, copy):
    """Run in the copy; by default the same run."""

    def make(frames=FRAMES, out=copy, **changes):
        overwrite = changes.pop("overwrite", False)
        detector = None if changes.get("masks") else PlaceDetector()
        chosen = settings(toyworld_folder, **changes)
        return run_story(story(frames), chosen, out, detector=detector, overwrite=overwrite)

    return make


FOREIGN = [
    "frame_holiday.png",
    "frame_99999.png",
    "notes.txt",
    "identities/mine.safetensors",
    "masks/frame_sky.png",
    "template/frame_0007.png",
    "portraits/Mira/mine.png",
    "portraits/Mira/006.png",
    "portraits/Anna/001.png",
    "deep/frame_0001.png",
]


def test_foreign_files_stay(copy, make, finished):
    for name in FOREIGN:
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text(f"mine: {name}")
    make(frames=FRAMES[:1], overwrite=True, seed=1)
    assert {name: (copy / name).read_text() for name in FOREIGN} == {name: f"mine: {name}" for name in FOREIGN}
    assert not (copy / "frame_0002.png").exists()
    assert not (copy / "identities" / "Tom.safetensors").exists()
    assert (copy / "frame_0001.png").read_bytes() != (finished / "frame_0001.png").read_bytes()


def test_a_run_leaves_foreign_files_too(copy, make, finished):
    for name in FOREIGN:
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text(f"mine: {name}")
    (copy / "identities" / "Mira.safetensors").unlink()  # so that portraits are gone through
    make()
    assert {name: (copy / name).read_text() for name in FOREIGN} == {name: f"mine: {name}" for name in FOREIGN}
    assert contents(finished).items() <= contents(copy).items()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["frame_0003.png", "masks/frame_0004.png"])
def test_files_of_somebody_else_with_names_that_a_longer_story_needs(copy, make, name, overwrite):
    (copy / name).write_text("mine")
    before = contents(copy)
    with pytest.raises(ValueError, match=f'names of this run.*"{name}".*[Mm]ove them elsewhere'):
        make(frames=STORY["frames"], overwrite=overwrite)
    assert contents(copy) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_without_a_manifest_nothing_is_deleted_and_overwriting_is_not_the_advice(copy, make, overwrite):
    (copy / "manifest.json").unlink()
    before = contents(copy)
    with pytest.raises(ValueError, match="no manifest.json") as caught:
        make(overwrite=overwrite)
    assert "--overwrite" not in str(caught.value)
    assert contents(copy) == before


@pytest.mark.parametrize("content", ['{"name": "a web page"}', "[]", "{", '{"format": "story-identity-run/1"}'])
def test_a_manifest_that_is_no_runs_is_not_deleted(copy, make, content):
    (copy / "manifest.json").write_text(content)
    before = contents(copy)
    with pytest.raises(ValueError, match="manifest.json"):
        make(overwrite=True)
    assert contents(copy) == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["template", "layout", "masks", "identities", "portraits", "portraits/Mira"])
def test_nothing_is_deleted_or_written_through_a_link(copy, make, tmp_path, name, overwrite):
    elsewhere = tmp_path / "elsewhere"
    (copy / name).rename(elsewhere)
    (copy / name).symlink_to(elsewhere, target_is_directory=True)
    (copy / "frame_0001.png").unlink()
    before = contents(elsewhere), sorted(each.name for each in copy.iterdir())
    with pytest.raises(ValueError, match=f"copy/{name} is a link to another folder.*choose another folder"):
        make(overwrite=overwrite, seed=int(overwrite))
    assert (contents(elsewhere), sorted(each.name for each in copy.iterdir())) == before


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_written_through(copy, make, tmp_path, finished):
    mine = tmp_path / "mine.png"
    mine.write_text("mine")
    (copy / "frame_0001.png").unlink()
    (copy / "frame_0001.png").symlink_to(mine)
    make()
    assert mine.read_text() == "mine"
    assert (copy / "frame_0001.png").read_bytes() == (finished / "frame_0001.png").read_bytes()


def test_a_finished_run_whose_folders_are_links_is_finished(copy, make, tmp_path):
    (copy / "template").rename(tmp_path / "elsewhere")
    (copy / "template").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    before = contents(tmp_path)
    make()
    assert contents(tmp_path) == before


def paint(path, keep_metadata=False):
    with Image.open(path) as picture:
        picture.load()
        information = PngInfo()
        for key, text in picture.info.items():
            if keep_metadata and isinstance(text, str):
                information.add_itxt(key, text)
        picture.putpixel((0, 0), 1)
        picture.save(path, pnginfo=information)


@pytest.mark.parametrize("keep_metadata", [False, True])
def test_a_painted_mask_is_not_overwritten(copy, make, keep_metadata):
    paint(copy / "masks" / "frame_0002.png", keep_metadata)
    before = contents(copy)
    with pytest.raises(ValueError, match='masks were painted.*"masks/frame_0002.png". Move them'):
        make(overwrite=True, seed=1)
    assert contents(copy) == before
    (copy / "masks" / "frame_0002.png").unlink()
    make(overwrite=True, seed=1)


@pytest.mark.parametrize("lost", [["frame_0002.png"], ["layout/frame_0002.png", "template/frame_0002.png"]])
def test_a_painted_mask_survives_when_its_frame_is_made_again(copy, make, finished, lost):
    paint(copy / "masks" / "frame_0002.png")
    painted = (copy / "masks" / "frame_0002.png").read_bytes()
    for name in lost:
        (copy / name).unlink()
    make()
    assert contents(copy) == {**contents(finished), "masks/frame_0002.png": painted}


def test_masks_of_earlier_versions_which_have_no_mark_are_the_runs(copy, make):
    for path in (copy / "masks").iterdir():
        with Image.open(path) as picture:
            about = json.loads(picture.info["story_identity"])
            del about["content"]
            path.write_bytes(png_bytes(picture, about))
    make(overwrite=True, seed=1)


@pytest.mark.parametrize("given", ["masks", "identities"])
def test_overwriting_does_not_delete_what_the_run_reads(copy, make, given):
    identities = (("Mira", str(copy / "identities" / "Mira.safetensors")),)
    changes = {"masks": str(copy / "masks")} if given == "masks" else {"identities": identities}
    before = contents(copy)
    with pytest.raises(ValueError, match=f"would delete what this run is to read.*{given}"):
        make(overwrite=True, **changes)
    assert contents(copy) == before


def test_what_another_run_in_a_folder_below_is_writing_stays(copy, make):
    (copy / "second").mkdir()
    at_work, left = copy / "second" / ".unfinished-abc.tmp", copy / "template" / ".unfinished-abc.tmp"
    for path in (at_work, left):
        path.write_text("half")
    (copy / "frame_0001.png").unlink()
    make()
    assert at_work.exists()
    assert not left.exists()
