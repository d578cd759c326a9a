"""Files of weights: what is said of one that cannot be used, and that a network gets exactly its own tensors."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from story_identity.core.state_dict import (
    check_tensors,
    count_parts,
    load_exactly,
    meta,
    read_shapes,
    read_tensors,
    refuse_notes,
    shape_of,
    sizes_from,
    tensors_of,
)

READERS = {"tensors": read_tensors, "shapes": read_shapes}


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))


@pytest.mark.parametrize("name", ["w.safetensors", "w.SFT", "w.bin", "w.pth", "w"])
def test_both_formats_give_the_same_tensors(tmp_path, name):
    path, weights = tmp_path / name, network().state_dict()
    (save_file if name.lower().endswith(("safetensors", "sft")) else torch.save)(weights, path)
    found, shapes = read_tensors(path, "a file"), read_shapes(path, "a file")
    assert found.keys() == shapes.keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in found.items())
    assert {key: (value.shape, value.is_meta) for key, value in shapes.items()} == {
        key: (value.shape, True) for key, value in weights.items()
    }


def test_shapes_know_fractions_from_whole_numbers(tmp_path):
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
    kinds += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
    save_file({str(kind): torch.zeros(3, dtype=kind) for kind in kinds}, tmp_path / "w.safetensors")
    shapes = read_shapes(tmp_path / "w.safetensors", "a file")
    assert {name: value.is_floating_point() for name, value in shapes.items()} == {
        str(kind): kind.is_floating_point for kind in kinds
    }


class Touch:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("w.safetensors", b"", "it is empty"),
        ("w.bin", b"", "it is empty"),
        ("w.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "it is a Git LFS pointer"),
        ("w.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "it is a Git LFS pointer"),
        ("w.safetensors", b"\xef\xbb\xbf  <html>", "it is a web page"),
        ("w.bin", b"<!doctype html>", "it is a web page"),
        ("w.bin", b"Entry not found", "it is text"),
        ("w.safetensors", b"PK\x03\x04....", r"a PyTorch file under another ending: rename it to end in \.bin"),
        ("w.safetensors", b"\x80\x02....", r"a PyTorch file under another ending"),
        ("w.bin", b"\x02" + bytes(7) + b"{}", r"a safetensors file under another ending: rename it .*\.safetensors"),
        ("w.safetensors", b"\xff" * 8 + b"{}", "it is not a safetensors file, or its beginning is damaged"),
        ("w.safetensors", bytes(4), "it is not a safetensors file, or its beginning is damaged"),
        ("w.bin", bytes(300), "it is not a PyTorch file, or its beginning is damaged"),
        ("w.bin", b"PK\x03\x04" + bytes(90), r"\(RuntimeError.*it is cut off, damaged"),
        ("w.bin", b"\x80\x02.", r"it is cut off, damaged"),
        ("w.bin", b"\x80\x02}q\x01h\x01h\x01s.", "it is cut off, damaged|no name of a tensor"),
        ("w.safetensors", b"\x02" + bytes(7) + b"{]", r"\(SafetensorError.*it is cut off, damaged"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_what_it_is(tmp_path, read, name, content, found):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} cannot be read as weights.*({found}).*A file of mine was expected"):
        read(tmp_path / name, "a file of mine")


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_what_is_no_dict_of_names_is_refused(tmp_path, read):
    path = tmp_path / "w.bin"
    for content, found in (
        ([torch.ones(1)], "it holds a list, not tensors by name"),
        (torch.ones(3), "it holds a Tensor, not tensors by name"),
        (None, "it holds a NoneType"),
        ({3: torch.ones(1)}, "3 is no name of a tensor"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=f"w.bin cannot be read as weights: {found}"):
            read(path, "a file")


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_no_code_of_a_file_is_run_and_torchs_advice_to_run_it_is_not_passed_on(tmp_path, read):
    path = tmp_path / "w.bin"
    for write in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))):
        write({"a": Touch(tmp_path / "ran")}, path)
        with pytest.raises(ValueError, match="objects that are no tensors, which are never loaded") as caught:
            read(path, "a file")
        assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_what_is_missing_a_folder_or_locked(tmp_path, read, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no file .*w\.bin; a file of mine was expected"):
        read(tmp_path / "w.bin", "a file of mine")
    (tmp_path / "w.bin").mkdir()
    with pytest.raises(ValueError, match=r"w\.bin cannot be read as weights: it is a folder"):
        read(tmp_path / "w.bin", "a file of mine")

    def locked(*_, **__):
        raise PermissionError(13, "Permission denied")

    torch.save({}, tmp_path / "v.bin")
    monkeypatch.setattr("pathlib.Path.open", locked)
    with pytest.raises(ValueError, match=r"v\.bin cannot be read as weights: the system .*Permission denied"):
        read(tmp_path / "v.bin", "a file of mine")


def test_a_file_name_with_odd_characters_is_made_safe(tmp_path):
    path = tmp_path / "a\x1b[31m\nb.bin"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read") as caught:
        read_tensors(path, "a file")
    assert not set("\x1b\n") & set(str(caught.value))


def test_only_plain_tensors_pass_and_position_ids_are_left_out():
    plain = {"a": torch.ones(2), "b": torch.nn.Parameter(torch.ones(1))}
    old = plain | {"embeddings.position_ids": torch.arange(3), "position_ids": torch.arange(3)}
    assert tensors_of(old, "w").keys() == plain.keys()
    odd = {
        "list": [1.0],
        "dict": {"a": torch.ones(1)},
        "sparse": torch.eye(3).to_sparse(),
        "meta": torch.empty(3, device="meta"),
    }
    for name, value in odd.items():
        with pytest.raises(ValueError, match=f'w.bin holds something other than plain tensors: "{name}" is'):
            tensors_of({**plain, name: value}, "w.bin")


def test_a_network_gets_exactly_its_tensors():
    source, target = network().state_dict(), torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    load_exactly(target, source, "w.bin", "a network")
    assert all(torch.equal(value, source[key]) for key, value in target.state_dict().items())
    halves = {key: value.half() for key, value in source.items()}
    load_exactly(target, halves, "w.bin", "a network", assign=True)
    assert target[0].weight.data_ptr() == halves["0.weight"].data_ptr()


def test_all_that_does_not_fit_is_named_at_once():
    expected = meta({"a": (2, 3), "b": (3,), "c": (1,), "d": (4,), "e": (5,)})
    found = {"a": torch.ones(3, 2), "b": torch.ones(3, dtype=torch.int32), "c": [1], "x\n": torch.ones(1)}
    with pytest.raises(ValueError, match="w.bin does not fit a network") as caught:
        check_tensors(found, expected, "w.bin", "a network")
    text = str(caught.value)
    assert 'Missing: "d", "e".' in text
    assert r'Not part of it: "x\n".' in text
    assert '"a" is (3, 2) of float32, expected (2, 3)' in text
    assert '"b" is (3,) of int32, expected (3,)' in text
    assert '"c" is no tensor but a list, expected (1,)' in text
    many = {f"x{number:04d}": torch.ones(1) for number in range(2000)}
    with pytest.raises(ValueError, match='Not part of it: "x0000", "x0001", "x0002" and 1997 more') as caught:
        check_tensors(many, {}, "w.bin", "a network")
    assert len(str(caught.value)) < 300


def test_notes_of_a_loader_are_told_in_the_same_words():
    clean = {"missing_keys": set(), "unexpected_keys": [], "mismatched_keys": set()}
    refuse_notes(clean, "w.bin", "a network")
    notes = {**clean, "mismatched_keys": {("a", torch.Size([2]), torch.Size([3]))}, "missing_keys": {"b"}}
    with pytest.raises(ValueError, match=r'Missing: "b"\. Wrong shape: "a" is \(2,\), expected \(3,\)\.'):
        refuse_notes(notes, "w.bin", "a network")
    with pytest.raises(ValueError, match=r'Wrong shape: "a"\.'):
        refuse_notes({**clean, "mismatched_keys": ["a"]}, "w.bin", "a network")


def test_sizes_are_read_from_sound_shapes_only():
    state = {"a": torch.ones(2, 3), "b": torch.ones(2, 0), "c": 3}
    assert shape_of(state, "a", 2, "w.bin") == (2, 3)
    for key, axes, message in (
        ("a", 1, r"a in w.bin is \(2, 3\) of float32, expected 1 axes"),
        ("b", 2, r"b in w.bin is \(2, 0\)"),
        ("c", 1, "c in w.bin is no tensor but a int"),
        ("d", 1, "w.bin lacks the tensor d"),
    ):
        with pytest.raises(ValueError, match=message):
            shape_of(state, key, axes, "w.bin")


def test_parts_count_from_zero_without_a_gap():
    assert count_parts(["a.0.x", "a.1.x", "a.1.y", "b.7"], "a.", "w.bin") == 2
    for keys in (["a.1.x"], ["a.0", "a.2"], ["a.0", "a.00"], ["a.0", "a.999999999999"], ["a.0", "a.x"], ["a.-1"]):
        with pytest.raises(ValueError, match=r"w.bin has the parts .* of a\.\*"):
            count_parts(keys, "a.", "w.bin")
    with pytest.raises(ValueError, match=r"w.bin lacks all tensors a\.\*"):
        count_parts(["b.0"], "a.", "w.bin")


def test_impossible_sizes_name_the_file():
    for fail in (
        lambda: 1 // 0,
        lambda: [][0],
        lambda: torch.ones(2) @ torch.ones(3),
        lambda: int("x"),
        lambda: 1 + "",
    ):
        with (
            pytest.raises(ValueError, match="w.bin does not fit a network: the sizes in it"),
            sizes_from("w.bin", "a network"),
        ):
            fail()
    with (
        pytest.raises(ValueError, match='w.bin does not fit a network. Missing: "b"'),
        sizes_from("w.bin", "a network"),
    ):
        {}["b"]
