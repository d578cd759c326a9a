"""Continuing from weights that are finished, where there is no checkpoint to continue from."""

from torch import nn

from ....core.quoting import printable, quote
from ....core.state_dict import load_exactly
from ....core.toyworld.models import load_weights
from ..weight_files import weight_file
from .train_network import Settings


def start_from_weights(network: nn.Module, name: str, settings: Settings) -> None:
    """Put the weights called `name` in the settings' `start` folder into a network; without such a folder, nothing.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it cannot be read, or has other tensors than the network.
    """
    if settings.start is not None:
        path = weight_file(name, settings.start)
        load_exactly(network, load_weights(name, path.parent), printable(str(path)), f"the toy world's {name}")


def check_start(settings: Settings) -> None:
    """Raise a ValueError if there is no such folder to continue from."""
    if settings.start is None:
        return
    if not settings.start.is_dir():
        raise ValueError(f"--continue-from is {quote(str(settings.start))}, which is no folder.")
