"""Find a ComfyUI to test in, and the Python it runs on."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# The repository as it was reached and past symbolic links: either may lie in a ComfyUI's custom_nodes.
PLACES = (Path(__file__).absolute().parents[2], REPOSITORY)

NOTHING_TESTED = "nothing was tested inside the real host"
NOT_FOUND = (
    f"no ComfyUI found, so {NOTHING_TESTED}. "
    "To do that: git clone https://github.com/Comfy-Org/ComfyUI ~/comfy/ComfyUI, install its requirements.txt "
    "into a .venv inside it, or set COMFYUI_PATH to one you have"
)
IMPORTS = """
import sys
sys.path.insert(0, sys.argv[1])
sys.argv[1:] = ["--cpu", "--base-directory", sys.argv[2]]
import comfy.options
comfy.options.enable_args_parsing()
import nodes, server
"""
TIMEOUT_S = 180


@dataclass(frozen=True)
class ComfyUI:
    root: Path
    python: Path

    def problem(self) -> str | None:
        """One line on what keeps tests from running in it and on how to mend that; None if nothing does."""
        found, mend = self._fault()
        return f"{found}, so {NOTHING_TESTED}. To mend that: {mend}" if found else None

    def _fault(self) -> tuple[str, str]:
        _, reason = self._run("pass")
        if reason:
            anew = f"make the virtual environment of {self.root} anew, or set COMFYUI_PATH to another ComfyUI"
            return f"the Python of {self.root} does not start ({reason})", anew
        with tempfile.TemporaryDirectory() as folder:
            _, reason = self._run(IMPORTS, str(self.root), folder)
        if reason:
            return (
                f"the ComfyUI in {self.root} cannot be imported ({reason})",
                f"{self.python} -m pip install -r {self.root}/requirements.txt",
            )
        return "", ""

    def _run(self, code: str, *arguments: str) -> tuple[str, str]:
        """What the code prints, and why it failed if it did, both of ComfyUI's Python."""
        command = [self.python, "-E", "-B", "-c", code, *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S)
        except (OSError, subprocess.SubprocessError) as error:
            return "", str(error).splitlines()[0]
        said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        return done.stdout, said[-1].strip() if done.returncode else ""


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
    # A link whose Python is gone counts too: the user is told so, rather than that some other Python lacks torch.
    there = (python.absolute() for python in own if os.path.lexists(python))
    return ComfyUI(root.absolute(), next(there, Path(sys.executable)))
