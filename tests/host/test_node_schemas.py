"""The stored descriptions of the nodes are those of the running ComfyUI."""

import pytest
from story_identity.lab.workflows.schemas import read_schemas, trim

REFRESH = (
    "ComfyUI {running} describes this node otherwise than lab/workflows/node_schemas.json, which is of {stored}. Run "
    "python -m tests.host.write_node_schemas, then python -m story_identity.lab.workflows and "
    "python -m tests.host.write_api_twins."
)
STORED = read_schemas()


@pytest.fixture(scope="module")
def running(host):
    return trim(host.object_info(), host.get("/system_stats")["system"])


def test_the_nodes_are_the_same(running):
    assert running["nodes"].keys() == STORED["nodes"].keys(), REFRESH.format(
        running=running["comfyui"], stored=STORED["comfyui"]
    )


@pytest.mark.parametrize("name", STORED["nodes"])
def test_a_node_is_described_as_stored(running, name):
    message = REFRESH.format(running=running["comfyui"], stored=STORED["comfyui"])
    assert running["nodes"].get(name) == STORED["nodes"][name], message
