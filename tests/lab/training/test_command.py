"""`story-identity train-synchronizer`: from a settings file to a LoRA, and mistakes in one line each."""

import json
import shutil

import pytest
from PIL import Image
from story_identity.lab import cli
from story_identity.lab.storydb.reader import StoryDBReader
from story_identity.lab.storydb.shards import read_files, write_shard
from story_identity.lab.toyworld.world import sample_scene
from story_identity.lab.training import command as training_cli
from story_identity.lab.training.train_synchronizer import SynchronizerSettings
from typer.testing import CliRunner

from tests.headless.stories import STORY

from .test_settings import toml


@pytest.fixture
def options(toyworld_folder, tmp_path):
    """Settings for a moment in a toy world of random weights."""
    small = {"width": 32, "height": 32, "frames": 2, "steps": 2, "rank": 2, "save_every": 1}
    where = {"checkpoint": str(toyworld_folder), "data": "toyworld", "out": str(tmp_path / "out")}
    return {**where, **small, "warm_up": 0, "tracker": "", "device": "cpu"}


def call(tmp_path, values, *words, command="train-synchronizer"):
    (tmp_path / "mine.toml").write_text(toml(values))
    command = [command, str(tmp_path / "mine.toml"), *map(str, words)]
    return CliRunner().invoke(cli.app, command)


def test_from_settings_to_a_lora_and_pictures_on_the_way(options, tmp_path, monkeypatch):
    monkeypatch.setattr("story_identity.lab.training.sample_pictures._TOYWORLD", ("euler", "simple", 2, 4.0))
    story = tmp_path / "story.json"
    story.write_text(json.dumps({**STORY, "frames": STORY["frames"][:2]}))
    done = call(tmp_path, {**options, "draw_every": 1, "story": str(story)}, "--steps", 3, "--out", tmp_path / "there")
    assert done.exit_code == 0, done.output
    assert done.output.strip().endswith(f"What was learned is in {tmp_path / 'there' / 'synchronizer.safetensors'}")
    assert not (tmp_path / "out").exists()
    names = [f"step_{step:07d}.png" for step in (1, 2, 3)]
    drawn = [Image.open(tmp_path / "there" / "pictures" / name) for name in names]
    assert {each.size for each in drawn} == {(64, 32)}
    assert len({each.tobytes() for each in drawn}) == 3
    steps = [json.loads(line)["step"] for line in (tmp_path / "there" / "losses.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]


def test_an_injector_and_pictures_with_the_faces_of_reference_pictures(options, tmp_path, monkeypatch):
    """With and without references the pictures differ: the adapter acts while the story is drawn."""
    monkeypatch.setattr("story_identity.lab.training.sample_pictures._TOYWORLD", ("euler", "simple", 2, 4.0))
    Image.fromarray(sample_scene(3).image).save(tmp_path / "mira.png")
    drawn = []
    for references in (["mira.png"], []):
        mira = {**STORY["characters"][0], "reference_images": references}
        story = {"characters": [mira], "frames": ["Mira on a beach"]}
        (tmp_path / "story.json").write_text(json.dumps(story))
        out = tmp_path / f"out{len(references)}"
        changes = {
            "image_encoder": "toyworld",
            "tokens": 2,
            "resampler_heads": 2,
            "resampler_depth": 1,
            "out": str(out),
        }
        del (values := {**options, **changes, "draw_every": 1, "story": str(tmp_path / "story.json")})["rank"]
        done = call(tmp_path, values, "--steps", 1, command="train-injector")
        assert done.exit_code == 0, done.output
        assert (out / "injector.safetensors").is_file()
        drawn.append(Image.open(out / "pictures" / "step_0000001.png").tobytes())
    assert drawn[0] != drawn[1]


def test_stage_2_takes_what_stage_1_made_and_the_way_to_assign_references_from_the_command_line(options, tmp_path):
    sizes = {"image_encoder": "toyworld", "tokens": 2, "resampler_heads": 2, "resampler_depth": 1}
    values = {name: value for name, value in {**options, **sizes}.items() if name != "rank"}
    first, second = tmp_path / "first", tmp_path / "second"
    words = ["--steps", 1, "--references", "stacked", "--out"]
    done = call(tmp_path, values, *words, first, command="train-injector")
    assert done.exit_code == 0, done.output
    words += [second, "--start", first / "injector.safetensors"]
    done = call(tmp_path, {**values, "stage": 2}, *words, command="train-injector")
    assert done.exit_code == 0, done.output
    assert (second / "injector.safetensors").is_file()
    for stage, name, wrong in (
        (1, "references", "sideways"),
        (2, "synchronizer", "there_is_none"),
        (2, "start", "nor"),
    ):
        done = call(tmp_path, {**values, "stage": stage}, f"--{name}", wrong, command="train-injector")
        assert done.exit_code == 2
        assert wrong in done.output


def test_a_dry_run_says_what_a_step_takes_and_writes_nothing(options, tmp_path):
    done = call(tmp_path, {**options, "tracker": "tensorboard"}, "--dry-run")
    assert done.exit_code == 0, done.output
    assert done.output.strip().split()[1::2][0] == "parameters,"
    assert "s a step" in done.output
    assert done.output.strip().endswith("GiB")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"checkpoint": "nowhere"}, 'checkpoint: there is no "nowhere"'),
        ({"data": "."}, "is no StoryDB"),
        ({"tracker": "tensorbored"}, "tensorbored"),
    ],
)
def test_a_mistake_is_one_line_and_is_found_before_anything_is_loaded(options, tmp_path, monkeypatch, changes, said):
    monkeypatch.setattr(training_cli, "load_checkpoint", None)
    done = call(tmp_path, {**options, **changes})
    assert done.exit_code == 2
    assert said in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_storydb_is_read_at_the_size_that_is_trained(options, storydb):
    chosen = SynchronizerSettings(**{**options, "data": str(storydb), "seed": 4})
    source = training_cli.groups_of(chosen)
    assert isinstance(source, StoryDBReader)
    group = next(source.stream(0, 0, 1))
    assert group.pictures.shape == (2, 32, 32, 3)


