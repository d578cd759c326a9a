"""Pictures of every kind that users have: nothing turns white, black or sideways, and what cannot be read says why."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from story_identity.lab.storydb.pictures import open_picture, spread_of, stored_picture

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
DEEP = RAMP.astype(np.uint16) * 257  # 0 to 65535


def levels(picture):
    """The grey levels of a picture whose channels are equal."""
    found = np.asarray(picture)
    assert (found == found[..., :1]).all()
    return found[..., 0]


@pytest.mark.parametrize(
    ("pixels", "kind"),
    [
        (DEEP, "PNG"),
        (DEEP, "TIFF"),
        (DEEP.astype(">u2"), "TIFF"),
        (DEEP.astype(np.int32), "TIFF"),
        (DEEP.astype(np.float32), "TIFF"),
        (RAMP.astype(np.float32), "TIFF"),
        ((RAMP / 255).astype(np.float32), "TIFF"),
        (RAMP, "PNG"),
        (RAMP, "WEBP"),
    ],
    ids=["I;16", "I;16 tiff", "I;16B", "I", "F to 65535", "F to 255", "F to 1", "L", "webp"],
)
def test_grey_pictures_of_any_depth_are_scaled(tmp_path, pixels, kind):
    Image.fromarray(pixels).save(tmp_path / "grey.png", format=kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert (levels(open_picture(tmp_path / "grey.png")) == RAMP).all()
    suffix, content = stored_picture(tmp_path / "grey.png")
    assert suffix == "png"
    stored = Image.open(io.BytesIO(content))
    assert stored.mode == "RGB"
    assert (levels(stored) == RAMP).all()


def test_values_that_are_no_numbers_or_out_of_range_stay_in_range(tmp_path):
    strange = np.array([[np.nan, -5.0], [np.inf, 1.0]], dtype=np.float32)
    Image.fromarray(strange).save(tmp_path / "strange.tif")
    assert levels(open_picture(tmp_path / "strange.tif")).tolist() == [[0, 0], [255, 0]]
    Image.fromarray(np.array([[-7, 2**20]], dtype=np.int32)).save(tmp_path / "strange.tif")
    assert levels(open_picture(tmp_path / "strange.tif")).tolist() == [[0, 255]]


@pytest.mark.parametrize(
    ("mode", "colour", "expected", "options"),
    [
        ("CMYK", (0, 255, 255, 0), (255, 0, 0), {"format": "TIFF"}),
        ("LA", (40, 0), (255, 255, 255), {}),
        ("LA", (40, 255), (40, 40, 40), {}),
        ("RGBA", (200, 0, 0, 128), (227, 127, 127), {}),
        ("P", 0, (255, 255, 255), {"transparency": 0}),
        ("L", 9, (255, 255, 255), {"transparency": 9}),
        ("RGB", (1, 2, 3), (255, 255, 255), {"transparency": (1, 2, 3)}),
        ("1", 0, (255, 255, 255), {"transparency": 0}),
        ("1", 1, (255, 255, 255), {}),
        ("I;16", 771, (255, 255, 255), {"transparency": 771}),
        ("I;16", 771, (3, 3, 3), {"transparency": 770}),
    ],
)
def test_modes_with_and_without_transparency(tmp_path, mode, colour, expected, options):
    Image.new(mode, (4, 4), colour).save(tmp_path / "picture.png", **{"format": "PNG", **options})
    assert open_picture(tmp_path / "picture.png").getpixel((2, 2)) == expected
    suffix, content = stored_picture(tmp_path / "picture.png")
    stored = Image.open(io.BytesIO(content))
    assert (suffix, stored.mode, stored.getpixel((2, 2))) == ("png", "RGB", expected)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_picture_counts_and_is_stored(tmp_path, kind):
    first, second = (Image.new("RGB", (4, 4), colour) for colour in ((250, 0, 0), (0, 0, 250)))
    first.save(tmp_path / "moving.png", format=kind, save_all=True, append_images=[second], lossless=True)
    assert open_picture(tmp_path / "moving.png").getpixel((0, 0)) == (250, 0, 0)
    suffix, content = stored_picture(tmp_path / "moving.png")
    stored = Image.open(io.BytesIO(content))
    assert (suffix, getattr(stored, "n_frames", 1), stored.getpixel((0, 0))) == ("png", 1, (250, 0, 0))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_upright(tmp_path, orientation):
    upright = Image.fromarray(np.stack([RAMP[:8], RAMP[:8] // 2, 255 - RAMP[:8]], axis=-1))
    turns = Image.Transpose
    back = {
        2: turns.FLIP_LEFT_RIGHT, 3: turns.ROTATE_180, 4: turns.FLIP_TOP_BOTTOM, 5: turns.TRANSPOSE,
        6: turns.ROTATE_90, 7: turns.TRANSVERSE, 8: turns.ROTATE_270,
    }  # fmt: skip
    tag = Image.Exif()
    tag[0x0112] = orientation
    lying = upright.transpose(back[orientation]) if orientation > 1 else upright
    lying.save(tmp_path / "lying.png", exif=tag)
    assert open_picture(tmp_path / "lying.png").tobytes() == upright.tobytes()
    _, content = stored_picture(tmp_path / "lying.png")
    assert open_picture(io.BytesIO(content)).tobytes() == upright.tobytes()


def claim(path, width, height):
    """A small PNG whose header says that it is large."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = zlib.compress(b"\0" * 1000)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b""))


def test_a_picture_that_claims_to_be_huge_is_refused(tmp_path):
    claim(tmp_path / "huge.png", 60000, 60000)
    with pytest.raises(ValueError, match="DecompressionBombError: Image size .3600000000 pixels"):
        open_picture(tmp_path / "huge.png")


def test_damaged_files_are_refused_with_a_reason(tmp_path):
    random, path = np.random.default_rng(3), tmp_path / "picture"
    refused = 0
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"):
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 255, (24, 20, 3), dtype=np.uint8)).save(file, format=kind)
        for _ in range(50):
            content = bytearray(file.getvalue()[: int(random.integers(1, len(file.getvalue())))])
            for place in random.integers(0, len(content), 3):
                content[place] = random.integers(0, 256)
            path.write_bytes(bytes(content))
            try:
                assert open_picture(path).mode == "RGB"
            except ValueError:
                refused += 1
    assert refused > 150


def test_spread_by_hand():
    """Half 0, half 1: 0.5; the same over three channels as numpy says of all numbers."""
    assert spread_of(Image.fromarray(np.array([[0, 255]], dtype=np.uint8))) == pytest.approx(0.5)
    pixels = np.random.default_rng(1).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    assert spread_of(Image.fromarray(pixels)) == pytest.approx(float(pixels.std() / 255))
