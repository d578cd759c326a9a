"""The processes of one training (torchrun, accelerate launch), and an end to waiting for one that makes no progress."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

_groups: list[Any] = []
"""Every process group that a training worked in, until Python ends."""
_FAILED = 2  # the command line's exit status for what is said in one sentence


@dataclass(frozen=True)
class Rank:
    """One of `count` processes, the `index`th from 0; `device` is its own. `went_on` puts off the end of its wait."""

    index: int
    count: int
    device: str
    went_on: Callable[[int], None]

    @property
    def is_main(self) -> bool:
        return self.index == 0


@contextmanager
def joined(device: str, wait_minutes: float | int) -> Iterator[Rank]:
    """Join the other processes of the launcher, if there is one.

    A process that is stopped or hangs keeps the others waiting inside torch, where no exception reaches them. So a
    thread of each process ends it, with a sentence, when it has finished no step for `wait_minutes`. The process
    group's own limit is twice that; it counts where the thread cannot run.

    Args:
        device: "cpu", or "cuda", which becomes a device of this process's own.
        wait_minutes: How long no step may be finished; loading counts as one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Rank(0, 1, device, lambda step: None)
        return
    from accelerate import PartialState

    with _Watch(60 * wait_minutes, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) as watch:
        state: Any = PartialState(cpu=device == "cpu", timeout=timedelta(minutes=2 * wait_minutes))
        try:
            own = device if device == "cpu" else str(state.device)
            yield Rank(state.process_index, state.num_processes, own, watch.went_on)
        finally:
            state.destroy_process_group()


def keep_group() -> None:
    """Keep the process group's object, if there is a group, for as long as the process lives.

    Destroying the group leaves its last reference to the DDP module, whose end then ends gloo's threads while Python's
    lock is held; they wait for that lock, and the process for them. A reference of Python's own releases the lock.
    """
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        _groups.append(torch.distributed.group.WORLD)


class _Watch:
    """Ends the process, with a sentence, when `went_on` was not called for so many seconds."""

    def __init__(self, seconds: float | int, index: int, count: int) -> None:
        self._seconds, self._who = seconds, f"Process {index + 1} of {count}"
        self._last = "the start"
        self._until = time.monotonic() + seconds
        self._over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def went_on(self, step: int) -> None:
        self._last, self._until = f"step {step}", time.monotonic() + self._seconds

    def __enter__(self) -> "_Watch":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.thread.join()

    def _watch(self) -> None:
        while (left := self._until - time.monotonic()) > 0:
            if self._over.wait(left):
                return
        sys.stderr.write(
            f"{self._who} has finished no step for {self._seconds / 60:g} minutes, since {self._last}: one of the "
            "processes is stopped, hangs or is much slower, and the others wait for it. The training ends here; the "
            "same command continues from the newest checkpoint. If steps, pictures or loading take that long, set "
            "wait_minutes higher.\n"
        )
        sys.stderr.flush()
        os._exit(_FAILED)  # the main thread waits inside torch, where no exception reaches it
