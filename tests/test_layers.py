"""The layers, checked in clean processes: what an import of each part loads."""

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOST = ("comfy", "comfy_api", "comfy_extras", "folder_paths", "latent_preview", "story_identity.nodes")
LIBRARIES = (
    *("diffusers", "transformers", "peft", "accelerate", "groundingdino", "segment_anything", "insightface"),
    *("cv2", "dlib", "face_recognition_models", "onnxruntime", "pyiqa"),
)
CODE = """
import importlib, sys
for name in {modules}:
    importlib.import_module(name)
print(*sorted(name for name in {forbidden} if name in sys.modules))
"""


def modules_of(part: str) -> list[str]:
    """The dotted names of every module in a folder of the pack; starting a program is not importing it."""
    paths = sorted((ROOT / part).rglob("*.py"))
    assert paths
    dotted = [".".join(("story_identity", *path.relative_to(ROOT).with_suffix("").parts)) for path in paths]
    return [name.removesuffix(".__init__") for name in dotted if not name.endswith(".__main__")]


@pytest.mark.parametrize(
    ("part", "forbidden"),
    [
        ("core", (*HOST, *LIBRARIES, "story_identity.headless", "story_identity.lab")),
        ("headless", (*HOST, "story_identity.lab", "ray")),
        ("lab", (*HOST, "ray")),
    ],
)
@pytest.mark.slow
def test_a_part_loads_nothing_above_it(part: str, forbidden: tuple[str, ...]):
    code = CODE.format(modules=modules_of(part), forbidden=forbidden)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_core_needs_no_jaxtyping():
    """Users of ComfyUI have no jaxtyping; shapes in signatures are then bare types."""
    code = "import sys\nsys.modules['jaxtyping'] = None\n" + CODE.format(
        modules=modules_of("core"), forbidden=LIBRARIES
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_no_file_name_occurs_more_than_twice():
    """Once per host at most, so that a name in a traceback or a search says which file it is."""
    places = defaultdict(list)
    for part in ("core", "headless", "lab", "nodes"):
        for path in (ROOT / part).rglob("*.py"):
            places[path.name].append(str(path.relative_to(ROOT)))
    frequent = {name: found for name, found in places.items() if len(found) > 2}
    assert frequent.keys() <= {"__init__.py", "__main__.py"}, frequent
    assert len(places) > 100