def test_a_caption_that_is_too_long_is_found_before_the_first_step(options, storydb, tmp_path):
    copied = tmp_path / "db"
    shutil.copytree(storydb, copied)
    entry = json.loads((copied / "manifest.json").read_text(encoding="utf-8"))["groups"][1]
    files, key = read_files(copied / entry["file"]), entry["pictures"][0]["key"]
    assert read_files(copied / entry["file"], ".txt") == {
        name: each for name, each in files.items() if name.endswith(".txt")
    }
    write_shard(copied / entry["file"], {**files, f"{key}.txt": b"a girl in the snow and " * 20})
    done = call(tmp_path, {**options, "data": str(copied)})
    assert done.exit_code == 2
    said = " ".join(done.output.split())
    assert f"The caption of {entry['pictures'][0]['source']}: the prompt has" in said
    assert "build-storydb --tokenizer" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_name_that_comes_with_the_pack_goes_on_when_it_is_called_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for steps in (1, 2):
        done = CliRunner().invoke(cli.app, ["train-synchronizer", "toyworld_synchronizer", "--steps", str(steps)])
        assert done.exit_code == 0, done.output
    lines = (tmp_path / "toyworld_synchronizer" / "losses.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_one_help_lists_all_commands_and_each_has_its_own():
    commands = ["run", "discover", "redenoise", "demo", "models", "train-synchronizer", "train-injector"]
    shown = CliRunner().invoke(cli.app, ["--help"], env={"COLUMNS": "120"}).output
    for name in [*commands, "build-storydb"]:
        assert f" {name} " in shown, shown
        own = CliRunner().invoke(cli.app, [name, "--help"], env={"COLUMNS": "120"})
        assert (own.exit_code, own.output.count("Usage:")) == (0, 1), own.output
    assert "SOURCE" in CliRunner().invoke(cli.app, ["build-storydb", "--help"]).output
    assert all(name in CliRunner().invoke(cli.app, ["models", "--help"]).output for name in ("list", "check", "downl"))


def test_a_mistake_in_a_storydb_is_one_line(tmp_path):
    done = CliRunner().invoke(cli.app, ["build-storydb", str(tmp_path), "--out", str(tmp_path / "db"), "--set", "x=1"])
    assert (done.exit_code, len(done.output.strip().splitlines())) == (2, 1)
    assert '--set takes NAME=VALUE, not "x=1"' in done.output
