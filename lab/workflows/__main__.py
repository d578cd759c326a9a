"""Write what follows from the nodes: the shipped workflows, and the tables of the help pages and of architecture.md.

`python -m story_identity.lab.workflows` writes all of it; `schemas.py` says how to bring the nodes' descriptions up to
date before.
"""

from pathlib import Path

from .each_frame import EACH_FRAME
from .graph import PACK, stored
from .identitystory import IDENTITYSTORY
from .pages import filled_pages
from .schemas import read_schemas
from .storynizor import STORYNIZOR
from .transformers import TRANSFORMERS


def generated() -> dict[Path, str]:
    """The text of every generated file, by path."""
    workflows = {**IDENTITYSTORY, **STORYNIZOR, **EACH_FRAME, **TRANSFORMERS}
    written = {PACK / "workflows" / name: stored(make()) for name, make in workflows.items()}
    return {**written, **filled_pages(PACK, read_schemas())}


if __name__ == "__main__":
    try:
        files = generated()
    except ValueError as error:
        raise SystemExit(str(error)) from error
    for path, text in files.items():
        path.write_text(text, encoding="utf-8", newline="\n")
