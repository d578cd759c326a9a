"""The algorithms come without any host: checked in a clean process."""

import subprocess
import sys

FORBIDDEN = (
    "comfy",
    "comfy_api",
    "folder_paths",
    "diffusers",
    "transformers",
    "groundingdino",
    "segment_anything",
    "story_identity.nodes",
)
CODE = """
import sys
import story_identity
from story_identity.core import identity, latent_cache, layout, layout_search, photomaker, redenoise, replacing
from story_identity.core import adapter_file, attention, attention_layout, automask, injector, shuffle
from story_identity.core import detectors, sheet, story, weights
print(*sorted(name for name in {forbidden} if name in sys.modules))
"""


def test_core_imports_no_host():
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(forbidden=FORBIDDEN)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
