"""Checkpoints: no code of theirs runs, what is damaged is named, and those of version 0.1.0 still count."""

import json
import os
import pickle
import random
from contextlib import suppress

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from story_identity.lab.training.checkpoints import checkpoints_in, read_checkpoint
from story_identity.lab.training.loop import Loop
from torch.optim.lr_scheduler import LambdaLR

from .pieces import Line, Source
from .test_loop import CHANGING_RATE, line_settings, losses, train

FORMER = (
    "custom_checkpoint_0.pkl",
    "optimizer.bin",
    "scheduler.bin",
    "random_states_0.pkl",
    "scaler.pt",
    "trained.safetensors",
)
SHAPES = {name: each.shape for name, each in Line().named_parameters() if each.requires_grad}


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def poison(path, mark, zipped):
    if zipped:
        torch.save({"step": 2, "average": Runs(mark)}, path)
    else:
        path.write_bytes(pickle.dumps(Runs(mark)))


def write_former(loop):
    """What version 0.1.0 wrote: a folder, by accelerate, with what is trained in a file of its own."""

    class Progress:
        def state_dict(self):
            return {"step": loop.done, "average": loop.average and loop.average.state_dict()}

        def load_state_dict(self, state):
            raise NotImplementedError

    loop.accelerator.register_for_checkpointing(Progress())
    loop.accelerator.register_save_state_pre_hook(lambda models, weights, folder: weights.clear())
    folder = loop.out / "checkpoints" / f"step_{loop.done:07d}"
    loop.accelerator.save_state(str(folder))
    save_file({name: each.detach().clone() for name, each in loop.trained.items()}, folder / "trained.safetensors")
    schedule = LambdaLR(torch.optim.AdamW(loop.trained.values()), lambda update: 1.0, last_epoch=-1)
    torch.save(
        {**schedule.state_dict(), "last_epoch": loop.updates, "_step_count": loop.updates + 1}, folder / "scheduler.bin"
    )
    return folder


def begun(out, former=False, **changes):
    """A checkpoint after two steps."""
    loop = Loop(Line(0.1), Source(), line_settings(out, **changes))
    batches = loop._batches()
    for _ in range(2):
        loop._log(loop.step(batches))
    if former:
        return write_former(loop)
    loop._save()
    (path,) = checkpoints_in(out / "checkpoints")
    return path


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.parametrize(
    "changes", [{}, {**CHANGING_RATE, "steps": 5}, {"ema": 0.0}], ids=["plain", "cosine", "no ema"]
)
def test_a_checkpoint_of_the_former_kind_goes_on_to_the_same(tmp_path, out, changes):
    folder = begun(out, former=True, **changes)
    assert set(FORMER) - {"scaler.pt"} <= {path.name for path in folder.iterdir()}
    (out / "checkpoints" / ".unfinished").mkdir()
    assert train(out, **changes) == train(tmp_path / "whole", **changes)
    kept = [path.name for path in checkpoints_in(out / "checkpoints")]
    assert kept == [f"step_000000{step}.safetensors" for step in ((4, 5) if "steps" in changes else (4, 6))]
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == kept


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", FORMER)
def test_no_code_runs_from_a_checkpoint_of_the_former_kind(tmp_path, out, name, zipped):
    poison(begun(out, former=True) / name, tmp_path / "ran", zipped)
    loop = Loop(Line(0.1), Source(), line_settings(out))
    if name == "random_states_0.pkl":  # which is not read
        loop.run()
    else:
        with pytest.raises(ValueError, match="step_0000002 is damaged, or not a checkpoint.*Delete it"):
            loop.run()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_the_planted_code_would_run_if_it_were_unpickled(tmp_path, zipped):
    poison(tmp_path / "file", tmp_path / "ran", zipped)
    with suppress(RuntimeError):  # the bare pickle is no file of torch's, which it notices too late
        torch.load(tmp_path / "file", weights_only=False)
    assert (tmp_path / "ran").is_dir()


