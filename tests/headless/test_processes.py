"""Runs that are stopped: killed at any moment, they come to the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from .stories import STORY, contents, options_of, settings

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def start(weights, out):
    """The test story in a process of its own, whose lines can be read."""
    command = [sys.executable, "-m", "tests.headless.run_once", weights, out]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process):
    printed, errors = process.communicate(timeout=800)
    assert process.returncode == 0, errors
    return printed.splitlines()


def wait_for_lines(process, count):
    """Read so many lines of progress; fewer if the process ends first."""
    return [line for line, _ in zip(process.stdout, range(count), strict=False)]


@pytest.fixture(scope="module")
def uninterrupted(toyworld_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    lines = finish(start(toyworld_folder, out))
    return contents(out), len(lines)


@pytest.mark.slow
def test_killed_at_random_moments_it_comes_to_the_same_bytes(toyworld_folder, tmp_path, uninterrupted):
    whole, length = uninterrupted
    moments = random.Random(1)
    for _ in range(2):
        process = start(toyworld_folder, tmp_path)
        wait_for_lines(process, moments.randrange(1, length))
        time.sleep(moments.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(start(toyworld_folder, tmp_path))
    assert contents(tmp_path) == whole


@pytest.mark.slow
def test_stopped_by_hand_the_command_says_so_and_can_go_on(toyworld_folder, tmp_path, uninterrupted):
    """With the masks of the whole run, so that the pictures must be the same as there."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    for name, content in uninterrupted[0].items():
        (whole / name).parent.mkdir(parents=True, exist_ok=True)
        (whole / name).write_bytes(content)
    (tmp_path / "story.json").write_text(json.dumps(STORY))
    chosen = settings(toyworld_folder, detector="none", masks=str(whole / "masks"))
    words = ["run", tmp_path / "story.json", "--out", out, *options_of(chosen)]
    command = [sys.executable, "-m", "story_identity.headless", *map(str, words)]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background job starts deaf to Ctrl-C
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    while not (out / "template" / "frame_0001.png").is_file() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert errors.strip().splitlines()[-1].startswith("Stopped.")
    assert "Traceback" not in errors
    assert not [name for name in contents(out) if name.endswith(".tmp")]
    assert not (out / "frame_0004.png").exists()
    subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=True, timeout=800)
    for number in (1, 2, 3, 4):
        one, two = (Image.open(folder / f"frame_{number:04d}.png") for folder in (out, whole))
        assert one.tobytes() == two.tobytes()
