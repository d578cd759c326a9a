"""`python -m story_identity.headless`, the command line without the commands of the laboratory."""

import importlib
import sys

from .option_values import NEEDED
from .stopping import stop_at_once_at_signals


def start(module: str) -> None:
    """Run the command line `app` of a module; a stop is quiet from the start on, while modules are loaded too."""
    stop_at_once_at_signals()
    try:
        app = importlib.import_module(module).app
    except ModuleNotFoundError as missing:
        sys.stderr.write(f"{missing}. {NEEDED}\n")
        sys.exit(2)
    app()


if __name__ == "__main__":
    start(f"{__package__}.cli")
