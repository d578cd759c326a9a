"""Ctrl-C and SIGTERM at any moment: one line, exit status 130 or 143, and the same command goes on."""

import json
import signal
import subprocess
import sys
import threading

import pytest
from PIL import Image
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.headless.run_files import frame_file
from story_identity.headless.stopping import Terminated, exit_status, stoppable

from .stories import STORY, contents, options_of, settings
from .test_processes import ENVIRONMENT, ROOT

STOPPED = "Stopped. What is finished stays; the same command continues from there."
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


def begin(command, *python):
    """The command, in which signals have their usual effect (a shell's background job is deaf to Ctrl-C)."""

    def hear():
        for number, _ in SIGNALS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    words = [sys.executable, *python, "-m", "story_identity.headless", *map(str, command)]
    return subprocess.Popen(words, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, preexec_fn=hear)


def wait_for(process, word):
    """Read lines of errors until one has the word."""
    for line in process.stderr:
        if word in line:
            return


@pytest.mark.parametrize(
    ("module", "number", "status"),
    [
        ("typer", *SIGNALS[0]),
        ("torch._C", *SIGNALS[1]),
        ("torch.nn", *SIGNALS[0]),
        ("transformers.utils", *SIGNALS[1]),
        ("diffusers.utils", *SIGNALS[0]),
    ],
)
@pytest.mark.slow
def test_a_stop_while_modules_are_loaded_is_one_line(tmp_path, module, number, status):
    """`-X importtime` says which module was loaded last."""
    process = begin(["demo", "--out", tmp_path / "demo"], "-X", "importtime")
    wait_for(process, f"| {module}" if "." not in module else module)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    said = [line for line in errors.splitlines() if not line.startswith("import time:")]
    assert (process.returncode, said) == (status, [STOPPED])
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_sigterm_while_frames_are_drawn_is_one_line_and_the_run_goes_on_to_the_same_bytes(tmp_path, toyworld_folder):
    """Ctrl-C is in `test_processes`."""
    (tmp_path / "story.json").write_text(json.dumps({**STORY, "frames": STORY["frames"][2:3] * 3}))
    (tmp_path / "masks").mkdir()
    for index in range(3):
        Image.new("L", (TOY_WORLD.picture_side,) * 2).save(tmp_path / "masks" / frame_file(index))
    chosen = settings(toyworld_folder, steps=15, detector="none", masks=str(tmp_path / "masks"))

    def words(out):
        return ["run", tmp_path / "story.json", "--out", out, *options_of(chosen)]

    process = begin(words(tmp_path / "out"))
    while not (tmp_path / "out" / "frame_0001.png").is_file() and process.poll() is None:
        threading.Event().wait(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors.splitlines()[-1]) == (143, STOPPED)
    assert "Traceback" not in errors
    assert not [name for name in contents(tmp_path / "out") if name.endswith(".tmp")]
    assert not (tmp_path / "out" / "frame_0003.png").exists()
    for out in ("out", "whole"):
        again = begin(words(tmp_path / out))
        _, errors = again.communicate(timeout=300)
        assert again.returncode == 0, errors
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_inside_a_signal_unwinds_and_outside_it_is_as_before():
    """The tests themselves may run deaf to Ctrl-C, as a shell's background jobs do."""
    found = {number: signal.signal(number, signal.default_int_handler) for number, _ in SIGNALS}
    try:
        for number, status in SIGNALS:
            with pytest.raises(KeyboardInterrupt) as stopped, stoppable():
                signal.raise_signal(number)
            assert exit_status(stopped.value) == status
            assert isinstance(stopped.value, Terminated) == (number == signal.SIGTERM)
            assert signal.getsignal(number) is signal.default_int_handler
    finally:
        for number, handler in found.items():
            signal.signal(number, handler)


def test_signals_that_are_ignored_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_signals_are_left_alone():
    failed = []

    def enter():
        try:
            with stoppable():
                pass
        except ValueError as error:
            failed.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert failed == []
