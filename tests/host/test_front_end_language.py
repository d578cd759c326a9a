"""ComfyUI's own editor, in a browser and in Japanese, shows the nodes in Japanese."""

import json
import time
from collections.abc import Iterator

import pytest

from .chromium import CHROMIUM, START_S, Page
from .comfyui import REPOSITORY
from .server import Host

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found, so ComfyUI's own editor was not tried")

READY = "return Boolean(window.app?.extensionManager && window.LiteGraph?.registered_node_types['StoryIdentityStory'])"
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
    host.read("/settings", {"Comfy.TutorialCompleted": True, "Comfy.Locale": "ja"})
    try:
        with Page(tmp_path_factory.mktemp("chromium")) as opened:
            opened.call("Page.navigate", url=f"http://127.0.0.1:{host._port}")
            end = time.monotonic() + START_S
            while not opened.run(READY):
                assert time.monotonic() < end, "the editor did not load"
                time.sleep(0.5)
            time.sleep(3)
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
