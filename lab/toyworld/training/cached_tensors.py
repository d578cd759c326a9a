"""Rendered pictures and computed tensors that training keeps on disk; no code of such a file can run."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ....core.atomic_files import atomic_write
from ....core.quoting import printable


def cached(folder: Path, name: str, make: Callable[[], Any], *networks: nn.Module) -> Any:
    """What a file in a folder holds, on the CPU; if it is not there, what `make` gives is written first.

    Args:
        folder: Made if it is not there. The file in it is complete or absent.
        name: The file's; a digest of the networks' weights is added, so that other weights make a file of their own.
        make: Gives tensors, numbers, and lists and dictionaries of them.
        networks: All whose weights the content depends on.

    Raises:
        ValueError: If the file is damaged or holds anything else.
    """
    path = folder / f"{name}_{_digest(networks)}.pt"
    if not path.is_file():
        content = make()
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            torch.save(content, temporary)
    return _read(path)


def _digest(networks: tuple[nn.Module, ...]) -> str:
    digest = hashlib.sha256()
    for network in networks:
        for name, value in sorted(network.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _read(path: Path) -> Any:
    """By torch's restricted unpickler.

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
