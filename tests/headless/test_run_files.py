"""Pictures that say how they were made, masks that survive a round trip, marks that tell files apart."""

import errno
import os
import struct
import zlib

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors import SafetensorError
from story_identity.core.atomic_files import atomic_write, remove_unfinished
from story_identity.core.layout import Layout
from story_identity.core.story import Story
from story_identity.headless.run_files import (
    is_painted,
    is_whole,
    mark_of,
    opened,
    read_about,
    read_manifest,
    read_masks,
    write_masks,
    write_picture,
)

H, W = 8, 13


@pytest.fixture
def frame():
    people = [
        {"name": name, "word": word, "description": f"a {word}"} for name, word in (("Mira", "woman"), ("Tom", "boy"))
    ]
    return Story.parse({"characters": people, "frames": ["Mira and Tom on a beach"]}).frames[0]


def layout():
    masks = torch.zeros(2, H, W, dtype=torch.bool)
    masks[0, 1:5, 2:6], masks[1, 3:, 9:] = True, True
    return Layout(("Mira", "Tom"), masks)


def test_masks_come_back_as_they_were_written(tmp_path, frame):
    write_masks(tmp_path / "frame_0001.png", layout())
    back = read_masks(tmp_path / "frame_0001.png", frame, H, W)
    assert back.names == ("Mira", "Tom")
    assert torch.equal(back.masks, layout().masks)


def test_masks_of_nobody_and_empty_masks(tmp_path, frame):
    write_masks(tmp_path / "frame_0001.png", Layout((), torch.zeros(0, H, W, dtype=torch.bool)))
    back = read_masks(tmp_path / "frame_0001.png", frame, H, W)
    assert back.masks.shape == (2, H, W)
    assert not back.masks.any()


def test_painted_masks_count(tmp_path, frame):
    painted = Image.new("L", (W, H))
    painted.putpixel((4, 2), 2)
    painted.save(tmp_path / "frame_0001.png")
    back = read_masks(tmp_path / "frame_0001.png", frame, H, W)
    assert back.masks.nonzero().tolist() == [[1, 2, 4]]


