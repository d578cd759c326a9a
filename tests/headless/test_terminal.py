"""What a terminal shows, seen through a pseudo-terminal: text of a story is no markup and no escape sequence."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.headless import terminal

from .stories import options_of, settings
from .test_processes import ENVIRONMENT, ROOT

pty = pytest.importorskip("pty")

NAMES = {
    "Ada[/]": "Ada[/]",
    "Ada [red]x[/blue]": "Ada [red]x[/blue]",
    "[bold]Ada": "[bold]Ada",
    "Ada :smile:": "Ada :smile:",
    "Ada\x1b]0;owned\x07\x1b[2J": r"Ada\x1b]0;owned\x07\x1b[2J",
    "Ada\nAda": r"Ada\nAda",
    "A\u202eda": r"A\u202eda",
}
"""Names, and what a terminal shows of them."""
OWN = re.compile(r"\x1b\[\??[0-9;]*[A-Za-z]")
"""What rich moves the cursor and colours with."""


def shown_by(command, **environment):
    """Exit status of a command in a pseudo-terminal, and all that the terminal got."""
    reader, writer = pty.openpty()
    environment = {**ENVIRONMENT, "TERM": "xterm-256color", "COLUMNS": "200", **environment}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=writer, stdout=writer, stderr=writer)
    os.close(writer)
    seen = b""
    while True:
        try:
            part = os.read(reader, 65536)
        except OSError:  # Linux says so when nobody has the other end any more
            break
        if not part:
            break
        seen += part
    os.close(reader)
    return process.wait(timeout=60), seen.decode()


REPORT = """
import sys
from story_identity.headless.terminal import progress

with progress() as report:
    for name in {names!r}:
        for done in (1, 2):
            report(f"Portraits of {{name}}", done, 2)
            sys.stderr.flush()
        report(f"Portraits of {{name}} again", 1, 2)
"""


@pytest.mark.slow
def test_a_name_in_a_bar_is_shown_letter_for_letter():
    status, seen = shown_by([sys.executable, "-c", REPORT.format(names=list(NAMES))])
    plain = OWN.sub("", seen)
    assert status == 0, plain
    assert [shown for shown in NAMES.values() if f"Portraits of {shown} " not in plain] == []
    assert not set(plain) & set("\x1b\x07\u202e")
    assert "\x1b]" not in seen
    assert "\x1b[2J" not in seen


@pytest.fixture
def words(tmp_path, toyworld_folder):
    """The command that makes a story about somebody of this name."""

    def words(name, *options):
        told = {
            "characters": [{"name": name, "word": "girl", "description": "a girl with red hair"}],
            "frames": [{"prompt": "a girl with red hair on a beach", "cast": [name]}],
        }
        (tmp_path / "story.json").write_text(json.dumps(told))
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.new("L", (TOY_WORLD.picture_side,) * 2, 1).save(tmp_path / "masks" / "frame_0001.png")
        chosen = settings(toyworld_folder, detector="none", masks=str(tmp_path / "masks"))
        command = [sys.executable, "-m", "story_identity.headless", "run", tmp_path / "story.json"]
        return [*map(str, [*command, "--out", tmp_path / "out", *options_of(chosen), *options])]

    return words


@pytest.mark.parametrize("name", ["Ada [red]x[/blue]", "Ada\x1b]0;owned\x07"])
@pytest.mark.slow
def test_a_whole_run_in_a_terminal(words, tmp_path, name):
    status, seen = shown_by(words(name))
    plain = OWN.sub("", seen)
    if name.isprintable():
        assert status == 0, plain
        assert f'Portraits of "{name}"' in plain
        assert plain.splitlines()[-1] == f"The story is in {tmp_path / 'out'}"
    else:  # whoever reads stories may refuse such a name; then it is quoted
        assert status in (0, 2), plain
    assert "Traceback" not in plain
    assert not set(plain) & set("\x1b\x07")


@pytest.mark.slow
def test_what_the_terminal_cannot_encode_is_escaped(words, tmp_path):
    (tmp_path / "é小").mkdir()
    command = words("Ada", "--out", str(tmp_path / "é小"), "--steps", "2")
    status, seen = shown_by(command, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert status == 0, seen
    assert "\\xe9\\u5c0f" in OWN.sub("", seen).splitlines()[-1]


def test_a_file_of_the_system_is_named_before_the_reason(capsys):
    with pytest.raises(typer.Exit), terminal.plain_errors():
        Path("/nowhere/\x1b[31m").read_text()
    assert capsys.readouterr().err == "/nowhere/\\x1b[31m: No such file or directory.\n"
