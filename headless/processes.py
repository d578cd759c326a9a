"""How many processes and CPU threads are at work."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def refuse_launcher() -> None:
    """Raise a ValueError if torchrun or accelerate launch started several processes of a command that works alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1:
        raise ValueError(
            f"{count} processes were started, but this is the work of one: start it without torchrun or accelerate "
            f"launch. `story-identity run --workers {count}` shares the frames of stories out."
        )


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Inside, torch computes with this many CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
