"""Reading a StoryDB: order, shares, what is damaged, and how pictures are brought to one size."""

import hashlib
import json
import logging
import shutil
from itertools import islice

import pytest
import torch
from PIL import Image
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.lab.storydb.manifest import read_storydb
from story_identity.lab.storydb.reader import StoryDBReader, fitted
from story_identity.lab.storydb.shards import read_files, write_shard
from torch.utils.data import DataLoader, IterableDataset


class InWorkers(IterableDataset):
    """A reader's groups, read in a DataLoader's workers."""

    def __init__(self, groups):
        self.groups = groups

    def __iter__(self):
        return self.groups()


SIDE = TOY_WORLD.picture_side


@pytest.fixture
def own_db(storydb, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(storydb, tmp_path / "db")


def said(groups):
    return [group.captions for group in groups]


def damage(db, group, change):
    """Write a group's shard again with other files."""
    write_shard(db / group["file"], change(read_files(db / group["file"])))


def test_a_group_is_what_was_stored(storydb, pictures):
    by_captions = {group.captions: group for group in StoryDBReader(storydb, SIDE, SIDE).epoch()}
    for stored in read_storydb(storydb)["groups"]:
        sources = [pictures / each["source"] for each in stored["pictures"]]
        group = by_captions[tuple(source.with_suffix(".txt").read_text() for source in sources)]
        assert group.names == (stored["source"],)
        assert group.pictures.shape == (len(sources), SIDE, SIDE, 3)
        assert group.masks.shape == (len(sources), 1, SIDE, SIDE)
        assert group.masks.flatten(2).any(dim=2).all()
        with Image.open(sources[0]) as picture:
            assert (group.pictures[0, 5, 9] * 255).round().tolist() == list(picture.getpixel((9, 5)))
        (words,) = group.words
        for caption, spans in zip(group.captions, words, strict=True):
            assert stored["characters"][0]["word"] in [caption[slice(*span)] for span in spans]


def test_same_seed_same_order_and_another_epoch_another_one(storydb):
    orders = [said(StoryDBReader(storydb, 64, 64, seed=seed).epoch(epoch)) for seed in (1, 2) for epoch in (0, 1)]
    assert orders[0] == said(StoryDBReader(storydb, 64, 64, seed=1).epoch(0))
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    assert len({tuple(order) for order in orders}) > 1


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_see_disjoint_sets_that_make_the_whole(storydb, processes):
    reader = StoryDBReader(storydb, 64, 64, seed=3)
    whole = said(reader.epoch(4))
    shares = [said(reader.epoch(4, process, processes)) for process in range(processes)]
    assert sorted(sum(shares, [])) == sorted(whole)
    assert len(set(whole)) == len(whole) == 5
    streams = [said(islice(reader.stream(0, process, processes), 5)) for process in range(processes)]
    together = [streams[place % processes][place // processes] for place in range(5 * processes)]
    assert together == said(islice(reader.stream(), 5 * processes))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_of_a_loader_change_nothing(storydb, workers):
    reader = StoryDBReader(storydb, 64, 64, seed=3, frames=2)
    plain = list(islice(reader.stream(2, 1, 2), 7))
    loader = DataLoader(InWorkers(lambda: reader.stream(2, 1, 2)), batch_size=None, num_workers=workers)
    loaded = list(islice(iter(loader), 7))
    assert said(loaded) == said(plain)
    assert all(torch.equal(one.pictures, other.pictures) for one, other in zip(loaded, plain, strict=True))
    once = DataLoader(InWorkers(lambda: reader.epoch(1)), batch_size=None, num_workers=workers)
    assert sorted(said(once)) == sorted(said(reader.epoch(1)))


def test_resuming_goes_on_where_it_was(storydb):
    reader = StoryDBReader(storydb, 64, 64, seed=9, frames=2)
    whole = list(islice(reader.stream(), 12))
    again = list(islice(StoryDBReader(storydb, 64, 64, seed=9, frames=2).stream(5), 7))
    for one, other in zip(whole[5:], again, strict=True):
        assert one.captions == other.captions
        assert torch.equal(one.pictures, other.pictures)
        assert torch.equal(one.masks, other.masks)


def test_frames_are_chosen_anew_every_time(storydb):
    groups = list(islice(StoryDBReader(storydb, 64, 64, frames=3).stream(), 8))
    assert all(len(group) == 3 == len(set(group.captions)) for group in groups)
    assert len({group.captions for group in groups}) > 2  # two groups have three pictures


def _without(files, ending):
    return {name: content for name, content in files.items() if not name.endswith(ending)}


def _changed(files, ending):
    return {
        name: content[:-1] + bytes([content[-1] ^ 1]) if name.endswith(ending) else content
        for name, content in files.items()
    }


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda files: _changed(files, "000.png"), ".png has another checksum"),
        (lambda files: _without(files, "000.mask.png"), "there is no .mask.png"),
        (lambda files: _changed(files, "000.txt"), ".txt has another checksum"),
    ],
)
def test_a_damaged_picture_is_left_out_and_counted(own_db, caplog, change, why):
    group = next(each for each in read_storydb(own_db)["groups"] if len(each["pictures"]) == 3)
    damage(own_db, group, change)
    reader = StoryDBReader(own_db, 64, 64)
    with caplog.at_level(logging.WARNING):
        groups = list(reader.epoch())
    assert sorted(map(len, groups)) == [2, 2, 2, 2, 3]
    assert reader.skipped == {"pictures": 1, "groups": 0}
    assert why in caplog.text
    assert group["pictures"][0]["key"] in caplog.text


