"""The files of a StoryDB: foreign tars, damaged manifests, and what else lies in the folder."""

import io
import json
import random
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image
from story_identity.core.locking import locked
from story_identity.lab.storydb.build import build_storydb
from story_identity.lab.storydb.command import show
from story_identity.lab.storydb.manifest import read_storydb
from story_identity.lab.storydb.reader import StoryDBReader
from story_identity.lab.storydb.shards import read_files, write_shard

from tests.stand_ins.storydb import new_person, write_character


def entry_of(name, kind=tarfile.REGTYPE, link="", size=0):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.size = kind, link, size
    return entry


STRANGE = {
    "a link to nothing": entry_of("k/000.png", tarfile.SYMTYPE, "nowhere"),
    "a hard link to nothing": entry_of("k/000.png", tarfile.LNKTYPE, "nowhere"),
    "a link to itself": entry_of("k/000.png", tarfile.SYMTYPE, "000.png"),
    "a link outside": entry_of("k/000.png", tarfile.SYMTYPE, "/etc/passwd"),
    "a folder": entry_of("k/000.png", tarfile.DIRTYPE),
    "a device": entry_of("k/000.png", tarfile.CHRTYPE),
    "a pipe": entry_of("k/000.png", tarfile.FIFOTYPE),
    "an absolute path": entry_of("/tmp/000.png"),
    "a parent path": entry_of("../../000.png"),
    "a name not UTF-8": entry_of("k/\udcff.png"),
}


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_strange_entries_are_passed_over_and_nothing_is_written(tmp_path, strange, form):
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as shard:
        shard.addfile(STRANGE[strange])
        good = entry_of("k/001.txt", size=4)
        shard.addfile(good, io.BytesIO(b"good"))
    found = read_files(tmp_path / "a.tar")
    assert found.pop("k/001.txt") == b"good"
    assert set(found.values()) <= {b""}
    assert read_files(tmp_path / "a.tar", ".txt") == {"k/001.txt": b"good"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_a_file_that_claims_more_than_there_is_takes_no_memory(tmp_path):
    for size in (2**20, 2**62):
        (tmp_path / "a.tar").write_bytes(entry_of("k/000.png", size=size).tobuf(tarfile.GNU_FORMAT) + b"x" * 1024)
        with pytest.raises(ValueError, match="a.tar cannot be read: .*(claims to have|unexpected end)"):
            read_files(tmp_path / "a.tar")


def test_damaged_tars_are_refused_or_lack_files(tmp_path):
    chance, refused = random.Random(2), 0
    files = {f"k/{number:03d}.txt": bytes([number]) * 700 for number in range(3)}
    write_shard(tmp_path / "a.tar", files)
    whole = (tmp_path / "a.tar").read_bytes()
    for number in range(200):
        content = bytearray(whole[: chance.randrange(len(whole))] if number % 2 else whole)
        for _ in range(3 if len(content) else 0):
            content[chance.randrange(min(len(content), 512))] = chance.randrange(256)
        (tmp_path / "a.tar").write_bytes(bytes(content))
        try:
            read_files(tmp_path / "a.tar")
        except ValueError as error:
            refused += len(str(error)) < 1500
    assert refused > 150


def test_a_group_whose_picture_became_a_link_leaves_that_picture_out(storydb, tmp_path, caplog):
    db = shutil.copytree(storydb, tmp_path / "db")
    group = next(each for each in read_storydb(db)["groups"] if len(each["pictures"]) == 3)
    files, lost = read_files(db / group["file"]), f"{group['pictures'][0]['key']}.png"
    with tarfile.open(db / group["file"], "w") as shard:
        for name, content in files.items():
            entry = entry_of(name, tarfile.SYMTYPE, "gone") if name == lost else entry_of(name, size=len(content))
            shard.addfile(entry, io.BytesIO(content))
    assert sorted(map(len, StoryDBReader(db, 64, 64).epoch())) == [2, 2, 2, 2, 3]
    assert "there is no .png" in caplog.text


VALUES = (
    None,
    True,
    3,
    -1,
    1.5,
    "",
    "groups/x",
    "../x",
    "/etc/passwd",
    "groups/../x",
    [],
    [1],
    {},
    {"a": 1},
    "é" * 5000,
)


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


@pytest.mark.slow
def test_malformed_manifests_end_in_one_clear_error(storydb, tmp_path):
    """Wrong types, missing keys and foreign values at every place; what is no fault can be read."""
    chance, said = random.Random(4), []
    shutil.copytree(storydb, tmp_path / "db")
    whole = read_storydb(storydb)
    spots = list(places(whole))
    for _ in range(400):
        manifest = json.loads(json.dumps(whole))
        *way, last = chance.choice(spots[1:])
        part = manifest
        for key in way:
            part = part[key]
        if chance.random() < 0.3:
            del part[last]
        else:
            part[last] = chance.choice(VALUES)
        (tmp_path / "db" / "manifest.json").write_text(json.dumps(manifest))
        try:
            list(StoryDBReader(tmp_path / "db", 64, 64).epoch())
        except ValueError as error:
            said.append(str(error))
    assert len(said) > 200
    assert max(map(len, said)) < 1500
    assert all("manifest.json" in each and each.isprintable() for each in said)
    for text in ("[" * 100_000, "", "3", '{"format": "story-identity-storydb/1"}', "\xff"):
        (tmp_path / "db" / "manifest.json").write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match="manifest.json is"):
            read_storydb(tmp_path / "db")


