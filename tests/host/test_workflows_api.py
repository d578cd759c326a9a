"""The shipped workflows fit the nodes that ComfyUI has, and their twins in API form are up to date."""

import json
from typing import Any

import pytest
from story_identity.lab.workflows.schemas import ANY, MATCHES

from .api_form import known_inputs
from .server import PACK, Host
from .test_front_end import all_nodes
from .write_api_twins import TWINS, WORKFLOWS, twin


def sockets(info: dict[str, Any], shown: dict[str, str]) -> dict[str, str]:
    """The type of every input by its name, a list of choices being a COMBO; of those that grow, the ones shown."""
    kinds = {name: "COMBO" if isinstance(kind, list) else kind for name, (kind, _) in known_inputs(info).items()}
    kinds = {name: ANY if kind == MATCHES else kind for name, kind in kinds.items()}
    return {name: kind for name, kind in kinds.items() if "." not in name or name in shown}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_the_twin_is_what_the_workflow_says(host, workflow):
    stored = (TWINS / workflow.name).read_text(encoding="utf-8")
    assert twin(workflow, host.object_info()) == stored, "run python -m tests.host.write_api_twins"


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_every_node_has_the_sockets_of_the_host(host, workflow):
    info = host.object_info()
    for node in all_nodes(json.loads(workflow.read_text(encoding="utf-8"))):
        if node["type"] == "MarkdownNote":
            continue
        spec, where = info[node["type"]], f"node {node['id']} ({node['type']})"
        inputs = {each["name"]: each["type"] for each in node["inputs"]}
        assert inputs == sockets(spec, inputs), where
        outputs = [(each["name"], each["type"], each.get("shape") == 6) for each in node["outputs"]]
        kinds = [ANY if kind == MATCHES else kind for kind in spec["output"]]
        assert outputs == list(zip(spec["output_name"], kinds, spec["output_is_list"], strict=True)), where


def test_the_template_browser_gets_each_workflow_with_its_picture(host: Host):
    assert sorted(host.get("/workflow_templates")[PACK]) == sorted(path.stem for path in WORKFLOWS)
    for path in WORKFLOWS:
        for file in (path, path.with_suffix(".jpg")):
            assert host.read(f"/api/workflow_templates/{PACK}/{file.name}") == file.read_bytes()
