"""Write what follows from the nodes: workflows and subgraphs, the tables of the help pages and of architecture.md.

`python -m story_identity.lab.workflows` writes all of it; `schemas.py` says how to bring the nodes' descriptions up to
date before.
"""

from pathlib import Path

from .blueprints import BLUEPRINTS, blueprint
from .each_frame import EACH_FRAME
from .graph import stored
from .identitystory import IDENTITYSTORY
from .pages import filled_page, filled_pages, workflows_table
from .references import REFERENCES
from .schemas import read_schemas
from .storynizor import STORYNIZOR
from .transformers import TRANSFORMERS
from .wiring import PACK


def generated() -> dict[Path, str]:
    """The text of every generated file, by path."""
    makers = {**IDENTITYSTORY, **STORYNIZOR, **REFERENCES, **EACH_FRAME, **TRANSFORMERS}
    workflows = {name: make() for name, make in makers.items()}
    written = {PACK / "workflows" / name: stored(each) for name, each in workflows.items()}
    blueprints = {PACK / "subgraphs" / name: stored(blueprint(each)) for name, each in BLUEPRINTS.items()}
    page = PACK / "docs" / "workflows.md"
    counted = {page: filled_page(page, {"workflows": workflows_table(workflows)})}
    return {**written, **blueprints, **counted, **filled_pages(PACK, read_schemas())}


if __name__ == "__main__":
    try:
        files = generated()
    except ValueError as error:
        raise SystemExit(str(error)) from error
    for path, text in files.items():
        path.write_text(text, encoding="utf-8", newline="\n")
