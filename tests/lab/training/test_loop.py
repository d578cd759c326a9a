"""The loop: stopped anywhere it comes to the same, and accumulation, averages and processes are what they say."""

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch
from accelerate.utils import LoggerType
from safetensors.torch import load_file
from story_identity.lab.step_random import StepRandom
from story_identity.lab.training import loop as loops
from story_identity.lab.training.loop import LOSSES, Loop, check_tracker, dry_run
from story_identity.lab.training.train_synchronizer import Synchronizer

from tests.closeness import assert_close

from .pieces import Line, Source, settings, synchronizer_settings

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")

CHANGING_RATE = {"schedule": "cosine", "warm_up": 2}


def line_settings(out, **changes):
    return settings(out=str(out), **{"steps": 6, "save_every": 2, "learning_rate": 0.1, "ema": 0.5, **changes})


def train(out, blur=0.1, **changes):
    """The result's bytes, and the losses."""
    saved = Loop(Line(blur), Source(), line_settings(out, **changes)).run()
    return saved.read_bytes(), losses(out)


def losses(out):
    return [json.loads(line) for line in (out / LOSSES).read_text().splitlines()]


def checkpoints(out):
    return sorted(path.name for path in (out / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_stopped_and_run_again_it_comes_to_the_same(tmp_path, whole, monkeypatch, stop):
    def interrupt(step, values):
        if step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Loop(Line(0.1), Source(), line_settings(tmp_path)).run(on_step=interrupt)
    with (tmp_path / LOSSES).open("a") as file:
        file.write('{"step": 6, "lo')
    assert train(tmp_path) == whole
    assert checkpoints(tmp_path) == ["step_0000004.safetensors", "step_0000006.safetensors"]


def test_from_any_checkpoint_it_comes_to_the_same(tmp_path, whole):
    train(tmp_path, keep=3)
    for newest in ("step_0000006", "step_0000004"):
        (tmp_path / "checkpoints" / f"{newest}.safetensors").unlink()
        assert train(tmp_path, keep=3) == whole
        assert checkpoints(tmp_path)[0] == "step_0000002.safetensors"


@pytest.mark.slow
def test_a_synchronizer_that_is_stopped_comes_to_the_same(two_grids, tmp_path):
    found = []
    for name, parts in (("whole", (4,)), ("parts", (2, 4))):
        for steps in parts:
            out = str(tmp_path / name)
            chosen = synchronizer_settings(out=out, steps=steps, save_every=1, keep=1, text_dropout=0.3, accumulate=2)
            with closing(Synchronizer(two_grids, chosen)) as trainee:
                saved = Loop(trainee, Source(), chosen).run()
        found.append((saved.read_bytes(), losses(tmp_path / name)))
    assert found[0] == found[1]
    assert {"step", "loss", "diffusion", "mask"} == found[0][1][0].keys()


def test_a_finished_training_run_again_says_the_same_and_does_nothing(tmp_path, whole, caplog):
    train(tmp_path)
    assert not caplog.messages
    source = Source()
    source.stream = None
    assert Loop(Line(), source, line_settings(tmp_path)).run().read_bytes() == whole[0]
    assert losses(tmp_path) == whole[1]
    assert "nothing is left to train" in caplog.text


@pytest.mark.parametrize("moment", ["between", "during"])
@pytest.mark.slow
def test_killed_it_comes_to_the_same(tmp_path, whole, moment):
    command = [sys.executable, "-m", "tests.lab.training.train_once", str(tmp_path), moment]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    *unfinished, left = checkpoints(tmp_path)
    assert left == "step_0000002.safetensors"
    assert [name.endswith(".tmp") for name in unfinished] == ([] if moment == "between" else [True])
    assert train(tmp_path) == whole
    assert checkpoints(tmp_path) == ["step_0000004.safetensors", "step_0000006.safetensors"]
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_groups(tmp_path):
    """Each rank writes what it saw and came to; the blur is 0, since the random numbers of two processes differ."""
    command = [*TORCHRUN, "-m", "tests.lab.training.train_once", str(tmp_path / "two"), "both"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / "two" / f"rank{rank}.pt") for rank in (0, 1))
    assert first["saved"] == second["saved"] == str(tmp_path / "two" / "line.safetensors")
    for key in ("slope", "height"):
        assert torch.equal(first[key], second[key])
    assert all(torch.equal(each, second["synchronizer"][name]) for name, each in first["synchronizer"].items())
    assert first["random"] != second["random"]
    assert not set(first["seen"]) & set(second["seen"])
    alone = Line()
    result = Loop(alone, Source(), line_settings(tmp_path / "one", groups=2, **CHANGING_RATE)).run()
    assert alone.seen == [each for pair in zip(first["seen"], second["seen"], strict=True) for each in pair]
    together = load_file(tmp_path / "two" / "line.safetensors")
    for key, each in load_file(result).items():
        assert_close(together[key], each)
    assert_close(*([each["loss"] for each in losses(tmp_path / name)] for name in ("two", "one")))


def test_accumulation_is_a_larger_batch(tmp_path):
    """Where the loss is a mean over groups and the random numbers do not matter, parts of a step are as good as one."""
    parts, logged = train(tmp_path / "parts", blur=0.0, accumulate=2)
    once, whole = train(tmp_path / "once", blur=0.0, groups=2)
    assert_close([each["loss"] for each in logged], [each["loss"] for each in whole])
    one, other = (load_file(tmp_path / name / "line.safetensors") for name in ("parts", "once"))
    for key, each in one.items():
        assert_close(each, other[key])


def test_a_step_follows_the_mean_gradient_of_its_parts_each_with_its_own_dice(tmp_path, monkeypatch):
    followed, clip = [], torch.nn.utils.clip_grad_norm_

    def note(parameters, *more, **named):
        parameters = list(parameters)
        followed.append([each.grad.clone() for each in parameters])
        return clip(parameters, *more, **named)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", note)
    loop = Loop(Line(0.5), Source(), line_settings(tmp_path, accumulate=3))
    batches = loop._batches()
    loop.step(batches)
    loop.step(batches)
    line, groups = Line(0.5), Source().stream(0, 0, 1)
    loss = sum(line([next(groups)], StepRandom.of(0, 0, number))["loss"] for number in range(3)) / 3
    expected = torch.autograd.grad(loss, [line.slope, line.height])
    assert len(followed) == 2
    for one, other in zip(followed[0], expected, strict=True):
        assert_close(one, other)


def test_what_is_saved_is_the_moving_average(tmp_path):
    """diffusers' warm-up: the average's first decay is 0, its second 2/11, its third 3/12, until it is `ema`."""
    line, seen = Line(0.1), []
    loop = Loop(line, Source(), line_settings(tmp_path, steps=3))
    saved = loop.run(on_step=lambda step, values: seen.append(line.slope.detach().clone()))
    expected = seen[0]
    for decay, slope in zip((2 / 11, 3 / 12), seen[1:], strict=True):
        expected = decay * expected + (1 - decay) * slope
    assert_close(load_file(saved)["slope"], expected)
    assert torch.equal(line.slope, seen[2])
    plain = Line(0.1)
    saved = Loop(plain, Source(), line_settings(tmp_path / "plain", ema=0.0)).run()
    assert torch.equal(load_file(saved)["slope"], plain.slope)


def test_drawing_shows_the_average_and_changes_nothing(tmp_path, whole):
    (tmp_path / "story.json").touch()
    line, drawn = Line(0.1), []
    chosen = line_settings(tmp_path, draw_every=3, story=str(tmp_path / "story.json"))
    saved = Loop(line, Source(), chosen).run(draw=lambda path: drawn.append((path.name, line.slope.detach().clone())))
    assert saved.read_bytes() == whole[0]
    assert [name for name, _ in drawn] == ["step_0000003.png", "step_0000006.png"]
    assert torch.equal(drawn[1][1], load_file(saved)["slope"])


def test_a_new_learning_rate_counts_from_a_checkpoint_on(tmp_path):
    train(tmp_path, steps=2)
    rates = []
    loop = Loop(Line(0.1), Source(), line_settings(tmp_path, learning_rate=0.025))
    loop.run(on_step=lambda step, values: rates.append(loop.optimizer.param_groups[0]["lr"]))
    assert rates == [0.025] * 4


def test_the_learning_rate_warms_up_and_falls_over_the_steps(tmp_path):
    """The rates of the six steps; that of a seventh would be 0."""
    rates = []
    loop = Loop(Line(0.1), Source(), line_settings(tmp_path, schedule="cosine", warm_up=2, accumulate=2))
    loop.run(on_step=lambda step, values: rates.append(loop.optimizer.param_groups[0]["lr"]))
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.1 * (0.5 + 0.125**0.5), 0.05, 0.1 * (0.5 - 0.125**0.5)])
    assert loop.settings.rate(6, 0) == pytest.approx(0, abs=1e-9)


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    train(tmp_path, steps=2)

    class Other(Line):
        def __init__(self):
            super().__init__()
            self.slope = torch.nn.Parameter(torch.zeros(3))

    with pytest.raises(ValueError, match="step_0000002.safetensors is a checkpoint of another training.*out"):
        Loop(Other(), Source(), line_settings(tmp_path)).run()


