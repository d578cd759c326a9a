"""A workflow that version 0.1 saved runs in today's pack, to the same pictures as today's workflow."""

import json
from pathlib import Path

from .comfyui import ComfyUI
from .server import Host
from .test_workflows_run import pixels, saved
from .write_api_twins import TWINS

FORMER = Path(__file__).parents[1] / "files" / "version_0_1" / "toyworld_quickstart_api.json"


def test_a_workflow_of_version_0_1_draws_what_todays_draws(comfyui: ComfyUI, tmp_path: Path):
    with Host(comfyui, tmp_path) as server:
        drawn = [
            [pixels(path) for path in saved(server, json.loads(file.read_text("utf-8")))["StoryIdentity/frame"]]
            for file in (FORMER, TWINS / "toyworld_quickstart.json")
        ]
    assert len(drawn[0]) == 4
    assert drawn[0] == drawn[1]
