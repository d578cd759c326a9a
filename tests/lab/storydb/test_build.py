"""Building a StoryDB: what is kept and dropped, what is made again, and that nothing is ever half there."""

import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import story_identity.lab.storydb.build as building
from PIL import Image
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.lab.storydb.build import build_storydb
from story_identity.lab.storydb.manifest import read_storydb
from story_identity.lab.storydb.settings import TOYWORLD_STORYDB, StoryDBSettings
from story_identity.lab.storydb.shards import read_files
from story_identity.lab.toyworld.world import draw, sample_plan

from tests.stand_ins.storydb import new_person, new_plan, plant, write, write_character


def states(folder):
    """Bytes and time of every file of the groups."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (folder / "groups").rglob("*.*")}


@pytest.fixture
def own_pictures(pictures, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(pictures, tmp_path / "own")


@pytest.mark.slow
def test_planted_pictures_go_for_the_right_reason_and_the_good_ones_stay(tmp_path, toy_settings, measures):
    """8 people whom no network has seen, 10 good pictures and 4 bad ones each."""
    random, expected, good = np.random.default_rng(2024), {}, set()
    for number in range(8):
        person, name = new_person(random, held_out=True), f"person{number}"
        good |= {f"{name}/{file}" for file in write_character(tmp_path / "in" / name, person, 10, random)}
        planted = plant(tmp_path / "in" / name, person, random)
        expected |= {f"{name}/{file}": reason for file, reason in planted.items()}
    manifest = build_storydb(tmp_path / "in", tmp_path / "db", toy_settings, measures)
    reasons = {drop["file"]: drop["reason"] for drop in manifest["drops"]}
    assert {file: reasons.get(file) for file in expected} == expected
    kept = {picture["source"] for group in manifest["groups"] for picture in group["pictures"]}
    assert kept <= good
    assert len(kept) >= 0.95 * len(good)
    assert kept | set(reasons) == good | set(expected)  # nothing vanishes without a reason
    assert all(5 <= len(group["pictures"]) <= 12 for group in manifest["groups"])


def test_masks_and_words_of_a_group(pictures, storydb):
    manifest = read_storydb(storydb)
    group = next(each for each in manifest["groups"] if each["source"] == "ada")
    files = read_files(storydb / group["file"])
    (character,) = group["characters"]
    for picture in group["pictures"]:
        caption = files[f"{picture['key']}.txt"].decode()
        assert caption == (pictures / picture["source"]).with_suffix(".txt").read_text()
        (person,) = json.loads(files[f"{picture['key']}.json"])["characters"]
        assert caption[slice(*person["phrase"])] == character["description"]
        assert character["word"] in [caption[slice(*span)] for span in person["words"]]
        mask = np.array(Image.open(io.BytesIO(files[f"{picture['key']}.mask.png"])))
        assert set(np.unique(mask)) == {0, 1}
        assert mask.shape == (TOY_WORLD.picture_side, TOY_WORLD.picture_side)
        assert files[f"{picture['key']}.png"] == (pictures / picture["source"]).read_bytes()


def test_shards_follow_webdataset_and_their_checksums_hold(storydb):
    for group in read_storydb(storydb)["groups"]:
        with tarfile.open(storydb / group["file"]) as shard:
            entries = shard.getmembers()
            names = [entry.name for entry in entries]
            assert {(entry.mtime, entry.uid, entry.gid, entry.uname) for entry in entries} == {(0, 0, 0, "")}
        # A sample's key is everything up to the first dot of the file's own name; its files lie side by side.
        keys = [f"{name.rpartition('/')[0]}/{name.rpartition('/')[2].split('.')[0]}" for name in names]
        assert list(dict.fromkeys(keys)) == [picture["key"] for picture in group["pictures"]]
        assert keys == sorted(keys)
        files = read_files(storydb / group["file"])
        for picture in group["pictures"]:
            for part, expected in picture["sha256"].items():
                assert hashlib.sha256(files[f"{picture['key']}.{part}"]).hexdigest() == expected


def test_same_pictures_same_bytes(pictures, storydb, tmp_path, small_settings, measures):
    build_storydb(pictures, tmp_path / "db", small_settings, measures)
    ours = {path.name: content for path, (content, _) in states(storydb).items()}
    assert {path.name: content for path, (content, _) in states(tmp_path / "db").items()} == ours
    assert read_storydb(tmp_path / "db") == read_storydb(storydb)


def test_a_folder_in_place_of_tars_holds_the_same_files(pictures, storydb, tmp_path, small_settings, measures):
    settings = StoryDBSettings(**{**small_settings.record(), "words": small_settings.words, "form": "folder"})
    manifest = build_storydb(pictures, tmp_path / "db", settings, measures)
    for group, tarred in zip(manifest["groups"], read_storydb(storydb)["groups"], strict=True):
        assert group["pictures"] == tarred["pictures"]
        assert read_files(tmp_path / "db" / group["file"]) == read_files(storydb / tarred["file"])


def test_only_what_changed_is_made_again(own_pictures, tmp_path, small_settings, measures):
    db, random = tmp_path / "db", np.random.default_rng(0)
    build_storydb(own_pictures, db, small_settings, measures)
    before = states(db)
    build_storydb(own_pictures, db, small_settings, measures)
    assert states(db) == before
    caption = own_pictures / "ben" / "00.txt"
    caption.write_text(caption.read_text() + " at noon")
    build_storydb(own_pictures, db, small_settings, measures)
    after = states(db)
    untouched = {path for path in before if "ben" not in path.name}
    assert {path: after[path] for path in untouched} == {path: before[path] for path in untouched}
    assert set(before) & set(after) == untouched
    write_character(own_pictures / "dora", new_person(random), 3, random)
    shutil.rmtree(own_pictures / "cleo")
    manifest = build_storydb(own_pictures, db, small_settings, measures)
    assert {group["source"] for group in manifest["groups"]} == {"ada", "ben", "dora"}
    last = states(db)
    assert not any("cleo" in path.name for path in last)
    assert {path: last.get(path) for path in after if "cleo" not in path.name} == {
        path: each for path, each in after.items() if "cleo" not in path.name
    }


def test_models_settings_and_missing_files_are_reasons_to_make_groups_again(own_pictures, tmp_path, measures):
    settings, db = StoryDBSettings(**{**TOYWORLD_STORYDB, "least": 2, "most": 4}), tmp_path / "db"
    build_storydb(own_pictures, db, settings, measures)
    before = states(db)
    next(iter(before)).unlink()
    build_storydb(own_pictures, db, settings, measures)
    assert {path: each[0] for path, each in states(db).items()} == {path: each[0] for path, each in before.items()}
    build_storydb(own_pictures, db, settings, replace(measures, names={"toyworld": "another"}))
    assert not set(before) & set(states(db))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "what", "after"),
    [(tarfile.TarFile, "addfile", 5), (building, "write_shard", 2), (building, "write_json", 1)],
    ids=["within a shard", "between shards", "before the manifest"],
)
def test_a_kill_leaves_no_half_written_shard(
    own_pictures, tmp_path, small_settings, measures, monkeypatch, owner, what, after
):
    """The manifest names whole files at every moment, and the next call goes on from there."""
    db = tmp_path / "db"
    build_storydb(own_pictures, db, small_settings, measures)
    for name in ("ada", "ben"):
        (own_pictures / name / "00.txt").unlink()
    real, calls = getattr(owner, what), []

    def killing(*arguments):
        calls.append(arguments)
        if len(calls) > after:
            (db / "groups" / ".unfinished-killed.tmp").write_bytes(b"half")  # what a killed process leaves behind
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(owner, what, killing)
    with pytest.raises(KeyboardInterrupt):
        build_storydb(own_pictures, db, small_settings, measures)
    for group in read_storydb(db)["groups"]:
        files = read_files(db / group["file"])
        assert all(
            hashlib.sha256(files[f"{picture['key']}.{part}"]).hexdigest() == expected
            for picture in group["pictures"]
            for part, expected in picture["sha256"].items()
        )
    left = {path: content for path, (content, _) in states(db).items() if path.suffix == ".tar"}
    monkeypatch.undo()
    manifest = build_storydb(own_pictures, db, small_settings, measures)
    assert not list(db.rglob(".unfinished-*"))
    assert all(path.read_bytes() == content for path, content in left.items() if path.exists())  # whole from the start
    assert manifest == build_storydb(own_pictures, tmp_path / "fresh", small_settings, measures)


@pytest.mark.slow
def test_loose_pictures_of_toy_people_find_their_groups(tmp_path, toy_settings, measures):
    """6 people, 6 pictures each; purity is the share of pictures that lie with the majority of their group."""
    random, root = np.random.default_rng(17), tmp_path / "in"
    for number in range(6):
        write_character(root, new_person(random, held_out=True), 6, random, first=10 * number)
    manifest = build_storydb(root, tmp_path / "db", toy_settings, measures)
    groups = [[int(each["source"][:2]) // 10 for each in group["pictures"]] for group in manifest["groups"]]
    kept = sum(map(len, groups))
    assert kept >= 0.95 * 36
    assert sum(int(np.bincount(group).max()) for group in groups) >= 0.95 * kept
    before = states(tmp_path / "db")
    newcomer = write_character(root, new_person(random, held_out=True), 6, random, first=90)
    manifest = build_storydb(root, tmp_path / "db", toy_settings, measures)
    assert {path: each for path, each in states(tmp_path / "db").items() if path in before} == before
    added = [group for group in manifest["groups"] if group["file"] not in {f"groups/{path.name}" for path in before}]
    assert [sorted(each["source"] for each in group["pictures"]) for group in added] == [newcomer]


def test_large_folders_are_divided_evenly_and_small_ones_dropped(storydb, pictures, tmp_path, toy_settings, measures):
    sizes = [len(group["pictures"]) for group in read_storydb(storydb)["groups"]]
    assert sizes == [2, 2, 3, 2, 3]
    manifest = build_storydb(pictures, tmp_path / "db", toy_settings, measures)
    assert [group["source"] for group in manifest["groups"]] == ["ben"]
    assert {drop["detail"] for drop in manifest["drops"]} == {"4 left of 4, least 5", "3 left of 3, least 5"}
    assert {drop["reason"] for drop in manifest["drops"]} == {"group too small"}


@pytest.mark.slow
def test_captions_from_metadata_and_from_a_captioner(own_pictures, tmp_path, small_settings, measures):
    captions = {path.stem: path.read_text() for path in (own_pictures / "ada").glob("*.txt")}
    expected = build_storydb(own_pictures, tmp_path / "a", small_settings, measures)["groups"]
    for path in (own_pictures / "ada").glob("*.txt"):
        path.unlink()
    asked = []

    def caption(paths):
        asked.append([path.name for path in paths])
        return [captions[path.stem] for path in paths]

    captioned = build_storydb(own_pictures, tmp_path / "b", small_settings, replace(measures, caption=caption))[
        "groups"
    ]
    assert asked == [["00.png", "01.png", "02.png", "03.png"]]
    lines = [json.dumps({"file_name": f"ada/{stem}.png", "text": text}) for stem, text in captions.items()]
    lines.append(json.dumps({"file_name": "ada/lost.png", "text": "not there"}))
    (own_pictures / "metadata.jsonl").write_text("\n".join(lines))
    manifest = build_storydb(own_pictures, tmp_path / "c", small_settings, measures)
    pictures = [[group["pictures"] for group in groups] for groups in (expected, captioned, manifest["groups"])]
    assert pictures[0] == pictures[1] == pictures[2]
    assert [(drop["file"], drop["reason"]) for drop in manifest["drops"]] == [("ada/lost.png", "missing")]


def test_several_characters_whom_the_user_names(tmp_path, small_settings, measures):
    """The phrases need not be found; who is not in a picture has an empty mask and no words."""
    random, root = np.random.default_rng(8), tmp_path / "in"
    woman, robot = new_person(random, word="woman", hair="red"), new_person(random, word="robot", hair="white")
    both = {"people": (woman, robot), "names_hair": (True, True), "names_clothes": (False, False)}
    for number in range(3):
        write(root / "pair" / f"{number}.png", draw(replace(sample_plan(random, people=2), **both), random))
    write(root / "pair" / "3.png", draw(replace(new_plan(woman, random), names_clothes=(False,)), random))
    people = [
        {"name": "Mia", "word": "woman", "description": "a woman with red hair"},
        {"name": "Tin", "word": "robot", "description": "a robot with a white lamp"},
    ]
    (root / "pair" / "characters.json").write_text(json.dumps(people))
    settings = StoryDBSettings(**{**TOYWORLD_STORYDB, "least": 2, "most": 4, "agreement": 0.0})
    manifest = build_storydb(root, tmp_path / "db", settings, measures)
    (group,) = manifest["groups"]
    assert group["characters"] == people
    assert len(group["pictures"]) == 4
    files = read_files(tmp_path / "db" / group["file"])
    for picture in group["pictures"]:
        numbers = np.array(Image.open(io.BytesIO(files[f"{picture['key']}.mask.png"])))
        alone = picture["source"] == "pair/3.png"
        assert set(np.unique(numbers)) == ({0, 1} if alone else {0, 1, 2})
        tin = json.loads(files[f"{picture['key']}.json"])["characters"][1]
        assert (tin["phrase"] is None) == alone == (tin["words"] == [])


def test_wrong_folders_are_refused(own_pictures, tmp_path, small_settings, measures):
    with pytest.raises(ValueError, match="choose a folder outside"):
        build_storydb(own_pictures, own_pictures / "db", small_settings, measures)
    with pytest.raises(FileNotFoundError, match="no folder"):
        build_storydb(tmp_path / "nowhere", tmp_path / "db", small_settings, measures)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no pictures"):
        build_storydb(tmp_path / "empty", tmp_path / "db", small_settings, measures)
    with pytest.raises(FileNotFoundError, match="build-storydb"):
        read_storydb(tmp_path / "empty")
    (own_pictures / "ada" / "characters.json").write_text('[{"name": "Ada", "word": "boy", "description": "a girl"}]')
    with pytest.raises(ValueError, match='"boy" is not in "a girl"'):
        build_storydb(own_pictures, tmp_path / "db", small_settings, measures)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"least": 5, "most": 8}, "every larger folder can be divided"),
        ({"least": 1, "most": 8}, "least is 1; it must be 2 or more and at most 1000000"),
        ({"identity": 1.5}, "identity is 1.5; it must be -1 or more and at most 1"),
        ({"form": "zip"}, "tar, folder"),
        ({"words": ()}, "words is .*; it must be a list of 1 or more"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        StoryDBSettings(**changes)


@pytest.mark.parametrize("least", [2, 5])
def test_every_number_of_pictures_divides_into_permitted_groups(least):
    most = 2 * least - 1
    for count in range(least, 40):
        parts = -(-count // most)
        assert all(least <= len(range(part, count, parts)) <= most for part in range(parts))


def test_pictures_are_unharmed(own_pictures, tmp_path, small_settings, measures):
    before = {path: path.read_bytes() for path in own_pictures.rglob("*.*")}
    build_storydb(own_pictures, tmp_path / "db", small_settings, measures)
    assert {path: path.read_bytes() for path in own_pictures.rglob("*.*")} == before
