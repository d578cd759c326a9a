"""ComfyUI's own editor, in a browser and in Japanese, shows the nodes in Japanese."""

import json
from collections.abc import Iterator

import pytest

from .chromium import CHROMIUM, Page
from .comfyui import REPOSITORY
from .editor import open_editor
from .server import Host

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found, so ComfyUI's own editor was not tried")

LOOK = """
    const node = LiteGraph.createNode("NODE")
    app.graph.add(node)
    await new Promise(done => setTimeout(done, 500))
    const shown = {
        title: node.title,
        inputs: Object.fromEntries((node.inputs ?? []).map(each => [each.name, each.label ?? each.localized_name])),
        widgets: Object.fromEntries((node.widgets ?? []).map(each => [each.name, each.label])),
        outputs: (node.outputs ?? []).map(each => each.label ?? each.localized_name),
    }
    app.graph.remove(node)
    return shown
"""


@pytest.fixture(scope="module")
def page(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    try:
        with open_editor(host, tmp_path_factory.mktemp("chromium"), {"Comfy.Locale": "ja"}) as opened:
            yield opened
    finally:
        host.read("/settings", {"Comfy.Locale": "en"})


@pytest.mark.parametrize("node_id", ["StoryIdentityStory", "StoryIdentityRedenoise", "StoryIdentityEachFrame"])
def test_names_are_translated(page, node_id):
    stored = json.loads((REPOSITORY / "locales" / "ja" / "nodeDefs.json").read_text(encoding="utf-8"))[node_id]
    shown = page.run(LOOK.replace("NODE", node_id))
    assert shown["title"] == stored["display_name"]
    labels = {**shown["widgets"], **{name: label for name, label in shown["inputs"].items() if label}}
    assert {name: labels.get(name) for name in stored["inputs"]} == {
        name: each["name"] for name, each in stored["inputs"].items()
    }
    assert shown["outputs"] == [each["name"] for each in stored["outputs"].values()]
