"""Find a ComfyUI to test in, and the Python it runs on."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# The repository as it was reached and past symbolic links: either may lie in a ComfyUI's custom_nodes.
PLACES = (Path(__file__).absolute().parents[2], REPOSITORY)

NOT_FOUND = (
    "no ComfyUI found, so nothing was tested inside the real host. "
    "To do that: git clone https://github.com/Comfy-Org/ComfyUI ~/comfy/ComfyUI, install its requirements.txt and this "
    "pack's into a .venv inside it, or set COMFYUI_PATH to one you have"
)


@dataclass(frozen=True)
class ComfyUI:
    root: Path
    python: Path

    def missing_requirements(self) -> list[str]:
        """What the pack's requirements.txt asks for and ComfyUI's Python does not have."""
        lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
        names = [re.split(r"[^\w.-]", line.strip(), maxsplit=1)[0] for line in lines if re.match(r"\s*\w", line)]
        have = "from importlib.metadata import distributions as d; print(*{x.name.lower() for x in d()}, sep='\\n')"
        listed = subprocess.run([self.python, "-c", have], check=True, capture_output=True, text=True).stdout.split()
        return [name for name in names if name.lower() not in listed]


def find_comfyui() -> ComfyUI | None:
    """The ComfyUI of COMFYUI_PATH, else the one this pack is installed in, else the one in a usual place.

    Raises:
        ValueError: If COMFYUI_PATH is set and holds no ComfyUI; testing another one instead would mislead.
    """
    if told := os.environ.get("COMFYUI_PATH"):
        root = Path(told).expanduser()
        if not _is_comfyui(root):
            raise ValueError(f"COMFYUI_PATH is {told}, which has no main.py beside a folder comfy; correct or unset it")
        return _with_python(root)
    places = [pack.parent.parent for pack in PLACES if pack.parent.name == "custom_nodes"]
    places += [Path.home() / "comfy" / "ComfyUI", Path.home() / "ComfyUI"]
    return next((_with_python(place) for place in places if _is_comfyui(place)), None)


def _is_comfyui(root: Path) -> bool:
    return (root / "main.py").is_file() and (root / "comfy").is_dir()


def _with_python(root: Path) -> ComfyUI:
    inside = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    own = [root / venv / inside for venv in (".venv", "venv")]
    return ComfyUI(
        root.absolute(), next((python.absolute() for python in own if python.exists()), Path(sys.executable))
    )
