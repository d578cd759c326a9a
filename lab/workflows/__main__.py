"""Write the shipped workflows: `python -m story_identity.lab.workflows [FOLDER]`."""

import sys
from pathlib import Path

from .graph import PACK, stored
from .identitystory import IDENTITYSTORY
from .storynizor import STORYNIZOR


def write_workflows(folder: Path) -> None:
    """Write every workflow as the file that the pack ships."""
    for file_name, make in {**IDENTITYSTORY, **STORYNIZOR}.items():
        (folder / file_name).write_text(stored(make()), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_workflows(Path(sys.argv[1]) if len(sys.argv) > 1 else PACK / "workflows")