@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_runs_from_a_checkpoint(tmp_path, out, zipped):
    poison(begun(out), tmp_path / "ran", zipped)
    with pytest.raises(ValueError, match="step_0000002.safetensors is damaged, or not a checkpoint.*Delete it"):
        Loop(Line(0.1), Source(), line_settings(out)).run()
    assert not (tmp_path / "ran").exists()


def test_what_is_beside_the_checkpoints_is_no_checkpoint_and_stays(out):
    folder = out / "checkpoints"
    others = [folder / name for name in ("step_mine", "step_0000009", "step_0000009.txt", "step_3.safetensors")]
    begun(out)
    for path in others:
        path.write_text("mine")
    (folder / "step_backup").mkdir()
    train(out, keep=1)
    assert [path.name for path in checkpoints_in(folder)] == ["step_0000006.safetensors"]
    assert all(path.read_text() == "mine" for path in others)
    assert (folder / "step_backup").is_dir()


def _cut(path, chance):
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(len(content))])


def _flip(path, chance):
    content = bytearray(path.read_bytes())
    content[chance.randrange(min(len(content), 900))] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(content))


def _say(path, chance):
    tensors = load_file(path)
    numbers = {"format": "story-identity-checkpoint/1", "step": 2, "updates": 2, "averaged": 2, "scaler": {}}
    wrong = (None, "2", [], {}, -1, 1.5, True, "é" * 3000)
    numbers[chance.choice(list(numbers))] = chance.choice(wrong)
    save_file(tensors, path, {"story_identity": json.dumps(chance.choice([numbers, numbers, [], 3]))})


def _rename(path, chance):
    tensors = load_file(path)
    tensors[chance.choice(["", "weights.slop", "other.slope", "slope"])] = tensors.pop(chance.choice(list(tensors)))
    save_file(tensors, path, {"story_identity": "{}"})


@pytest.mark.parametrize(("change", "refused"), [(_cut, 40), (_rename, 40), (_say, 25), (_flip, 10)])
def test_a_damaged_checkpoint_is_refused_in_one_sentence(out, change, refused):
    """At least so many of 40: a number that was changed into another one cannot be noticed."""
    path, chance = begun(out), random.Random(change.__name__)
    whole, said = path.read_bytes(), []
    for _ in range(40):
        path.write_bytes(whole)
        change(path, chance)
        try:
            read_checkpoint(path, SHAPES)
        except ValueError as error:
            said.append(str(error))
    assert len(said) >= refused
    assert all(str(path) in each and len(each) < 1500 and each.isprintable() for each in said)


def test_a_checkpoint_that_cannot_be_written_says_what_stays(out, monkeypatch):
    begun(out)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("story_identity.lab.training.checkpoints.save_file", full)
    with pytest.raises(OSError, match="step_0000004.safetensors could not be written.*No space left.*continues from"):
        Loop(Line(0.1), Source(), line_settings(out)).run()
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step_0000002.safetensors"]
    assert [each["step"] for each in losses(out)] == [1, 2, 3, 4]


def test_two_trainings_in_one_folder_are_refused_and_the_first_goes_on(tmp_path, out):
    def start_another(step, values):
        if step == 3:
            with pytest.raises(ValueError, match="Another training is at work in .*out. Wait for it, or choose"):
                Loop(Line(0.1), Source(), line_settings(out)).run()

    saved = Loop(Line(0.1), Source(), line_settings(out)).run(on_step=start_another)
    assert (saved.read_bytes(), losses(out)) == train(tmp_path / "whole")
    train(out)  # the lock is free again


def test_accelerate_configured_for_more_than_data_parallelism_is_refused(out, monkeypatch):
    from accelerate.utils import DistributedType

    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    with pytest.raises(ValueError, match="accelerate is configured for FSDP"):
        Loop(Line(), Source(), line_settings(out))
