"""ComfyUI's own editor, in a browser, loads every shipped workflow and hands the server what the stored twin says."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from .chromium import CHROMIUM, Page
from .editor import SAID, open_editor
from .server import Host
from .write_api_twins import TWINS, WORKFLOWS

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found, so ComfyUI's own editor was not tried")

LOAD = """
    await app.loadGraphData(GRAPH, true, true, "shipped")
    await new Promise(done => setTimeout(done, 1000))
    const boxes = Object.fromEntries(app.graph.nodes.map(node => [node.id, Array.from(node.size).map(Math.round)]))
    const said = [...document.querySelectorAll(SAID)].map(each => each.innerText)
    const subgraphs = app.graph.nodes.filter(node => node.subgraph)
    const promoted = Object.fromEntries(subgraphs.map(node => [node.id, node.widgets.map(each => each.name)]))
    return {graph: app.graph.serialize(), prompt: (await app.graphToPrompt()).output, boxes, said, promoted}
"""

SEARCH = """
    const box = 'input[placeholder="Add a node..."]'
    if (!document.querySelector(box)) await app.extensionManager.command.execute("Workspace.SearchBox.Toggle")
    const until = async ready => {
        for (let n = 0; n < 600 && !ready(); n++) await new Promise(done => setTimeout(done, 100))
    }
    await until(() => document.querySelector(box))
    const input = document.querySelector(box)
    const found = () => [...document.querySelectorAll("[role=option]")].map(each => each.innerText.split("\\n")[0])
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(input, WORDS)
    input.dispatchEvent(new Event("input", {bubbles: true}))
    await until(() => found().includes(NAME))
    return found()
"""
FOUND = {
    "consistent character": "Consistent story (comic, characters)",
    "same person": "Draw frames together (same person)",
    "character sheet": "Find identities (character sheet)",
    "story": "Consistent story (comic, characters)",
    "comic": "Consistent story (comic, characters)",
}


@pytest.fixture(scope="module")
def page(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_editor(host, tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_editor_loads_it_whole(page, path):
    stored = json.loads(path.read_text(encoding="utf-8"))
    page.complaints.clear()
    loaded = page.run(LOAD.replace("SAID", json.dumps(SAID)).replace("GRAPH", json.dumps(stored)))
    assert loaded["said"] == []
    assert page.complaints == []
    assert sorted(loaded["graph"]["links"]) == sorted(stored["links"])
    assert loaded["boxes"] == {str(node["id"]): node["size"] for node in stored["nodes"]}
    assert without_titles(loaded["prompt"]) == without_titles(json.loads((TWINS / path.name).read_text("utf-8")))
    values = {node["id"]: node.get("widgets_values") or [] for node in all_nodes(loaded["graph"])}
    shown = {node["id"]: node["widgets_values"] for node in all_nodes(stored) if node["type"] != "PreviewAny"}
    assert {key: values[key] for key in shown} == shown
    for node in (node for node in stored["nodes"] if "proxyWidgets" in node["properties"]):
        sockets = {each["name"] for each in node["inputs"]}  # the editor also shows a widget for a number that enters
        shown = [name for name in loaded["promoted"][str(node["id"])] if name not in sockets]
        assert shown == told_apart([widget for _, widget in node["properties"]["proxyWidgets"]])


@pytest.mark.parametrize(("words", "name"), FOUND.items())
def test_the_search_for_nodes_finds_a_subgraph_and_nodes_of_the_pack(page, words, name):
    found = page.run(SEARCH.replace("WORDS", json.dumps(words)).replace("NAME", json.dumps(name)))
    assert name in found
    assert {"Story", "Characters", "Find Identity"} & set(found)


def test_the_quickstart_is_the_first_of_the_templates(page):
    listed = page.run("return (await app.api.getWorkflowTemplates())['ComfyUI-StoryIdentity']")
    assert listed[0] == "toyworld_quickstart"
    assert listed[1:] == sorted(path.stem for path in WORKFLOWS if path.stem != listed[0])


def test_a_report_is_shown_again_when_a_run_has_ended(page):
    """Front ends from 1.58 on drop all texts then."""
    shown = page.run("""
        app.graph.clear()
        const texts = node => (node.widgets ?? []).map(each => each.value).filter(each => each === "1 of 2")
        const story = LiteGraph.createNode("StoryIdentityStory")
        app.graph.add(story)
        story.onExecuted({text: ["1 of 2"]})
        const before = texts(story)
        app.api.dispatchCustomEvent("execution_success", {})
        await new Promise(done => setTimeout(done, 500))
        return [before, texts(story)]
    """)
    assert shown == [[], ["1 of 2"]]


def told_apart(names: list[str]) -> list[str]:
    """As the editor names widgets of several nodes that have one name: `cfg`, `cfg_1`."""
    return [f"{name}_{before}" if (before := names[:at].count(name)) else name for at, name in enumerate(names)]


def all_nodes(graph: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes of a workflow, with those of its subgraphs in place of the nodes that stand for these."""
    subgraphs = {each["id"]: each["nodes"] for each in graph.get("definitions", {}).get("subgraphs", [])}
    return [inner for node in graph["nodes"] for inner in subgraphs.get(node["type"], [node])]


def without_titles(prompt: dict[str, Any]) -> dict[str, Any]:
    return {key: {"class_type": node["class_type"], "inputs": node["inputs"]} for key, node in prompt.items()}
