"""ComfyUI's flags of precision and memory: with each the host starts and runs the toy world's quickstart.

The toy world is in float32 whatever the flags say, so those of precision also run frames together with a checkpoint.
"""

import json
import re
import subprocess

import pytest
from PIL import Image

from tests.stand_ins.folder import write_all

from .server import Host
from .test_storynizor_run import frames
from .test_storynizor_run import workflow as small_workflow
from .test_workflows_run import nodes_of, pixels, saved
from .write_api_twins import TWINS

pytestmark = pytest.mark.long

FLAGS = ("--fp16-unet", "--bf16-unet", "--lowvram", "--novram", "--disable-smart-memory", "--async-offload")
DTYPES = {"--fp16-unet": "torch.float16", "--bf16-unet": "torch.bfloat16"}
SMALL = {
    "StoryIdentityFindIdentity": {"count": 8, "batch_size": 8, "steps": 4, "reuse": "never"},
    "StoryIdentityNoisyLatentCache": {"steps": 6, "keep_from_step": 1},
    "StoryIdentityRedenoise": {"start": 1},
    "StoryIdentityEachFrame": {"frames": "1-2"},
    "StoryIdentityCollectFrames": {"keep": "nothing"},
    "StoryIdentityGroundedSAMLayout": {"on_missing": "skip"},
}


class FlaggedHost(Host):
    """A server with one more option on its command line."""

    def __init__(self, comfyui, folder, flag):
        super().__init__(comfyui, folder)
        self.flag = flag

    def _command(self):
        return [*super()._command(), self.flag]


def refusal(comfyui, flag):
    """What ComfyUI says of a flag beside --cpu where it does not take both; the command ends before anything loads."""
    command = [comfyui.python, comfyui.root / "main.py", "--cpu", flag, "--help"]
    done = subprocess.run(command, cwd=comfyui.root, capture_output=True, text=True, timeout=600)
    found = re.search(rf"argument {flag}.*: not allowed with argument --cpu", done.stderr)
    return found and found[0]


@pytest.mark.parametrize("flag", FLAGS)
def test_the_quickstart_runs(comfyui, tmp_path, flag):
    if said := refusal(comfyui, flag):
        pytest.skip(f"ComfyUI: {said}")
    graph = json.loads((TWINS / "toyworld_quickstart.json").read_text(encoding="utf-8"))
    for class_type, values in SMALL.items():
        for key in nodes_of(graph, class_type):
            graph[key]["inputs"].update(values)
    if flag in DTYPES:
        write_all(tmp_path / "models")
    with FlaggedHost(comfyui, tmp_path, flag) as host:
        pictures = saved(host, graph)
        together = frames(host, small_workflow("storynizor_sd15")) if flag in DTYPES else []
        log = host.log()
    assert {name: len(paths) for name, paths in pictures.items()} == {"frames": 2, "sheet": 1, "templates": 2}
    for path in (*pictures["frames"], *pictures["templates"]):
        with Image.open(path) as image:
            assert all(low < high for low, high in image.convert("RGB").getextrema())  # NaN would be saved as black
    assert len({pixels(path) for path in (*pictures["frames"], *pictures["templates"])}) > 2
    if flag in DTYPES:
        assert len(set(together)) == 4
        assert all(len(set(frame)) > 2 for frame in together)
        loaded = set(re.findall(r"model weight dtype (\S+),", log))
        assert loaded == {"torch.float32", DTYPES[flag]}  # the toy world's, the checkpoint's