def test_a_loss_that_is_no_number_stops_it_and_names_the_step_and_the_checkpoint(tmp_path):
    class Breaks(Line):
        def forward(self, groups, random):
            found = super().forward(groups, random)
            return {"loss": found["loss"] * (float("nan") if len(self.seen) > 3 else 1)}

    with pytest.raises(
        ValueError, match="loss of step 4 is nan. The checkpoint .*step_0000002.safetensors is sound.*learning_rate"
    ):
        Loop(Breaks(0.1), Source(), line_settings(tmp_path)).run()
    assert checkpoints(tmp_path) == ["step_0000002.safetensors"]
    assert [each["step"] for each in losses(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_dry_run_leaves_nothing_behind(tmp_path, precision):
    line = Line(0.1)
    before, forward = {name: each.clone() for name, each in line.state_dict().items()}, line.forward.__func__
    found = dry_run(line, Source(), line_settings(tmp_path / "out", precision=precision))
    assert found.parameters == 3
    assert found.seconds_per_step > 0
    assert 0.05 < found.peak_gib < 100
    assert not (tmp_path / "out").exists()
    assert all(torch.equal(each, before[name]) for name, each in line.state_dict().items())
    assert line.forward.__func__ is forward
    assert line.height.grad is None


def test_half_precision_is_used_and_taken_off_again(tmp_path, monkeypatch):
    seen, forward = [], Line.forward

    def note(*arguments):
        seen.append(torch.is_autocast_enabled("cpu"))
        return forward(*arguments)

    monkeypatch.setattr(Line, "forward", note)
    line = Line()
    Loop(line, Source(), line_settings(tmp_path, steps=1, precision="bf16")).run()
    line([next(Source().stream(0, 0, 1))], StepRandom.of(0, 0, 0))
    assert seen == [True, False]


def test_trackers(monkeypatch):
    check_tracker("")
    with pytest.raises(ValueError, match='tracker is "tensorbored"; accelerate knows.*tensorboard'):
        check_tracker("tensorbored")
    monkeypatch.setattr(loops, "get_available_trackers", lambda: [LoggerType.TENSORBOARD])
    check_tracker("tensorboard")
    monkeypatch.setattr(loops, "get_available_trackers", lambda: [])
    with pytest.raises(ValueError, match='pip install tensorboard, or set tracker = ""'):
        check_tracker("tensorboard")


def test_another_device_than_before_is_not_silently_kept(tmp_path):
    Loop(Line(), Source(), line_settings(tmp_path))
    chosen = line_settings(tmp_path)
    object.__setattr__(chosen, "device", "cuda")
    with pytest.raises(ValueError, match='device is "cuda", but accelerate is at work on cpu'):
        Loop(Line(), Source(), chosen)
