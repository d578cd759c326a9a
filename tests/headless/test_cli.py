"""The command line: its options are the settings, its mistakes one line each."""

import dataclasses
import json
import shutil

import pytest
from PIL import Image
from story_identity.core.identity import Identity
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.headless import cli
from story_identity.headless.run import run_story
from story_identity.headless.run_settings import RunSettings
from typer.testing import CliRunner

from .stories import STORY, PlaceDetector, contents, options_of, settings, story


@pytest.fixture
def story_file(tmp_path):
    path = tmp_path / "story.json"
    path.write_text(json.dumps(STORY))
    return str(path)


@pytest.fixture(scope="module")
def finished(toyworld_folder, tmp_path_factory):
    frames = STORY["frames"][:2]
    out = tmp_path_factory.mktemp("run")
    return run_story(story(frames), settings(toyworld_folder), out, detector=PlaceDetector()).root


def call(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def test_every_setting_is_an_option_that_arrives(monkeypatch, story_file, tmp_path):
    arrived = []

    def settings_from(given):
        arrived.append(given)
        raise ValueError("heard")

    monkeypatch.setattr(cli, "settings_from", settings_from)
    values = {bool: True, int: 11, float: 1.5, str: "word"}
    words, expected = [], {}
    for each in dataclasses.fields(RunSettings):
        flag = {"loras": "--lora", "identities": "--identity"}.get(each.name, f"--{each.name.replace('_', '-')}")
        if isinstance(each.default, tuple):
            value = ["a=b", "c=d"]
            words += [flag, "a=b", flag, "c=d"]
        elif each.type is bool:
            value = True
            words += [flag]
        else:
            value = values[float if "float" in str(each.type) else each.type]
            words += [flag, str(value)]
        expected[each.name] = value
    done = call("run", story_file, "--out", tmp_path / "out", *words)
    assert arrived == [expected], done.output
    assert (done.exit_code, done.output) == (2, "heard\n")


def test_options_that_are_not_given_leave_the_toy_worlds_defaults(tmp_path):
    pair = f"Mira={__file__}"
    chosen = cli.settings_from({"checkpoint": "toyworld", "steps": 20, "identities": [pair], "loras": [__file__]})
    assert (chosen.width, chosen.steps, chosen.cfg) == (TOY_WORLD.picture_side, 20, 4.0)
    assert chosen.identities == (("Mira", __file__),)
    assert chosen.loras == ((__file__, 1.0),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("style.safetensors", ("style.safetensors", 1.0)), ("a/s.safetensors:-0.5", ("a/s.safetensors", -0.5))]
    + [("C:/x.safetensors", ("C:/x.safetensors", 1.0)), ("C:/x.safetensors:2", ("C:/x.safetensors", 2.0))],
)
def test_a_lora_and_its_strength(tmp_path, text, expected):
    with pytest.raises(FileNotFoundError, match=expected[0]):
        cli.settings_from({"checkpoint": "toyworld", "loras": [text]})
    assert cli._lora(text) == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Which checkpoint"),
        (["--checkpoint", "nowhere", "--photomaker", "toyworld"], 'checkpoint: there is no "nowhere"'),
        (["--checkpoint", __file__], "Which PhotoMaker"),
        (["--checkpoint", "toyworld", "--start", "50"], "start is 50"),
        (["--checkpoint", "toyworld", "--identity", "Mira"], "--identity takes NAME=FILE"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(story_file, tmp_path, words, said):
    done = call("run", story_file, "--out", tmp_path / "out", *words)
    assert done.exit_code == 2
    assert said in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_a_missing_story_is_one_line(tmp_path):
    done = call("run", tmp_path / "none.json", "--out", tmp_path / "out", "--checkpoint", "toyworld")
    assert (done.exit_code, len(done.output.strip().splitlines())) == (2, 1)
    assert "no story file" in done.output


@pytest.mark.slow
def test_a_run_from_the_command_line_is_the_run(story_file, finished, toyworld_folder, tmp_path):
    given = ["--masks", finished / "masks"]
    chosen = settings(toyworld_folder, detector="none")
    (tmp_path / "story.json").write_text(json.dumps({**STORY, "frames": STORY["frames"][:2]}))
    done = call("run", story_file, "--out", tmp_path / "out", *options_of(chosen), *given)
    assert done.exit_code == 0, done.output
    assert str(tmp_path / "out") in done.output
    for name in ("frame_0001.png", "frame_0002.png"):
        assert Image.open(tmp_path / "out" / name).tobytes() == Image.open(finished / name).tobytes()


@pytest.mark.slow
def test_discover_saves_what_a_run_finds(story_file, finished, toyworld_folder, tmp_path):
    out = tmp_path / "tom.safetensors"
    done = call("discover", story_file, "--character", "Tom", "--out", out, *options_of(settings(toyworld_folder)))
    assert done.exit_code == 0, done.output
    assert out.read_bytes() == (finished / "identities" / "Tom.safetensors").read_bytes()
    assert Identity.load(out).name == "Tom"


def test_discover_needs_no_name_where_there_is_one_character(toyworld_folder, tmp_path):
    story, out = tmp_path / "alone.json", tmp_path / "alone.safetensors"
    story.write_text(json.dumps({**STORY, "characters": STORY["characters"][:1], "frames": ["a beach"]}))
    done = call("discover", story, "--out", out, *options_of(settings(toyworld_folder)))
    assert done.exit_code == 0, done.output
    assert Identity.load(out).name == STORY["characters"][0]["name"]


def test_who_is_in_no_frame_is_told(toyworld_folder, tmp_path):
    story = tmp_path / "nobody.json"
    story.write_text(json.dumps({**STORY, "frames": ["a beach"]}))
    done = call("run", story, "--out", tmp_path / "out", *options_of(settings(toyworld_folder)))
    for character in STORY["characters"]:
        assert f'"{character["name"]}" is in no frame' in done.output


@pytest.mark.slow
def test_redenoising_with_the_same_settings_gives_the_same_and_with_others_not(finished, tmp_path):
    assert call("redenoise", finished, "--out", tmp_path / "same").exit_code == 0
    later = call("redenoise", finished, "--out", tmp_path / "later", "--start", "3")
    assert later.exit_code == 0, later.output
    name = "frame_0002.png"
    pictures = [Image.open(folder / name).tobytes() for folder in (finished, tmp_path / "same", tmp_path / "later")]
    assert pictures[0] == pictures[1] != pictures[2]
    assert (tmp_path / "later" / "template" / name).is_file()
    assert call("redenoise", tmp_path, "--out", tmp_path / "x").exit_code == 2


@pytest.mark.slow
def test_painted_masks_count_when_redenoising(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    mask = tmp_path / "run" / "masks" / "frame_0001.png"
    Image.new("L", (TOY_WORLD.picture_side,) * 2).save(mask)
    assert call("redenoise", tmp_path / "run", "--out", tmp_path / "out").exit_code == 0
    frame, template = (Image.open(tmp_path / "out" / place) for place in ("frame_0001.png", "template/frame_0001.png"))
    assert frame.tobytes() == template.tobytes()


def test_redenoising_into_the_run_itself_deletes_nothing(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    before = contents(tmp_path / "run")
    done = call("redenoise", tmp_path / "run", "--out", tmp_path / "run", "--overwrite", "--start", "3")
    assert done.exit_code == 2, done.output
    assert "--overwrite would delete what this run is to read" in done.output
    assert contents(tmp_path / "run") == before


@pytest.mark.slow
def test_a_painted_mask_is_kept_and_what_uses_it_is_said(story_file, finished, toyworld_folder, tmp_path):
    chosen = settings(toyworld_folder, detector="none")
    words = ["run", story_file, "--out", tmp_path / "out", *options_of(chosen), "--masks", finished / "masks"]
    (tmp_path / "story.json").write_text(json.dumps({**STORY, "frames": STORY["frames"][:2]}))
    assert call(*words).output.strip() == f"The story is in {tmp_path / 'out'}"
    Image.new("L", (TOY_WORLD.picture_side,) * 2).save(tmp_path / "out" / "masks" / "frame_0001.png")
    done = call(*words)
    assert done.exit_code == 0, done.output
    assert "masks/frame_0001.png was painted in: it is kept, but not used here. `redenoise` uses it." in done.output


@pytest.mark.parametrize("name", ["folder", "story.json"])
def test_an_identity_is_not_written_over_something_else(story_file, tmp_path, toyworld_folder, monkeypatch, name):
    monkeypatch.setattr("story_identity.headless.studio.open_studio", None)
    (tmp_path / "folder").mkdir()
    before = contents(tmp_path)
    words = ["discover", story_file, "--character", "Tom", *options_of(settings(toyworld_folder))]
    done = call(*words, "--out", tmp_path / name)
    assert done.exit_code == 2, done.output
    assert name in done.output
    assert contents(tmp_path) == before


def test_models_hands_its_words_on(tmp_path):
    done = call("models", "list", "--models-dir", tmp_path)
    assert done.exit_code == 0
    assert call("models", "download", "nothing-of-the-kind", "--models-dir", tmp_path).exit_code == 1
