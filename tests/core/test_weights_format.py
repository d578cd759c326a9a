"""What a file is taken for where no hash is known: whole it is accepted; cut, or something else, it is refused."""

import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from story_identity.core.weights_format import FormatError, check_format, describe_stand_in, is_known

TENSORS = {"first": torch.arange(35.0).view(5, 7), "second": torch.ones(3, dtype=torch.uint8)}
SAFETENSORS = save(TENSORS, metadata={"format": "pt"})
STAND_INS = {
    "a web page": b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Sign in first</body></html>",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12\n",
    "an empty file": b"",
}


def torch_file(zipped: bool, path: Path) -> bytes:
    torch.save(TENSORS, path, _use_new_zipfile_serialization=zipped)
    return path.read_bytes()


def safetensors(header: bytes, rest: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + rest


def refusal(content: bytes, name: str, folder: Path) -> str:
    path = folder / "arrived.part"
    path.write_bytes(content)
    with pytest.raises(FormatError) as error:
        check_format(path, name)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.safetensors", SAFETENSORS),
        ("a.onnx", b"\x08\x0a\x12\x07pytorch"),
        ("a.json", b'{"model": {"vocab": {"[PAD]": 0}}}\n'),
        ("a.txt", "[PAD]\n[UNK]\n<\n##ée\n".encode()),
        ("a.txt", b"[PAD]\n<html>"),
    ],
)
def test_a_file_of_its_format_is_accepted(tmp_path: Path, name: str, content: bytes):
    (tmp_path / "arrived.part").write_bytes(content)
    check_format(tmp_path / "arrived.part", name)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_both_formats_of_torch_are_accepted(tmp_path: Path, zipped: bool, suffix: str):
    torch_file(zipped, tmp_path / "arrived.part")
    check_format(tmp_path / "arrived.part", f"a{suffix}")


@pytest.mark.parametrize("what", STAND_INS)
@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".json", ".txt"])
def test_what_servers_send_in_place_of_a_file_is_named(tmp_path: Path, suffix: str, what: str):
    assert is_known(f"a{suffix}")
    assert what in refusal(STAND_INS[what], f"a{suffix}", tmp_path)
    assert what in (describe_stand_in(tmp_path / "arrived.part") or "")


def test_a_suffix_without_a_check_is_not_known():
    assert not is_known("a.tar")
    assert not is_known("safetensors")


def test_safetensors_cut_or_lengthened_anywhere_are_refused(tmp_path: Path):
    for length in range(len(SAFETENSORS)):
        assert refusal(SAFETENSORS[:length], "a.safetensors", tmp_path)
    found = refusal(SAFETENSORS + b"more", "a.safetensors", tmp_path)
    assert f"describes {len(SAFETENSORS)} bytes, it has {len(SAFETENSORS) + 4}" in found


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"PK\x03\x04" + bytes(100), "does not begin as a safetensors file"),
        (safetensors(b"[1, 2]"), "is not a JSON object"),
        (safetensors(b"{'a': 1}"), "is not JSON"),
        (safetensors(b"[" * 100_000), "is not JSON"),
        (safetensors(b"\xff{}"), "is not JSON"),
        (safetensors(b'{"__metadata__": {"format": "pt"}}'), "holds no tensor"),
        (safetensors(b'{"a": 3}'), 'where the tensor "a" lies'),
        (safetensors(b'{"a": {"data_offsets": [0, true]}}'), 'where the tensor "a" lies'),
        (safetensors(b'{"a": {"data_offsets": "0, 4"}}'), 'where the tensor "a" lies'),
        (safetensors(b'{"\\ud83d": {}}'), r'where the tensor "\ud83d" lies'),
        (safetensors(b'{"a": {"data_offsets": [0, 1' + b"0" * 5000 + b"]}}"), "is not JSON"),
    ],
)
def test_what_no_safetensors_header_is_is_named(tmp_path: Path, content: bytes, complaint: str):
    found = refusal(content, "a.safetensors", tmp_path)
    assert complaint in found
    assert found.isprintable()


def test_a_zip_of_torch_cut_anywhere_is_refused(tmp_path: Path):
    whole = torch_file(True, tmp_path / "whole.pt")
    for length in range(0, len(whole), 13):
        assert refusal(whole[:length], "a.bin", tmp_path)


def test_other_zips_and_other_pickles_are_not_of_torch(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.md", "nothing of torch")
    assert "data.pkl is missing" in refusal((tmp_path / "other.zip").read_bytes(), "a.pth", tmp_path)
    assert "neither" in refusal(pickle.dumps({"a": 1}), "a.pth", tmp_path)
    assert "neither" in refusal(SAFETENSORS, "a.pth", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.json", b'{"model": {"vocab"', "is not JSON"),
        ("a.json", b"[" * 100_000, "is not JSON"),
        ("a.json", b"[1]", "is not a JSON object"),
        ("a.json", json.dumps({"error": "Invalid token\x1b[31m"}).encode(), 'error message: "Invalid token\\x1b[31m"'),
        ("a.txt", b"Access to this model is restricted.\n", 'line 1 is "Access to this model'),
        ("a.txt", b"[PAD]\n\n[UNK]\n", 'line 2 is ""'),
        ("a.txt", b"[PAD]\na\0b\n", "line 2"),
        ("a.txt", b"\xff\xfe[\0", "not text in UTF-8"),
        ("a.onnx", b"\x12\x07pytorch", "does not begin as an ONNX model"),
        ("a.onnx", b"\x08", "does not begin as an ONNX model"),
    ],
)
def test_other_content_is_named(tmp_path: Path, name: str, content: bytes, complaint: str):
    assert complaint in refusal(content, name, tmp_path)


def test_a_text_file_of_gigabytes_is_refused_unread(tmp_path: Path):
    path = tmp_path / "arrived.part"
    with path.open("wb") as file:
        file.write(b"[PAD]\n")
        file.truncate(2**36)  # of holes
    for name in ("a.json", "a.txt"):
        with pytest.raises(FormatError, match="too many for a file of a tokenizer"):
            check_format(path, name)
