"""Write lab/workflows/node_schemas.json from the ComfyUI of the tests: `python -m tests.host.write_node_schemas`."""

import tempfile
from pathlib import Path

from story_identity.lab.workflows.schemas import FILE, as_text, trim

from .comfyui import NOT_FOUND, find_comfyui
from .server import Host


def main() -> None:
    comfyui = find_comfyui()
    if comfyui is None:
        raise SystemExit(NOT_FOUND)
    with tempfile.TemporaryDirectory() as folder, Host(comfyui, Path(folder)) as host:
        schemas = trim(host.object_info(), host.get("/system_stats")["system"])
    FILE.write_text(as_text(schemas), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
