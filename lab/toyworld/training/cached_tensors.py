"""Rendered pictures and computed tensors that training keeps on disk; no code of such a file can run."""

from pathlib import Path
from typing import Any

import torch

from ....core.atomic_files import atomic_write
from ....core.quoting import printable


def write_cached(path: Path, content: Any) -> None:
    """Write tensors, numbers, and lists and dictionaries of them; the file is complete or absent."""
    with atomic_write(path) as temporary:
        torch.save(content, temporary)


def read_cached(path: Path) -> Any:
    """What `write_cached` wrote, on the CPU, by torch's restricted unpickler.

    Raises:
        ValueError: If it is damaged or holds anything else.
    """
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # what a damaged or foreign file can raise is not bounded
        why = printable(f"{type(error).__name__}: {error}", 300)
        raise ValueError(
            f"{path} is damaged, or not a file of this training: {why}. Delete it and run the same command again."
        ) from error