@pytest.mark.parametrize("clusters", [None, 3, [[]], [3], [["../secret.png"]], {}])
def test_a_damaged_record_of_loose_pictures_is_made_again(tmp_path, small_settings, measures, clusters):
    random, root, db = np.random.default_rng(6), tmp_path / "in", tmp_path / "db"
    write_character(root, new_person(random, held_out=True), 4, random)
    whole = build_storydb(root, db, small_settings, measures)
    damaged = json.loads(json.dumps(whole))
    damaged["sources"]["loose/"]["clusters"] = clusters
    if clusters is None:
        del damaged["sources"]["loose/"]["clusters"]
    (db / "manifest.json").write_text(json.dumps(damaged))
    assert build_storydb(root, db, small_settings, measures) == whole


def test_only_files_of_groups_are_deleted(pictures, storydb, tmp_path, small_settings, measures):
    db = shutil.copytree(storydb, tmp_path / "db")
    (db / "groups" / "gone-1-0123abcd.tar").write_bytes(b"of a source that is gone")
    (db / "groups" / "gone-2-0123abcd").mkdir()
    mine = [db / "groups" / name for name in ("holiday.tar", "ada-1.tar", "notes.txt", "ada-1-0123abcd.tar.bak")]
    for path in mine:
        path.write_text("mine")
    (db / "groups" / "my folder").mkdir()
    (tmp_path / "precious").mkdir()
    (db / "groups" / "link-1-0123abcd").symlink_to(tmp_path / "precious")
    manifest = build_storydb(pictures, db, small_settings, measures)
    kept = {path.name for path in (db / "groups").iterdir()} - {path.name for path in mine}
    assert kept == {entry["file"].removeprefix("groups/") for entry in manifest["groups"]} | {
        "my folder",
        "link-1-0123abcd",
    }
    assert all(path.read_text() == "mine" for path in mine)


def test_nothing_is_deleted_behind_a_link(pictures, storydb, tmp_path, small_settings, measures):
    db = shutil.copytree(storydb, tmp_path / "db")
    (db / "groups").rename(tmp_path / "real")
    (tmp_path / "real" / "other-1-0123abcd.tar").write_bytes(b"of another database")
    (db / "groups").symlink_to(tmp_path / "real")
    build_storydb(pictures, db, small_settings, measures)
    assert (tmp_path / "real" / "other-1-0123abcd.tar").is_file()


def test_two_builds_in_one_folder_are_refused(pictures, tmp_path, small_settings, measures):
    with (
        locked(tmp_path / "db", "not expected"),
        pytest.raises(ValueError, match="Another build-storydb is at work in"),
    ):
        build_storydb(pictures, tmp_path / "db", small_settings, measures)


def test_what_users_bring(tmp_path, toy_settings, measures, capsys):
    """16-bit pictures and linked folders are used; each bad caption, link and picture is one line of the table."""
    random, root, db = np.random.default_rng(11), tmp_path / "in", tmp_path / "db"
    names = write_character(root / "ada", new_person(random, held_out=True), 8, random)
    deep = Image.open(root / "ada" / names[0]).convert("L")
    Image.fromarray(np.asarray(deep).astype(np.uint16) * 257).save(root / "ada" / "deep.png")
    (root / "ada" / "deep.txt").write_bytes((root / "ada" / names[0]).with_suffix(".txt").read_bytes())
    (root / "ada" / "bad.png").write_bytes((root / "ada" / names[1]).read_bytes())
    (root / "ada" / "bad.txt").write_bytes("a girl".encode("utf-16"))
    (root / "linked").symlink_to(root / "ada")
    (root / "abroad").symlink_to("/")
    (root / "loose.png").symlink_to("/dev/null")
    (root / "ada" / "escape\x1b[31m.png").write_bytes(b"")
    manifest = build_storydb(root, db, toy_settings, measures)
    reasons = {drop["file"]: drop["reason"] for drop in manifest["drops"]}
    assert reasons["ada/bad.png"] == reasons["linked/bad.png"] == "unreadable caption"
    assert reasons["abroad"] == reasons["loose.png"] == "link outside"
    assert reasons.get("ada/deep.png") != "blank"
    assert {group["source"] for group in manifest["groups"]} == {"ada", "linked"}
    show(manifest)
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "utf-8" in printed.lower()
    before = {path: path.stat().st_mtime_ns for path in (db / "groups").iterdir()}
    (root / "ada" / "bad.txt").write_text("a girl")
    changed = build_storydb(root, db, toy_settings, measures)
    assert "unreadable caption" not in {drop["reason"] for drop in changed["drops"]}
    assert not set(before) & set((db / "groups").iterdir())  # the linked folder changed with the folder
