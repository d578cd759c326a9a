"""What users' folders hold: text files of Windows, links, odd names, damaged descriptions."""

import json
import os
import random
from pathlib import Path

import pytest
from PIL import Image
from story_identity.lab.storydb.sources import find_sources, parse_json


@pytest.fixture
def root(tmp_path):
    """Two pictures of Mia and one that is loose, with captions."""
    for name in ("mia/0.png", "mia/1.png", "loose.png"):
        add(tmp_path / "in" / name)
    return tmp_path / "in"


def add(path, caption="a tall woman at home"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((8, 8), 60).save(path)
    if caption:
        path.with_suffix(".txt").write_bytes(caption if isinstance(caption, bytes) else caption.encode())


def found(root):
    """Files and reasons of everything that is left out, by source; the loose pictures' is ""."""
    sources, loose = find_sources(root)
    parts = {each.name: each for each in [*sources, *([loose] if loose else [])]}
    files = {name: list(each.files) for name, each in parts.items() if each.files}
    refused = {file: why.reason for each in parts.values() for file, why in each.refused.items()}
    return parts, files, refused


def test_byte_order_marks_and_line_ends_of_windows(root):
    mark = b"\xef\xbb\xbf"
    add(root / "mia" / "0.png", mark + b"a tall woman\r\nat home\r\n")
    add(root / "mia" / "2.png", None)
    line = json.dumps({"file_name": "2.png", "text": "a tall woman at sea"})
    (root / "mia" / "metadata.jsonl").write_bytes(mark + line.encode() + b"\r\n\r\n")
    people = [{"name": "Mia", "word": "woman", "description": "a tall woman"}]
    (root / "mia" / "characters.json").write_bytes(mark + json.dumps(people).encode())
    parts, _, refused = found(root)
    assert refused == {}
    assert parts["mia"].captions["mia/0.png"] == "a tall woman at home"
    assert parts["mia"].captions["mia/2.png"] == "a tall woman at sea"
    assert [person.name for person in parts["mia"].characters] == ["Mia"]


@pytest.mark.parametrize(
    ("caption", "reason", "detail"),
    [
        ("a café with a woman".encode("cp1252"), "unreadable caption", "0.txt is not UTF-8 text (invalid continuation"),
        ("a woman".encode("utf-16"), "unreadable caption", "0.txt is not UTF-8 text (invalid start byte); save it"),
        (b"a woman " * 10_000, "caption too long", "0.txt has more than 65,536 bytes"),
    ],
)
@pytest.mark.parametrize("folder", ["mia", "."])
def test_one_bad_caption_is_one_picture_that_is_left_out(root, caption, reason, detail, folder):
    add(root / folder / "0.png", caption)
    parts, files, refused = found(root)
    file = (Path(folder) / "0.png").as_posix()
    assert refused == {file: reason}
    assert file not in files[folder.strip(".")]
    assert detail in parts[folder.strip(".")].refused[file].detail
    assert "mia/1.png" in files["mia"]


@pytest.mark.parametrize("name", ["metadata.jsonl", "characters.json"])
@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_a_description_in_another_encoding_is_named(root, name, encoding):
    entry = {"file_name": "0.png", "text": "café", "name": "café", "word": "woman", "description": "a woman"}
    text = json.dumps([entry] if name == "characters.json" else entry, ensure_ascii=False)
    (root / "mia" / name).write_bytes(text.encode(encoding))
    with pytest.raises(ValueError, match=f"{name}.* is not UTF-8 text .*; save .* again as UTF-8") as caught:
        find_sources(root)
    assert "mia" in str(caught.value)


def test_links_that_stay_inside_are_followed_and_the_others_told(root, tmp_path):
    add(tmp_path / "elsewhere" / "0.png")
    links = {
        "tom": root / "mia", "abroad": tmp_path / "elsewhere", "lost": root / "nowhere", "mia/round": root,
        "mia/2.png": root / "mia" / "0.png", "mia/3.png": tmp_path / "elsewhere" / "0.png", "itself": root / "itself",
        "4.png": root / "mia" / "1.png", "mia/again": root / "mia",
    }  # fmt: skip
    for name, target in links.items():
        (root / name).symlink_to(target)
    _, files, refused = found(root)
    assert files["mia"] == ["mia/0.png", "mia/1.png", "mia/2.png"]
    assert files["tom"] == ["tom/0.png", "tom/1.png", "tom/2.png"]
    assert files[""] == ["4.png", "loose.png"]
    assert refused == {
        "abroad": "link outside", "lost": "broken link", "itself": "broken link", "mia/3.png": "link outside",
        "mia/round": "link in a circle", "mia/again": "link in a circle", "tom/3.png": "link outside",
        "tom/round": "link in a circle", "tom/again": "link in a circle",
    }  # fmt: skip


def test_a_caption_behind_a_link_that_leads_outside_is_not_read(root, tmp_path):
    (tmp_path / "secret.txt").write_text("a secret")
    (root / "mia" / "0.txt").unlink()
    (root / "mia" / "0.txt").symlink_to(tmp_path / "secret.txt")
    parts, files, refused = found(root)
    assert files["mia"] == ["mia/1.png"]
    assert refused == {"mia/0.txt": "link outside", "mia/0.png": "unreadable caption"}
    assert not any("a secret" in str(each) for each in parts.values())


def test_a_folder_of_links_that_all_lead_outside_says_so(tmp_path):
    add(tmp_path / "elsewhere" / "0.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "mia").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match='no pictures in .*Left out are "mia", links that lead outside'):
        find_sources(tmp_path / "in")


def test_the_folder_itself_may_be_a_link(root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    assert found(tmp_path / "link")[1] == found(root)[1]


def test_names_that_are_not_utf8_are_left_out_and_can_be_printed(root):
    path = os.fsencode(root / "mia") + b"/\xff.png"
    with open(path, "wb") as file:
        file.write((root / "mia" / "0.png").read_bytes())
    _, files, refused = found(root)
    assert files["mia"] == ["mia/0.png", "mia/1.png"]
    assert refused == {"mia/\\udcff.png": "name not UTF-8"}


def test_a_folder_that_may_not_be_read_is_told(root, monkeypatch):
    listed = os.listdir

    def refuse(folder):
        if Path(folder).name == "mia":
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(os, "listdir", refuse)
    parts, files, refused = found(root)
    assert (files, refused) == ({"": ["loose.png"]}, {"mia": "unreadable folder"})
    assert parts[""].refused["mia"].detail == "Permission denied"


def test_what_metadata_names_and_is_not_there_is_told_wherever_it_would_be(root):
    names = ("mia/lost.png", "ghost/0.png", "gone.png", "mia\\0.png", "mia/0.txt")
    lines = [json.dumps({"file_name": name, "text": "a woman"}) for name in names]
    (root / "metadata.jsonl").write_text("\n".join(lines))
    _, files, refused = found(root)
    lost = ("mia/lost.png", "ghost/0.png", "gone.png", "mia/0.txt")
    assert refused == dict.fromkeys(lost, "missing")
    assert files["mia"] == ["mia/0.png", "mia/1.png"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../0.png", "/0.png", "C:\\0.png", "a/../../0.png", "\\0.png", "a\0.png"]
)
def test_metadata_names_nothing_above_its_folder(root, name):
    (root / "mia" / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "a woman"}))
    with pytest.raises(ValueError, match="metadata.jsonl, line 1: .*file_name is a path below"):
        find_sources(root)


VALUES = (
    None,
    True,
    3,
    1e400,
    "",
    " ",
    [],
    {},
    [[]],
    ["a"],
    {"a": 1},
    "woman",
    "a woman",
    "\ud800",
    "\0\x1b[31m",
    "x" * 99_999,
)


def _malformed(chance, keys):
    entry = {key: chance.choice(("woman", "a woman", "0.png")) for key in keys}
    for _ in range(chance.randrange(1, 3)):
        entry[chance.choice([*keys, "other"])] = chance.choice(VALUES)
    if chance.random() < 0.3:
        entry.pop(chance.choice(list(entry)))
    text = json.dumps(chance.choice([entry, [entry], [entry, entry], *VALUES, [[entry]]]))
    shapes = (
        text,
        text,
        text,
        text[: chance.randrange(len(text) + 1)],
        text.replace("{", '{"word": "a", "word": "b", ', 1),
    )
    return chance.choice((*shapes, "[" * 30_000, '{"a":' * 30_000, text + text))


@pytest.mark.parametrize(
    ("name", "keys"), [("metadata.jsonl", ("file_name", "text")), ("characters.json", ("name", "word", "description"))]
)
def test_malformed_descriptions_end_in_one_clear_error(root, name, keys):
    chance, said = random.Random(name), []
    for _ in range(200):
        (root / "mia" / name).write_text(_malformed(chance, keys))
        try:
            find_sources(root)
        except ValueError as error:
            said.append(str(error))
    assert len(said) > 120
    assert max(map(len, said)) < 1500
    assert all(name in each and each.isprintable() for each in said)


def test_keys_given_twice():
    assert parse_json('{"a": 1, "b": {"a": 2}}') == {"a": 1, "b": {"a": 2}}
    with pytest.raises(ValueError, match="twice"):
        parse_json('[{"a": 1, "a": 2}]')
