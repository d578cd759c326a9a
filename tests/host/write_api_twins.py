"""The shipped workflows in API form, for tests to run and scripts to post: `python -m tests.host.write_api_twins`."""

import json
import tempfile
from pathlib import Path
from typing import Any

from .api_form import to_api
from .comfyui import NOT_FOUND, REPOSITORY, find_comfyui
from .server import Host

TWINS = Path(__file__).parent / "api"
WORKFLOWS = sorted((REPOSITORY / "workflows").glob("*.json"))


def twin(workflow: Path, object_info: dict[str, Any]) -> str:
    """The text of the workflow's twin."""
    ui_form = json.loads(workflow.read_text(encoding="utf-8"))
    return json.dumps(to_api(ui_form, object_info), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    comfyui = find_comfyui()
    if comfyui is None:
        raise SystemExit(NOT_FOUND)
    with tempfile.TemporaryDirectory() as folder, Host(comfyui, Path(folder)) as host:
        for workflow in WORKFLOWS:
            (TWINS / workflow.name).write_text(twin(workflow, host.object_info()), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
