"""Manifests with anything wrong at any place: one clear error that names it, or a valid run; old ones go on loading."""

import copy
import json
import random

import pytest
from story_identity.headless.continuing import check_continuing, check_overwriting
from story_identity.headless.run_folder import Extent, RunFolder, story_of
from story_identity.headless.run_settings import settings_of, toyworld_settings

from .stories import story

CASES = 900
TOLD = story()


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """With files that are quickly read, since nothing is drawn."""
    folder = tmp_path_factory.mktemp("weights")
    for name in ("unet", "vae", "text_encoder", "photomaker", "detector"):
        (folder / f"{name}.safetensors").write_text("weights")
    return toyworld_settings(checkpoint=str(folder), portraits=8, rank=1, rounds=1)


@pytest.fixture(scope="module")
def manifest(settings, tmp_path_factory):
    return RunFolder(tmp_path_factory.mktemp("none")).describe(TOLD, settings)


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def places_of(content, way=()):
    """The way to every value in parsed JSON."""
    yield way
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from places_of(value, (*way, key))


def nested(depth):
    content = []
    for _ in range(depth):
        content = [content]
    return content


STRANGE = [None, True, False, 0, -1, 1, 3.5, -0.0, 1e308, float("inf"), float("nan"), 10**30, 2**64, [], [[]], {}]
STRANGE += [
    "",
    "x",
    "\ud83d",
    "\x1b[31m",
    "[/]",
    "a\nb",
    "long " * 2000,
    "\u202e",
    "💥",
    "..",
    "../../x",
    "\x00",
    "CON",
]
STRANGE += [
    [None],
    [1, 2],
    [2, 1],
    [0, 10**12],
    ["a", "b"],
    {"a": 1},
    {"name": 1},
    [{}] * 50,
    nested(50),
    [["a", "inf"]],
]


def changed(manifest, chosen):
    """The manifest with one to three changes: a value replaced, a key left out or renamed, an item doubled."""
    content = copy.deepcopy(manifest)
    for _ in range(chosen.choice((1, 1, 1, 2, 3))):
        way = chosen.choice([each for each in places_of(content) if each and each[0] != "format"])
        parent = content
        for key in way[:-1]:
            parent = parent[key]
        kind = chosen.choice(("replace", "replace", "replace", "drop", "rename", "double"))
        if kind == "replace":
            parent[way[-1]] = copy.deepcopy(chosen.choice(STRANGE))
        elif kind == "drop":
            del parent[way[-1]]
        elif kind == "rename" and isinstance(parent, dict):
            parent[chosen.choice(["", "\ud83d", "x" * 5000, "checkpoint", "prompt"])] = parent.pop(way[-1])
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(parent[way[-1]]))
    return content


def use(folder, settings):
    """Everything that reads a manifest; each is a value, or an error of which the text comes back."""
    said = []

    def attempt(read):
        try:
            return read()
        except (ValueError, FileNotFoundError) as error:
            said.append(str(error))

    found = attempt(folder.read_manifest)
    if found is not None:
        attempt(lambda: story_of(found))
        attempt(lambda: settings_of(found))
        list(folder.files(Extent.listed(found)))
    attempt(lambda: check_continuing(folder, TOLD, settings))
    attempt(lambda: check_overwriting(folder, TOLD, settings))
    return said


def is_clear(text):
    text.encode("utf-8")
    assert len(text) < 1500
    assert text.isprintable(), text
    assert "Traceback" not in text
    return True


@pytest.mark.slow
def test_wrong_values_anywhere_end_in_one_clear_error_or_a_valid_run(folder, manifest, settings):
    chosen, refused = random.Random(11), 0
    for _ in range(CASES):
        content = changed(manifest, chosen)
        folder.manifest.write_text(json.dumps(content))
        said = use(folder, settings)
        assert all(map(is_clear, said)), content
        refused += bool(said)
    assert refused > CASES / 2


def test_files_that_are_cut_or_garbled_end_in_one_clear_error(folder, manifest, settings):
    chosen, content = random.Random(12), json.dumps(manifest, indent=1).encode()
    for _ in range(150):
        garbled = bytearray(content)
        for _ in range(chosen.randrange(1, 4)):
            garbled[chosen.randrange(len(garbled))] = chosen.randrange(256)
        folder.manifest.write_bytes(garbled[: chosen.randrange(len(garbled) + 1)])
        assert all(map(is_clear, use(folder, settings)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "manifest.json is not valid JSON"),
        ('{"format": ' + "9" * 5000 + "}", "manifest.json is not valid JSON"),
        ('{"format": "story-identity-run/1", "format": "story-identity-run/1"}', 'a key is there twice: "format"'),
        ('"text"', "manifest.json is not the manifest of a run; choose another folder"),
        ('{"format": "story-identity-run/1"}', 'manifest.json is damaged at "characters": Field required'),
    ],
)
def test_what_is_no_manifest_is_said_by_its_path(folder, text, said):
    folder.manifest.write_text(text)
    with pytest.raises(ValueError, match=said):
        folder.read_manifest()


@pytest.mark.parametrize(
    ("way", "value", "said"),
    [
        (("settings", "steps"), "fifty", '"settings > steps".*integer.*It is "fifty"'),
        (("settings", "cfg"), [7], r'"settings > cfg".*finite number.*It is \[7\]'),
        (("settings", "portraits"), 10**9, '"settings > portraits".*less than or equal to 1024'),
        (("places", "loras"), [["a.safetensors", "1"]], '"places > loras > 1 > 2".*finite number.*It is "1"'),
        (("characters", 1, "name"), 3, '"characters > 2 > name".*string.*It is 3'),
        (("characters", 1, "name"), "Mira", "different names"),
        (("frames", 1, "cast"), ["Mira", "Anna"], 'which "Anna" is not'),
        (("frames", 1, "word_spans"), [], '"frames > 2".*one word span'),
        (("frames", 0, "word_spans"), [[5, 500]], '"frames > 1".*5 to 500'),
        (("frames", 0, "seed"), True, '"frames > 1 > seed".*integer.*It is True'),
    ],
)
def test_the_error_names_the_place_the_value_and_what_belongs_there(folder, manifest, way, value, said):
    content = copy.deepcopy(manifest)
    parent = content
    for key in way[:-1]:
        parent = parent[key]
    parent[way[-1]] = value
    folder.manifest.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"manifest.json is damaged .*{said}"):
        folder.read_manifest()


def test_a_manifest_saved_by_a_windows_editor_is_read(folder, manifest):
    folder.manifest.write_text(json.dumps(manifest), encoding="utf-8-sig")
    assert folder.read_manifest() == manifest


def test_manifests_of_the_first_version_go_on_loading(folder, manifest, settings):
    """They had no `telling_words`, and kept the detector with the settings."""
    old = copy.deepcopy(manifest)
    for frame in old["frames"]:
        del frame["telling_words"]
    del old["places"]["detector"]
    old["settings"]["detector"] = "toyworld"
    del old["settings"]["threads"]  # as if it had come later
    folder.manifest.write_text(json.dumps(old))
    told = story_of(folder.read_manifest())
    assert [frame.prompt for frame in told.frames] == [frame.prompt for frame in TOLD.frames]
    assert [tuple(each.class_word for each in frame.appearances) for frame in told.frames] == [
        tuple(each.class_word for each in frame.appearances) for frame in TOLD.frames
    ]
    assert settings_of(old, detector="toyworld") == settings
    old["settings"]["detector"] = manifest["settings"]["detector"]
    folder.manifest.write_text(json.dumps(old))
    check_continuing(folder, TOLD, settings)
