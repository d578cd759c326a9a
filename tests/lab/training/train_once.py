"""A training in a process of its own: `train_once OUT MOMENT`, for tests that kill it or start several.

MOMENT: "between" kills it in step 4, "during" while it saves that step's checkpoint, "both" lets it end and writes what
each process saw and came to, "stall" has the second process sleep after step 3, "again"
trains 20 times.
"""

import os
import signal
import socket
import sys
import time
from pathlib import Path

import torch
from accelerate.test_utils.testing import AccelerateTestCase
from story_identity.core.atomic_files import atomic_write
from story_identity.headless.checkpoint import load_checkpoint
from story_identity.lab.step_random import StepRandom
from story_identity.lab.training import checkpoints
from story_identity.lab.training.loop import Loop
from story_identity.lab.training.processes import joined
from story_identity.lab.training.train_synchronizer import Synchronizer

from tests.stand_ins.diffusers_models import write_sd15

from .pieces import Line, Source, synchronizer_settings
from .test_loop import CHANGING_RATE, line_settings

STEP = 4


def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def synchronize(out):
    """What a synchronizer has learned in this process after three steps."""
    pipe = load_checkpoint(str(write_sd15(out / f"sd15_{os.environ['RANK']}")))
    chosen = synchronizer_settings(
        out=str(out / "synchronizer"), steps=3, plain=0.5, text_dropout=0.3, gradient_checkpointing=True
    )
    loop = Loop(Synchronizer(pipe, chosen), Source(), chosen)
    batches = loop._batches()
    for _ in range(3):
        loop.step(batches)
    return {name: each.detach() for name, each in loop.trained.items()}


def stall(out):
    """A training of two processes, of which one sleeps."""
    with joined("cpu", wait_minutes=0.25) as rank:

        def on_step(step, values):
            rank.went_on(step)
            if rank.index == 1 and step == 3:
                time.sleep(3600)

        Loop(Line(0.1), Source(), line_settings(out)).run(on_step=on_step)


def shared_port(file, rank):
    """A port that is free now: the first process chooses it, the others read it."""
    if rank == "0":
        with socket.socket() as probe, atomic_write(file) as temporary:
            probe.bind(("127.0.0.1", 0))
            temporary.write_text(str(probe.getsockname()[1]))
    while not file.exists():
        time.sleep(0.05)
    return file.read_text()


def again(out):
    """Trainings one after the other, each with a process group of its own."""
    rank = os.environ["RANK"]
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    for number in range(20):
        os.environ["MASTER_PORT"] = shared_port(out / f"{number}.port", rank)
        with joined("cpu", wait_minutes=2):
            Loop(Line(0.1), Source(), line_settings(out / str(number), steps=1)).run()
        AccelerateTestCase().tearDown()  # each training is to start with accelerate as it is in a new process
    (out / f"{rank}.ended").touch()


def main(out, moment):
    if moment == "again":
        return again(out)
    if moment == "stall":
        return stall(out)
    line = Line(0.0 if moment == "both" else 0.1)
    synchronized = synchronize(out) if moment == "both" else None
    loop = Loop(line, Source(), line_settings(out, **(CHANGING_RATE if moment == "both" else {})))
    index = loop.accelerator.process_index
    if moment == "during":
        write = checkpoints.save_file
        checkpoints.save_file = lambda *given: kill() if loop.done == STEP else write(*given)
    saved = loop.run(on_step=lambda step, values: moment == "between" and step == STEP and kill())
    if moment == "both":
        found = {"slope": line.slope.detach(), "height": line.height.detach(), "seen": line.seen, "saved": str(saved)}
        found |= {"synchronizer": synchronized}
        torch.save({**found, "random": StepRandom.of(0, index, 0).normal(1).item()}, out / f"rank{index}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
