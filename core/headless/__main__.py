"""The command `story-identity`, also `python -m story_identity.core.headless`, as torchrun starts it."""

import sys

from .choices import NEEDED
from .stopping import stop_at_once_at_signals


def main() -> None:
    """Run the command line; a stop is quiet from the first moment on, while the modules are loaded too."""
    stop_at_once_at_signals()
    try:
        from .cli import app
    except ModuleNotFoundError as missing:
        sys.stderr.write(f"{missing}. {NEEDED}\n")
        sys.exit(2)
    app()


if __name__ == "__main__":
    main()
