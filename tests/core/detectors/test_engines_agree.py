"""The engine `transformers` gives what the authors' packages give. Needs an interpreter that has those packages."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[3]
INTERPRETERS = (Path(sys.executable), Path.home() / "comfy/ComfyUI/.venv/bin/python")
CHECKS = REPO / "tests/host/inside/detector_engines.py"

# Makes the repository importable under its package name, as an installed pack is, then runs every check of the file.
RUN = """
import importlib.util, sys
from pathlib import Path

def load(name, path, **options):
    spec = importlib.util.spec_from_file_location(name, path, **options)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

repo, checks = Path(sys.argv[1]), Path(sys.argv[2])
sys.path.insert(0, str(repo))
load("story_identity", repo / "__init__.py", submodule_search_locations=[str(repo)])
module = load("detector_engines", checks)
for name in [name for name in vars(module) if name.startswith("check_")]:
    print(name, flush=True)
    getattr(module, name)()
print("all agree")
"""


def interpreter_with_packages() -> Path | None:
    if all(importlib.util.find_spec(package) for package in ("groundingdino", "segment_anything")):
        return INTERPRETERS[0]
    question = "import groundingdino, segment_anything"
    for interpreter in INTERPRETERS[1:]:
        if interpreter.is_file() and subprocess.run([interpreter, "-c", question], capture_output=True).returncode == 0:
            return interpreter
    return None


def test_both_engines_give_what_the_authors_code_gives(tmp_path: Path) -> None:
    interpreter = interpreter_with_packages()
    if interpreter is None:
        pytest.skip("pip install groundingdino-py segment-anything, here or in ComfyUI's .venv, to compare the engines")
    command = [interpreter, "-c", RUN, REPO, CHECKS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.stdout.endswith("all agree\n"), done.stdout + done.stderr