def test_unfit_mask_files_are_refused_by_frame(tmp_path, frame):
    with pytest.raises(FileNotFoundError, match="frame 1.*frame_0001.png"):
        read_masks(tmp_path / "frame_0001.png", frame, H, W)
    Image.new("RGB", (W, H)).save(tmp_path / "frame_0001.png")
    with pytest.raises(ValueError, match="frame 1.*RGB picture of 13x8"):
        read_masks(tmp_path / "frame_0001.png", frame, H, W)
    Image.new("L", (W, H + 1)).save(tmp_path / "frame_0001.png")
    with pytest.raises(ValueError, match="13x9; expected.*13x8"):
        read_masks(tmp_path / "frame_0001.png", frame, H, W)
    Image.new("L", (W, H), 3).save(tmp_path / "frame_0001.png")
    with pytest.raises(ValueError, match="number 3, but the frame shows 2"):
        read_masks(tmp_path / "frame_0001.png", frame, H, W)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def claim(path, side):
    """A PNG of a few bytes that claims to be this wide and high."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b""))


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_picture_that_claims_to_be_huge_is_one_error_and_not_read(tmp_path, frame, side):
    path = tmp_path / "frame_0001.png"
    claim(path, side)
    with pytest.raises(ValueError, match=r"frame 1: .*frame_0001.png cannot be read as a picture: .*bomb"):
        read_masks(path, frame, H, W)
    with pytest.raises(ValueError, match=r"frame_0001.png is damaged"):
        read_about(path)
    assert not is_whole(path)


def test_a_mask_that_ends_early_is_named(tmp_path, frame):
    path = tmp_path / "frame_0001.png"
    write_masks(path, layout())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="frame 1: .*frame_0001.png cannot be read as a picture"):
        read_masks(path, frame, H, W)
    assert not is_painted(path)


@pytest.mark.parametrize("size", [(W, H), (W + 1, H)])
def test_a_mask_file_of_anybody_else_is_painted(tmp_path, size):
    path = tmp_path / "frame_0001.png"
    write_masks(path, layout())
    assert not is_painted(path)
    Image.new("P", size).save(path)
    assert is_painted(path)
    assert not is_painted(tmp_path / "none.png")


@pytest.mark.parametrize("about", ["", "[]", "{", "[" * 100_000, '"text"', "\ud83d"])
def test_metadata_that_is_no_object_is_one_error(tmp_path, about):
    information = PngInfo()
    information.add(b"iTXt", b"story_identity\0\0\0\0\0" + about.encode("utf-8", "surrogatepass"))
    Image.new("L", (2, 2)).save(tmp_path / "a.png", pnginfo=information)
    with pytest.raises(ValueError, match="a.png is damaged, or not one of this run's pictures"):
        read_about(tmp_path / "a.png")


def test_other_errors_while_a_picture_is_read_name_it(tmp_path):
    with pytest.raises(ValueError, match="none.png cannot be read as a picture"), opened(tmp_path / "none.png"):
        pass
    with pytest.raises(ValueError, match="cannot be read as a picture"), opened(tmp_path):
        pass


def test_a_manifest_is_read_with_its_byte_order_mark(tmp_path):
    (tmp_path / "manifest.json").write_text('{"format": "a/1", "name": "Zoë"}', encoding="utf-8-sig")
    assert read_manifest(tmp_path / "manifest.json", "a/1", "an A") == {"format": "a/1", "name": "Zoë"}


def test_a_picture_says_how_it_was_made(tmp_path):
    path = tmp_path / "deep" / "frame.png"
    picture = torch.tensor([[[0.0, 0.5, 1.0], [-1.0, 2.0, 0.25]]])
    about = {"prompt": "Mira geht über die Brücke", "seed": 2**64 - 1}
    write_picture(path, picture, about)
    assert read_about(path) == about
    assert list(Image.open(path).get_flattened_data()) == [(0, 128, 255), (0, 255, 64)]
    first = path.read_bytes()
    write_picture(path, picture, about)
    assert path.read_bytes() == first


def test_foreign_pictures_are_said_to_be_foreign(tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "other.png")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG")
    for name in ("other.png", "cut.png"):
        with pytest.raises(ValueError, match=name):
            read_about(tmp_path / name)


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise KeyError

    pytest.raises(KeyError, fail)
    assert [each.name for each in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text() == "old"
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("number", "advice"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EROFS, False)])
def test_a_file_that_cannot_be_written_is_named_and_a_full_disk_says_what_to_do(tmp_path, number, advice):
    path = tmp_path / "deep" / "file.txt"
    with pytest.raises(OSError, match=f"file.txt cannot be written: {os.strerror(number)}") as caught:
        with atomic_write(path):
            raise OSError(number, os.strerror(number))
    assert ("Make room there, then do the same again" in str(caught.value)) == advice
    assert caught.value.errno == number
    assert "Errno" not in str(caught.value)
    assert not list(path.parent.iterdir())


def test_a_disk_that_is_full_when_the_file_is_finished_is_said_too(tmp_path, monkeypatch):
    def fsync(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="file.txt cannot be written: No space left"), atomic_write(tmp_path / "file.txt"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_disk_that_safetensors_finds_full_is_said_alike(tmp_path):
    """Its error for that is no OSError."""
    with pytest.raises(OSError, match="a.safetensors cannot be written: No space left on device") as caught:
        with atomic_write(tmp_path / "a.safetensors"):
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert "Make room there" in str(caught.value)
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_a_folder_or_the_reverse_is_said_by_the_name_that_was_asked_for(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file/a.txt cannot be written: "), atomic_write(tmp_path / "file" / "a.txt"):
        pass
    with pytest.raises(OSError, match="folder cannot be written: "), atomic_write(tmp_path / "folder"):
        pass
    assert (tmp_path / "file").read_text() == "mine"


def test_other_errors_while_a_file_is_written_stay_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.txt") as caught, atomic_write(tmp_path / "file.txt"):
        (tmp_path / "none.txt").read_text()
    assert caught.value.filename == str(tmp_path / "none.txt")


def test_what_a_killed_process_left_is_swept_up_and_nothing_else(tmp_path):
    (tmp_path / "below").mkdir()
    own = tmp_path / "notes.tmp"
    own.write_text("mine")
    context = atomic_write(tmp_path / "below" / "file.txt")
    left = context.__enter__()
    assert left.exists()
    remove_unfinished(tmp_path)
    assert not left.exists()
    assert own.exists()


def test_sweeping_can_leave_the_folders_below_alone(tmp_path):
    here, below = tmp_path / ".unfinished-a.tmp", tmp_path / "below" / ".unfinished-a.tmp"
    below.parent.mkdir()
    for path in (here, below):
        path.write_text("half")
    remove_unfinished(tmp_path, below=False)
    assert (here.exists(), below.exists()) == (False, True)


def test_a_mark_follows_content_not_place(tmp_path):
    big = bytes(range(256)) * 20_000
    for folder in ("one", "two"):
        (tmp_path / folder / "unet").mkdir(parents=True)
        (tmp_path / folder / "unet" / "weights").write_bytes(big)
    marks = {folder: mark_of(tmp_path / folder) for folder in ("one", "two")}
    assert marks["one"] == marks["two"]
    weights = tmp_path / "two" / "unet" / "weights"
    for changed in (big + b"x", b"x" + big[1:], big[:-1] + b"x"):
        weights.write_bytes(changed)
        assert mark_of(tmp_path / "two") != marks["one"]
    weights.write_bytes(big)
    weights.rename(weights.with_name("other"))
    assert mark_of(tmp_path / "two") != marks["one"]
    assert mark_of(tmp_path / "one" / "unet" / "weights") != marks["one"]


def test_a_mark_of_some_files_ignores_the_others(tmp_path):
    (tmp_path / "words").mkdir()
    for name in ("unet", "words/list", "card"):
        (tmp_path / name).write_text("one")
    marks = [mark_of(tmp_path, ("unet", "words"))]
    for name in ("card", "words/list"):
        (tmp_path / name).write_text("two")
        marks.append(mark_of(tmp_path, ("unet", "words")))
    assert marks[0] == marks[1] != marks[2]
