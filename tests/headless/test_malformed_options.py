"""Options with any value: one clear error, which names the option and the value before anything is loaded, or a run."""

import dataclasses
import json
import random

import pytest
from story_identity.headless import cli
from story_identity.headless import run as run_module
from story_identity.headless.run_folder import RunFolder
from story_identity.headless.run_settings import RunSettings
from typer.testing import CliRunner

from .stories import STORY

CASES = 500
NUMBERS = [
    "0",
    "-1",
    "1",
    "8",
    "9",
    "64",
    "0.5",
    "nan",
    "inf",
    "-inf",
    "1e308",
    "1e400",
    "9" * 20,
    "9" * 400,
    "9" * 5000,
]
WORDS = [
    "",
    "x",
    "cuda",
    "cuda:99",
    "meta",
    "cpu:7",
    "mps",
    "none",
    "euler",
    "toyworld",
    "float64",
    "{character}",
    "..",
    "/",
]
WORDS += [
    "\udcff",
    "\x1b[31m",
    "[/]",
    "a\nb",
    "long " * 2000,
    "🖌",
    "=",
    "Mira=",
    "Mira=x",
    "x.safetensors:nan",
    "\u202e",
]
SWITCHES = ["--soft-edge", "--together", "--same-character"]
PAIRS = [f"{__file__}:{strength}" for strength in ("inf", "nan", "1e300", "2", "-0.5")]


@pytest.fixture
def finished(monkeypatch, tmp_path):
    """The settings of runs that would have begun."""
    settings = []

    def run_story(story, chosen, out, **rest):
        settings.append(chosen)
        return RunFolder(out)

    monkeypatch.setattr(run_module, "run_story", run_story)
    (tmp_path / "story.json").write_text(json.dumps(STORY))
    return settings


def call(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def flags():
    repeated = {"loras": "--lora", "identities": "--identity"}
    return [repeated.get(each.name, f"--{each.name.replace('_', '-')}") for each in dataclasses.fields(RunSettings)]


@pytest.mark.slow
def test_any_values_end_in_settings_or_in_one_clear_error(finished, tmp_path):
    chosen, refused = random.Random(21), 0
    for _ in range(CASES):
        options = []
        for flag in chosen.sample(flags(), chosen.choice((1, 1, 2, 4))):
            options += [flag] if flag in SWITCHES else [flag, chosen.choice(NUMBERS + WORDS + PAIRS)]
        out = chosen.choice(["out", "out", "out", "", ".", "\udcff", "story.json"])
        began = [] if "--checkpoint" in options else ["--checkpoint", "toyworld"]
        ready = len(finished)
        done = call("run", tmp_path / "story.json", "--out", out and tmp_path / out, *began, *options)
        assert done.exception is None or isinstance(done.exception, SystemExit), (options, done.exc_info)
        assert done.exit_code == (2 if len(finished) == ready else 0), (options, done.output)
        refused += done.exit_code == 2
        assert "Traceback" not in done.output
        assert len(done.output) < 4500, options
        assert not set(done.output) & set("\x1b\u202e\udcff"), (options, done.output)
    assert CASES / 2 < refused < CASES


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-kernel", "inf"], "max_kernel is inf; it must be from 0 to 1024."),
        (["--dilate", "1e300"], "dilate is 1e+300; it must be from 0 to 1024."),
        (["--dilate", "nan"], "dilate is nan; it must be from 0 to 1024."),
        (["--width", "8000000000000"], "width is 8000000000000; it must be from 8 to 8192."),
        (["--height", "9" * 30], f"height is {'9' * 30}; it must be from 8 to 8192."),
        (["--cfg", "inf"], "cfg is inf; it must be from 0 to 100."),
        (["--rounds", "99999999999999999999"], "rounds is 99999999999999999999; it must be at most 100."),
        (["--portraits", "1000000000"], "portraits is 1000000000; it must be from 1 to 1024."),
        (["--threads", "100000"], "threads is 100000; it must be from 1 to 256."),
        (["--device", ""], 'device is ""; use "cpu" or "cuda".'),
        (["--device", "gpu"], 'device is "gpu"; use "cpu" or "cuda".'),
        (["--device", "meta"], 'device is "meta"; use "cpu" or "cuda".'),
        (["--device", "cpu:3"], 'device is "cpu:3", but the last cpu device here is number 0.'),
        (["--lora", f"{__file__}:inf"], f'The strength of the LoRA "{__file__}" is inf; it must be from -100 to 100.'),
        (["--portrait-negative", "\udcff"], 'portrait_negative is "\\udcff", which is no text in UTF-8 and cannot be'),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name_value_and_bounds(finished, tmp_path, options, said):
    done = call("run", tmp_path / "story.json", "--out", tmp_path / "out", "--checkpoint", "toyworld", *options)
    assert (done.exit_code, finished) == (2, [])
    assert done.output.startswith(said), done.output
    assert len(done.output.splitlines()) == 1


@pytest.mark.parametrize("command", [["run", "STORY"], ["discover", "STORY"], ["redenoise", "STORY"], ["demo"]])
def test_an_empty_out_is_refused(finished, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    words = [tmp_path / "story.json" if word == "STORY" else word for word in command]
    toyworld = [] if command == ["demo"] else ["--checkpoint", "toyworld"]
    done = call(*words, "--out", "", *toyworld)
    assert done.exit_code == 2, done.output
    assert "it is empty; give a path" in done.output
    assert finished == []
    assert [each.name for each in tmp_path.iterdir()] == ["story.json"]


def test_an_empty_story_is_refused(finished, tmp_path):
    done = call("run", "", "--out", tmp_path / "out", "--checkpoint", "toyworld")
    assert (done.exit_code, finished) == (2, [])
    assert "it is empty" in done.output