def test_an_unreadable_picture_with_a_right_checksum_is_left_out_too(own_db):
    manifest = read_storydb(own_db)
    group = next(each for each in manifest["groups"] if len(each["pictures"]) == 3)
    damage(own_db, group, lambda files: files | {f"{group['pictures'][1]['key']}.png": b"no picture"})
    group["pictures"][1]["sha256"]["png"] = hashlib.sha256(b"no picture").hexdigest()
    (own_db / "manifest.json").write_text(json.dumps(manifest))
    reader = StoryDBReader(own_db, 64, 64)
    assert sum(map(len, reader.epoch())) == 11
    assert reader.skipped == {"pictures": 1, "groups": 0}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_group_is_replaced_in_the_stream_and_counted(own_db, workers):
    manifest = read_storydb(own_db)
    bad = manifest["groups"][0]
    shard = own_db / bad["file"]
    shard.write_bytes(b"x" * 600)
    reader = StoryDBReader(own_db, 64, 64, seed=1)
    loader = DataLoader(InWorkers(lambda: islice(reader.stream(), 10)), batch_size=None, num_workers=workers)
    groups = list(loader)
    assert len(groups) == 10 * max(workers, 1)
    assert len(set(said(groups))) == 4
    assert reader.skipped["groups"] >= 2
    assert said(islice(reader.stream(3), 7)) == said(islice(reader.stream(), 10))[3:]
    assert len(list(reader.epoch())) == 4


def test_a_database_of_which_nothing_can_be_read(own_db):
    for shard in (own_db / "groups").iterdir():
        shard.unlink()
    reader = StoryDBReader(own_db, 64, 64)
    with pytest.raises(ValueError, match="None of the 5 groups"):
        next(reader.stream())
    assert list(reader.epoch()) == []
    assert reader.skipped["groups"] == 10


def test_groups_that_are_left_out_are_counted_aloud(storydb, caplog):
    reader = StoryDBReader(storydb, 32, 32, frames=3)
    assert (len(reader), caplog.messages) == (
        2,
        [f"{storydb}: 3 of 5 groups have fewer than 3 pictures and are left out"],
    )


def test_groups_that_are_too_small_are_refused(storydb):
    assert len(StoryDBReader(storydb, 64, 64, frames=3)) == 2
    with pytest.raises(ValueError, match="none of 4 pictures or more"):
        StoryDBReader(storydb, 64, 64, frames=4)
    with pytest.raises(ValueError, match="below 2"):
        next(StoryDBReader(storydb, 64, 64).stream(0, 2, 2))


def test_pictures_are_cut_around_the_characters():
    """40 x 20 to 10 x 10: scaled by a half, so a window 20 wide, around columns 28 to 35 as far as the edge lets it."""
    picture = Image.new("RGB", (40, 20), "black")
    masks = Image.new("P", (40, 20), 0)
    masks.paste(1, (28, 4, 36, 16))
    picture.paste((255, 255, 255), (20, 0, 40, 20))
    small, small_masks = fitted(picture, masks, 10, 10)
    assert small.size == small_masks.size == (10, 10)
    assert small.getextrema()[0][0] > 230  # columns 20 to 39; the filter looks a little beyond
    assert small_masks.getbbox() == (4, 2, 8, 8)
    masks.paste(0, (0, 0, 40, 20))
    masks.paste(2, (18, 0, 22, 20))
    assert fitted(picture, masks, 10, 10)[1].getbbox() == (4, 0, 6, 10)


def test_a_picture_of_the_right_size_stays_as_it_is():
    picture = Image.effect_noise((16, 16), 60).convert("RGB")
    masks = Image.new("P", (16, 16), 0)
    masks.paste(1, (3, 2, 9, 16))
    same, same_masks = fitted(picture, masks, 16, 16)
    assert same.tobytes() == picture.tobytes()
    assert same_masks.tobytes() == masks.tobytes()
