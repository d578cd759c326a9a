"""The share of a story that this process makes when several work on it (torchrun, accelerate launch)."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")
_PATIENCE = timedelta(days=30)  # one process may still be drawing portraits while the others wait


@dataclass(frozen=True)
class Share:
    """One of `count` processes, the `index`th from 0.

    `wait` returns when all have called it; so does `any_of`, with whether one of them has called it with True.
    """

    index: int
    count: int
    device: str
    wait: Callable[[], None]
    any_of: Callable[[bool], bool] = bool

    @property
    def is_main(self) -> bool:
        return self.index == 0

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's items: every `count`th."""
        return items[self.index :: self.count]


def process_count() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined(device: str) -> Iterator[Share]:
    """Join the other processes of the launcher, if there is one.

    Args:
        device: "cpu", or "cuda", which becomes a device of this process's own.
    """
    if process_count() == 1:
        yield Share(0, 1, device, lambda: None)
        return
    from accelerate import PartialState
    from accelerate.utils import gather_object

    state: Any = PartialState(cpu=device == "cpu", timeout=_PATIENCE)
    try:
        own = device if device == "cpu" else str(state.device)
        wait = state.wait_for_everyone
        yield Share(state.process_index, state.num_processes, own, wait, lambda flag: any(gather_object([flag])))
    finally:
        state.destroy_process_group()


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Inside, torch computes with this many CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
