"""Values that are kept: what counts, what is refused, and files that give every bit back."""

import threading

import pytest
import torch
from story_identity.core.identity import Identity
from story_identity.core.kept_values import is_storable, load_value, save_value, size_of
from story_identity.core.layout import Layout


def equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        same = isinstance(other, torch.Tensor) and one.dtype == other.dtype and one.stride() == other.stride()
        return same and torch.equal(one, other)
    if isinstance(one, dict):
        return type(other) is dict and one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        same = type(other) is type(one) and len(one) == len(other)
        return same and all(equal(first, second) for first, second in zip(one, other, strict=True))
    return type(one) is type(other) and one == other


PICTURE = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(1)).movedim(1, -1)
VALUES = [
    [PICTURE],
    [{"samples": torch.randn(1, 4, 2, 2).half(), "batch_index": [0], "type": None}],
    [],
    [torch.zeros(0, 3), torch.tensor(1.5), torch.tensor([True, False]), torch.ones(2, 3).to(torch.bfloat16)],
    [("a", 1, 2.5, True, [], {}, None, "\u96e8")],
    [torch.ones(3).expand(2, 3)],
]


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_a_file_gives_every_bit_back(tmp_path, value):
    assert is_storable(value)
    save_value(tmp_path / "value.safetensors", value)
    back = load_value(tmp_path / "value.safetensors")
    if torch.is_tensor(value and value[0]) and 0 in value[0].stride():
        assert torch.equal(back[0], value[0])  # an expanded tensor is written out
    else:
        assert equal(back, value)


@pytest.mark.parametrize("value", [[object()], [{1: "a"}], [float("nan")], [b"x"], [{"a": {1, 2}}], [threading.Lock()]])
def test_what_cannot_be_stored_is_refused_before_a_file_is_there(tmp_path, value):
    assert not is_storable(value)
    with pytest.raises(TypeError, match="cannot be stored"):
        save_value(tmp_path / "value.safetensors", value)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "value.safetensors"
    save_value(path, [PICTURE])
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"value\.safetensors is damaged"):
        load_value(path)
    with pytest.raises(OSError, match="gone"):
        load_value(tmp_path / "gone.safetensors")


def test_the_size_is_that_of_the_memory_and_a_shared_storage_counts_once():
    whole = torch.zeros(10, 10)
    assert size_of([whole]) == 400
    assert size_of([whole, whole[0], {"again": whole.T}]) == 400 + 64
    assert size_of([whole[0]]) == 400  # the rest stays in memory with it


def test_the_packs_own_values_are_known_and_others_are_not():
    layout = Layout(("Mira",), torch.zeros(1, 8, 8, dtype=torch.bool))
    identity = Identity("Mira", "a woman", "toy", torch.ones(4), {})
    assert (size_of(layout) or 0) >= 64
    assert (size_of([identity, layout]) or 0) >= 16 + 64
    for unknown in (object(), torch.nn.Linear(2, 2), [torch.nn.Parameter], torch.zeros(2, device="meta")):
        assert size_of([unknown]) is None


def test_an_identity_is_stored_with_all_it_has(tmp_path):
    portraits = torch.randint(0, 256, (2, 3, 5, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for pictures in (None, portraits):
        identity = Identity("Mira \u96e8", "a woman", "e", torch.tensor([1.0, 2.5]), {"a": [1, None, "x"]}, pictures)
        save_value(tmp_path / "value.safetensors", [identity])
        (back,) = load_value(tmp_path / "value.safetensors")
        assert (back.name, back.description, back.encoder) == ("Mira \u96e8", "a woman", "e")
        assert back.metadata == identity.metadata
        assert torch.equal(back.embedding, identity.embedding)
        assert back.portraits is None if pictures is None else torch.equal(back.portraits, pictures)
        (tmp_path / "value.safetensors").unlink()


def test_a_small_object_of_another_package_is_kept_only_where_the_caller_knows_it():
    class Sampler:
        pass

    assert size_of([Sampler()]) is None
    assert size_of([{"solver": Sampler()}], lambda part: isinstance(part, Sampler)) is not None
    assert size_of([Sampler(), object()], lambda part: isinstance(part, Sampler)) is None
