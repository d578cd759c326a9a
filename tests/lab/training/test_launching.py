"""Several processes: the documented commands reach the program whole, and nobody waits for ever for one that stalls."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.run
import typer
from accelerate.commands.launch import launch_command_parser
from story_identity.lab import cli
from story_identity.lab.training import processes

from .test_settings import toml

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
PARSERS = {"torchrun": torch.distributed.run.get_args_parser, "accelerate": launch_command_parser}


def documented():
    """Every command with a launcher that the documentation shows, as words up to the program's own."""
    commands = typer.main.get_command(cli.app).commands
    configs = sorted((ROOT / "lab/training/configs").glob("*.toml"))
    pages = [each.read_text(encoding="utf-8") for each in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]
    pages += [each.help or "" for each in commands.values()]
    pages += [each.read_text(encoding="utf-8").replace("\n#", "\n") for each in configs]
    pattern = r"(?:torchrun|accelerate launch)\s[-\w\s.]*?story_identity\.[\w.]+"
    return sorted({" ".join(match.split()) for page in pages for match in re.findall(pattern, page)})


def flags():
    """Every option of every command."""
    for name, command in typer.main.get_command(cli.app).commands.items():
        for parameter in command.params:
            for flag in (each for each in parameter.opts if each.startswith("--")):
                yield name, flag


def call(launcher, *words, timeout=300):
    """A documented command with more words; torchrun is its module, so that this Python runs it."""
    parts = launcher.replace("torchrun", f"{sys.executable} -m torch.distributed.run --standalone").split()
    process = subprocess.Popen(
        [*parts, *map(str, words)],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()  # the launcher then ends its processes; killed, it would leave them
        process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def test_the_documentation_shows_both_launchers():
    found = documented()
    assert {each.split()[0] for each in found} == set(PARSERS)
    assert all(each.split()[:5] == "torchrun --nproc-per-node 2 -m --".split() for each in found if "torchrun" in each)


@pytest.mark.parametrize("launcher", documented())
def test_every_option_passes_through_the_launcher(launcher):
    program = launcher.split()[-1]
    words = [word for word in launcher.split()[1:] if word != "launch"]
    parser = PARSERS[launcher.split()[0]]()
    for name, flag in flags():
        for given in ([flag, "2"], [f"{flag}=2"]):
            found = parser.parse_args([*words, name, "story.json", *given])
            assert (found.training_script, found.training_script_args) == (program, [name, "story.json", *given])
            assert found.module


@pytest.mark.slow
def test_a_documented_command_trains_and_a_second_training_is_refused(toyworld_folder, tmp_path):
    from story_identity.core.locking import locked

    launcher = next(each for each in documented() if "torchrun" in each and each.endswith(".lab"))
    values = {"checkpoint": str(toyworld_folder), "data": "toyworld", "out": str(tmp_path / "out"), "steps": 1}
    values |= {"width": 32, "height": 32, "frames": 2, "rank": 2, "warm_up": 0, "tracker": "", "device": "cpu"}
    (tmp_path / "mine.toml").write_text(toml(values))
    words = ("train-synchronizer", tmp_path / "mine.toml", "--device=cpu")
    with locked(tmp_path / "out", "not expected"):
        refused = call(launcher, *words)
    assert refused.returncode != 0
    assert refused.stderr.count(f"Another training is at work in {tmp_path / 'out'}. Wait for it") == 2
    assert not list((tmp_path / "out").glob("*"))[1:]  # nothing but the lock
    done = call(launcher, *words, "--steps", 2)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out" / "losses.jsonl").read_text(encoding="utf-8").splitlines()) == 2


@pytest.mark.slow
def test_a_process_that_stalls_ends_the_training_with_a_sentence(tmp_path):
    """Rank 1 sleeps after step 3, and rank 0 waits for it inside torch."""
    launcher = "torchrun --nproc-per-node 2 -m -- tests.lab.training.train_once"
    done = call(launcher, tmp_path, "stall")
    assert done.returncode != 0
    for who in ("Process 1 of 2", "Process 2 of 2"):
        assert f"{who} has finished no step for 0.25 minutes, since step 3: one of the" in done.stderr
    assert "the same command continues from the newest checkpoint" in done.stderr
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_0000002.safetensors"]


@pytest.mark.slow
def test_two_processes_end_together_again_and_again(tmp_path):
    """Without `keep_group` the end of the second or third training waits for ever."""
    done = call("torchrun --nproc-per-node 2 -m -- tests.lab.training.train_once", tmp_path, "again")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.glob("*.ended")) == ["0.ended", "1.ended"]


def test_only_a_process_that_does_not_go_on_is_ended(monkeypatch, capsys):
    ended = []
    monkeypatch.setattr(processes.os, "_exit", ended.append)
    with processes._Watch(seconds=3600, index=0, count=2) as watch:
        watch.went_on(7)
    assert ended == []
    with processes._Watch(seconds=0, index=0, count=2) as watch:
        watch.thread.join()
    assert ended == [2]
    assert capsys.readouterr().err.startswith("Process 1 of 2 has finished no step for 0 minutes, since the start")
