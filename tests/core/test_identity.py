"""Laws of Iterative Identity Discovery, and the identity file."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from story_identity.core.identity import (
    PACK_VERSION,
    Identity,
    discover_identity,
    largest_usable_rank,
    nearest_portraits,
    rows_per_round,
    safe_file_name,
)

from tests.closeness import assert_close


def crowd(seed: int = 0, m: int = 64, d: int = 101) -> torch.Tensor:
    return torch.randn(m, d, generator=torch.Generator().manual_seed(seed))


def planted(
    outliers: int = 24, m: int = 64, d: int = 211, directions: int = 5
) -> tuple[torch.Tensor, torch.Tensor, set[int]]:
    """Rows of one person (an identity plus a few shared directions and a little noise) among rows of anybody."""
    generator = torch.Generator().manual_seed(3)
    identity = torch.randn(d, generator=generator)
    shared = torch.randn(directions, d, generator=generator)
    rows = identity + torch.randn(m, directions, generator=generator) @ shared * 0.3
    rows = rows + torch.randn(m, d, generator=generator) * 0.05
    wrong = torch.randperm(m, generator=generator)[:outliers]
    rows[wrong] = torch.randn(outliers, d, generator=generator) + 2 * torch.randn(d, generator=generator)
    return rows, identity, set(wrong.tolist())


def test_rounds_keep_38_22_13_of_64():
    found = discover_identity(crowd())
    assert [len(each.kept) for each in found.rounds] == [38, 22, 13]
    assert [len(each.errors) for each in found.rounds] == [64, 38, 22]
    assert rows_per_round(64, 0.6, 3) == [64, 38, 22, 13]
    assert found.kept == found.rounds[-1].kept == sorted(found.kept)
    assert set(found.rounds[2].kept) < set(found.rounds[1].kept) < set(found.rounds[0].kept)


def test_the_identity_is_the_mean_of_the_rows_kept():
    rows = crowd()
    found = discover_identity(rows)
    assert torch.equal(found.embedding, rows[found.kept].mean(dim=0))
    assert found.embedding.dtype == torch.float32


def test_row_order_does_not_matter():
    rows = crowd()
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    found, shuffled = discover_identity(rows), discover_identity(rows[order])
    assert sorted(order[shuffled.kept].tolist()) == found.kept
    assert_close(found.embedding, shuffled.embedding)


def test_a_rotation_of_the_space_does_not_matter():
    rows = crowd().double()
    rotation = torch.linalg.qr(torch.randn(101, 101, generator=torch.Generator().manual_seed(2)).double()).Q
    found, rotated = discover_identity(rows), discover_identity(rows @ rotation)
    assert rotated.kept == found.kept
    assert_close(rotated.embedding, found.embedding @ rotation.float(), 1e-4)


def test_a_planted_identity_is_found_among_outliers():
    rows, identity, wrong = planted()
    found = discover_identity(rows, rank=10)
    assert not wrong & set(found.kept)
    cosine = torch.nn.functional.cosine_similarity(found.embedding, identity, dim=0)
    plain = torch.nn.functional.cosine_similarity(rows.mean(dim=0), identity, dim=0)
    assert cosine > 0.95
    assert cosine > plain
    assert found.cohesion_after > found.cohesion_before + 0.2


def test_errors_by_hand():
    """Three rows on one axis and one off it: with rank 1 the odd one loses most."""
    rows = torch.tensor([[2.0, 0.0], [3.0, 0.0], [4.0, 0.0], [0.0, 1.0]])
    found = discover_identity(rows, rank=1, keep_ratio=0.75, iterations=1)
    assert found.kept == [0, 1, 2]
    assert found.rounds[0].errors == pytest.approx([0, 0, 0, 0.5])  # (0² + 1²) / 2
    assert found.rounds[0].energy == pytest.approx(29 / 30)
    assert found.embedding.tolist() == [3.0, 0.0]
    assert found.cohesion_before == pytest.approx(0.5)  # of 6 pairs, 3 have cosine 1 and 3 have 0
    assert found.cohesion_after == pytest.approx(1.0)


def test_no_rounds_is_the_plain_mean():
    rows = crowd()
    found = discover_identity(rows, iterations=0)
    assert torch.equal(found.embedding, rows.mean(dim=0))
    assert found.kept == list(range(64))
    assert found.rounds == []


def test_input_is_untouched_and_half_precision_is_computed_in_float32():
    rows = crowd().half()
    before = rows.clone()
    assert discover_identity(rows).embedding.dtype == torch.float32
    assert torch.equal(rows, before)


def test_ranks_up_to_the_largest_usable_one_are_taken_and_no_more():
    assert largest_usable_rank(64, 2048) == 21
    assert largest_usable_rank(64, 7) == 6
    assert max(discover_identity(crowd(), rank=21).rounds[-1].errors) > 1e-4
    with pytest.raises(ValueError, match=r"rank 22 is too large for 64 portraits .* largest usable rank is 21"):
        discover_identity(crowd(), rank=22)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": crowd(m=8)}, r"rank 10 is too large for 8 portraits .* largest usable rank is 1\."),
        ({"embeddings": crowd(m=1)}, "No rank works with so few"),
        ({"embeddings": crowd(m=0)}, "There are no portraits"),
        ({"embeddings": torch.cat([crowd(m=20), torch.full((1, 101), torch.nan)])}, "portrait 21 of 21 has NaN"),
        ({"embeddings": torch.cat([torch.zeros(1, 101), crowd(m=20)])}, "portrait 1 of 21 is all zero"),
        ({"rank": 0}, "rank is 0"),
        ({"keep_ratio": 0.0}, "keep_ratio is 0.0"),
        ({"keep_ratio": 1.5}, "keep_ratio is 1.5"),
        ({"iterations": -1}, "iterations is -1"),
    ],
)
def test_bad_input_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        discover_identity(**{"embeddings": crowd(), **change})


def mira(**changes) -> Identity:
    settings = {"name": "Mira", "description": "ein Mädchen", "encoder": "photomaker-v1", "embedding": crowd()[0]}
    return Identity(**{**settings, **changes})


def test_saved_identities_load_as_they_were(tmp_path):
    saved = mira(metadata={"discovery": {"rank": 10}, "note": "ü"})
    path = saved.save(tmp_path / "new folder" / "Mira.safetensors")
    loaded = Identity.load(path, encoder="photomaker-v1")
    assert (loaded.name, loaded.description, loaded.encoder) == ("Mira", "ein Mädchen", "photomaker-v1")
    assert torch.equal(loaded.embedding, saved.embedding)
    assert loaded.metadata == saved.metadata
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["pack_version"] == PACK_VERSION
    assert [file.name for file in path.parent.iterdir()] == ["Mira.safetensors"]


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = mira().save(tmp_path / "Mira.safetensors")
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="no space"):
        mira(embedding=crowd()[1]).save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["Mira.safetensors"]


def test_an_identity_of_another_encoder_is_refused(tmp_path):
    path = mira(encoder="toy-encoder").save(tmp_path / "Mira.safetensors")
    with pytest.raises(ValueError, match='"Mira" was made with the encoder "toy-encoder", but "photomaker-v1"'):
        Identity.load(path, encoder="photomaker-v1")


def test_files_that_are_no_identities_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no identity file"):
        Identity.load(tmp_path / "nobody.safetensors")
    text = tmp_path / "text.safetensors"
    text.write_text(json.dumps({"name": "Mira"}))
    with pytest.raises(ValueError, match=r"text\.safetensors cannot be read as weights: it is text"):
        Identity.load(text)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(mira().save(tmp_path / "whole.safetensors").read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"cut\.safetensors cannot be read .*it is cut off, damaged"):
        Identity.load(cut)
    other = tmp_path / "lora.safetensors"
    save_file({"weight": torch.ones(3)}, other)
    with pytest.raises(ValueError, match=r"lora\.safetensors is not an identity file"):
        Identity.load(other)


def test_damaged_headers_are_refused(tmp_path):
    path = tmp_path / "odd.safetensors"
    whole = {"format": "story-identity/1", "name": "Mira", "description": "", "encoder": "e", "metadata": "{}"}
    for change, message in (
        ({"name": None}, "incomplete or damaged: no name"),
        ({"metadata": "{"}, "incomplete or damaged"),
        ({"metadata": '{"a":' * 100_000}, "incomplete or damaged: its metadata is not JSON"),
        ({"metadata": f'{{"a": {"9" * 5000}}}'}, "incomplete or damaged: its metadata is not JSON"),
        ({"metadata": '{"a": "\\ud83e"}'}, r"odd.safetensors: the metadata .* half of a surrogate pair \(U\+D83E\)"),
        ({"name": " "}, "odd.safetensors: An identity needs a name"),
        ({"encoder": ""}, "odd.safetensors: .* which encoder"),
        ({"metadata": "[1]"}, r"metadata is \[1\], expected"),
    ):
        header = {key: value for key, value in (whole | change).items() if value is not None}
        save_file({"embedding": torch.ones(3)}, path, metadata=header)
        with pytest.raises(ValueError, match=message):
            Identity.load(path)
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    for metadata in ({"a": {1}}, {"a": nested}):
        with pytest.raises(ValueError, match='metadata of the identity "Mira" is not JSON'):
            mira(metadata=metadata).save(path)
    with pytest.raises(ValueError, match='metadata of the identity "Mira" has half of a surrogate pair'):
        mira(metadata={"a": "\ud83e"}).save(path)


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        (torch.ones(3, dtype=torch.int32), "odd.safetensors: the embedding is of int32; it must hold fractions"),
        (torch.ones(3, dtype=torch.bool), "odd.safetensors: the embedding is of bool"),
        (torch.ones(1, 3), r"odd.safetensors: .*shape \(1, 3\)"),
        (torch.tensor(1.0), r"odd.safetensors: .*shape \(\)"),
        (torch.zeros(3), "odd.safetensors: .*all zero"),
        (torch.full((3,), 1e300, dtype=torch.float64), "odd.safetensors: .*infinite"),
    ],
)
def test_embeddings_that_are_none_are_refused(tmp_path, embedding, message):
    path = tmp_path / "odd.safetensors"
    header = {"format": "story-identity/1", "name": "Mira", "description": "", "encoder": "e", "metadata": "{}"}
    save_file({"embedding": embedding}, path, metadata=header)
    with pytest.raises(ValueError, match=message):
        Identity.load(path)


def test_half_precision_embeddings_load_as_float32(tmp_path):
    path = mira().save(tmp_path / "Mira.safetensors")
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    save_file({"embedding": crowd()[0].half()}, path, metadata=header)
    assert torch.equal(Identity.load(path).embedding, crowd()[0].half().float())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding": torch.zeros(5)}, "all zero"),
        ({"embedding": torch.tensor([1.0, torch.inf])}, "infinite"),
        ({"name": " "}, "needs a name"),
        ({"encoder": ""}, "which encoder"),
        ({"name": "Mira\ud83e"}, r'"Mira\\ud83e", has half of a surrogate pair'),
        ({"description": "\udc00"}, "The description of an identity"),
    ],
)
def test_impossible_identities_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        mira(**changes)


def test_names_become_safe_file_names():
    assert safe_file_name("Mira") == "Mira"
    assert safe_file_name("../../etc/passwd") == "etc_passwd"
    assert safe_file_name("C:\\con?") == "C__con"
    assert safe_file_name("Zoë 2") == "Zoë 2"
    assert len(safe_file_name("\U0001d7d9" * 300).encode()) <= 200
    assert [safe_file_name(name) for name in ("con", "LPT1", "console")] == ["con_", "LPT1_", "console"]
    for name in ("...", "", "  ", "../..", "\u200b"):
        with pytest.raises(ValueError, match="no usable file name"):
            safe_file_name(name)


def test_a_name_of_emoji_gives_a_file_name_that_no_other_name_gives():
    assert safe_file_name("\U0001f98a") == safe_file_name(" \U0001f98a ") == "U+1F98A"
    assert safe_file_name("\u2764\ufe0f!") == "U+2764+FE0F+0021"
    assert safe_file_name("U+1F98A") == "U_1F98A"
    assert safe_file_name("\U0001f98a Foxy") == "Foxy"
    long = {safe_file_name("\U0001f98a" * count) for count in range(1, 400)}
    assert len(long) == 399
    assert max(len(name) for name in long) <= 200
    with pytest.raises(ValueError, match=r'"\\ud83e" cannot be a file name: it has half of a surrogate pair'):
        safe_file_name("\ud83e")


@pytest.mark.parametrize(
    ("count", "keep_ratio", "iterations", "message"),
    [
        (64, 0.6, 99999999999999999999, "iterations is 99999999999999999999; there can be 0 to 1000"),
        (64, 0.6, -1, "iterations is -1"),
        (99999999999999999999, 0.6, 3, "99999999999999999999 portraits"),
        (64, float("nan"), 3, "keep_ratio is nan"),
        (64, float("inf"), 3, "keep_ratio is inf"),
    ],
)
def test_numbers_beyond_reason_are_refused_at_once(count, keep_ratio, iterations, message):
    with pytest.raises(ValueError, match=message):
        largest_usable_rank(count, 101, keep_ratio, iterations)
    if count == 64:
        with pytest.raises(ValueError, match=message):
            discover_identity(crowd(), 3, keep_ratio, iterations)


def test_rounds_that_leave_nobody_out_cost_one(monkeypatch):
    calls, svd = [], torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda *args, **options: calls.append(1) or svd(*args, **options))
    many, one = (discover_identity(crowd(), 3, 1.0, iterations) for iterations in (1000, 1))
    assert len(calls) == 2
    assert many.rounds == one.rounds * 1000
    assert torch.equal(many.embedding, one.embedding)
    assert many.kept == list(range(64))


def test_an_identity_saved_twice_is_the_same_bytes(tmp_path):
    identity = Identity("Mirá", "a woman", "photomaker-v1", torch.arange(1.0, 6.0), {"b": 1, "a": [2]})
    saved = {identity.save(tmp_path / f"{number}.safetensors").read_bytes() for number in range(8)}
    assert len(saved) == 1
    assert Identity.load(tmp_path / "0.safetensors").metadata == {"b": 1, "a": [2]}


def test_representative_portraits_are_in_the_order_of_the_cosine_by_hand():
    """Against (1, 0): cosines 0, 1 (whatever the length), 3/5, -1, and 1 again, which comes after its equal."""
    rows = torch.tensor([[0.0, 2.0], [7.0, 0.0], [3.0, 4.0], [-1.0, 0.0], [0.5, 0.0]])
    order, cosines = nearest_portraits(rows, torch.tensor([4.0, 0.0]), 5)
    assert order == [1, 4, 2, 0, 3]
    assert cosines == pytest.approx([1.0, 1.0, 0.6, 0.0, -1.0])
    assert nearest_portraits(rows, torch.tensor([0.0, 1.0]), 2)[0] == [0, 2]


def test_representative_portraits_follow_the_rows_wherever_they_stand_and_however_long_they_are():
    rows = crowd(seed=5, m=20)
    identity = discover_identity(rows, rank=3).embedding
    order, cosines = nearest_portraits(rows, identity, 20)
    assert cosines == sorted(cosines, reverse=True)
    assert sorted(order) == list(range(20))
    moved = torch.randperm(20, generator=torch.Generator().manual_seed(6))
    lengths = torch.linspace(0.1, 9, 20)[:, None]
    again, _ = nearest_portraits((lengths * rows)[moved], 3 * identity, 4)
    assert [int(moved[row]) for row in again] == order[:4]
    with pytest.raises(ValueError, match="There are to be 0 representative portraits"):
        nearest_portraits(rows, identity, 0)


def portraits(count: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 6, 5, 3), generator=generator, dtype=torch.uint8)


def test_portraits_are_saved_to_the_byte_and_files_without_any_load(tmp_path):
    path = mira(portraits=portraits()).save(tmp_path / "Mira.safetensors")
    loaded = Identity.load(path)
    assert torch.equal(loaded.portraits, portraits())
    assert torch.equal((255 * loaded.portrait_images(1)).round().byte(), portraits()[:1])
    assert loaded.save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    plain = Identity.load(mira().save(tmp_path / "plain.safetensors"))
    assert plain.portraits is None
    with pytest.raises(ValueError, match='"Mira" carries no portraits'):
        plain.portrait_images()
    with pytest.raises(ValueError, match='"Mira" carries 2 portraits; 3 are asked for'):
        loaded.portrait_images(3)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (portraits().float(), "portraits are of float32; they must be of uint8"),
        (portraits()[..., :2], r"portraits have shape \(2, 6, 5, 2\)"),
        (portraits()[:0], r"portraits have shape \(0, 6, 5, 3\)"),
        (portraits()[0], r"portraits have shape \(6, 5, 3\)"),
    ],
)
def test_portraits_that_are_no_pictures_are_refused(tmp_path, odd, message):
    path = tmp_path / "odd.safetensors"
    header = {"format": "story-identity/1", "name": "Mira", "description": "", "encoder": "e", "metadata": "{}"}
    save_file({"embedding": torch.ones(3), "portraits": odd.contiguous()}, path, metadata=header)
    with pytest.raises(ValueError, match=f"odd.safetensors: the {message}"):
        Identity.load(path)
