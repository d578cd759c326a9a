"""Each Frame in ComfyUI's own editor: a subgraph, bypassed and muted nodes in the loop, the picture loaded back."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from .chromium import CHROMIUM, Page
from .comfyui import REPOSITORY, ComfyUI
from .editor import open_editor
from .frame_loops import LoopHost

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found, so ComfyUI's own editor was not tried")

STEPS = 2
LOAD = """
    await app.loadGraphData(GRAPH, true, true, "frames")
    await new Promise(done => setTimeout(done, 500))
    const named = kind => app.graph.nodes.find(node => node.type === kind)
    const added = (kind, x) => {
        const node = LiteGraph.createNode(kind)
        node.pos = [x, 1200]
        app.graph.add(node)
        return node
    }
    const decoded = named("VAEDecode"), saved = named("StoryIdentitySaveFrame")
    const inverted = added("ImageInvert", 1000), muted = added("PreviewImage", 1400)
    decoded.connect(0, inverted, 0)
    inverted.connect(0, saved, 0)
    decoded.connect(0, muted, 0)
    inverted.mode = 4
    muted.mode = 2
    const folded = ["StoryIdentityEncodeFrame", "EmptyLatentImage", "KSampler", "VAEDecode"].map(named)
    const made = app.graph.convertToSubgraph(new Set([...folded, inverted]))
    await app.queuePrompt(0)
    const prompt = (await app.graphToPrompt()).output
    return {prompt, subgraph: made.node.title, nodes: app.graph.nodes.length}
"""
SHOWN = """
    const kinds = Object.fromEntries(app.graph.nodes.map(node => [node.type, node]))
    const text = kind => (kinds[kind].widgets ?? []).map(each => String(each.value ?? "")).join("\\n")
    return {
        story: text("StoryIdentityStory"),
        collected: text("StoryIdentityCollectFrames"),
        saved: kinds["StoryIdentitySaveFrame"].imgs?.length ?? 0,
    }
"""


@pytest.fixture(scope="module")
def host(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopHost]:
    with LoopHost(comfyui, tmp_path_factory.mktemp("editor")) as server:
        yield server


@pytest.fixture(scope="module")
def page(host: LoopHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_editor(host, tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def workflow() -> dict[str, Any]:
    stored = json.loads((REPOSITORY / "workflows" / "toyworld_each_frame.json").read_text(encoding="utf-8"))
    (sampler,) = (node for node in stored["nodes"] if node["type"] == "KSampler")
    sampler["widgets_values"][2] = STEPS
    return stored


def finished(host: LoopHost, runs: int) -> None:
    host.wait(lambda: sum(entry["status"]["completed"] for entry in host.get("/history").values()) == runs)


def test_a_folded_loop_with_a_bypassed_and_a_muted_node_runs_once_per_frame(host: LoopHost, page: Page):
    loaded = page.run(LOAD.replace("GRAPH", json.dumps(workflow())))
    assert any(":" in node_id for node_id in loaded["prompt"])
    assert not any(node["class_type"] in ("ImageInvert", "PreviewImage") for node in loaded["prompt"].values())
    finished(host, 1)
    pictures = sorted((host.output_dir / "StoryIdentity").iterdir())
    assert [path.name for path in pictures] == [f"toy story_000{number}.png" for number in range(1, 5)]
    time.sleep(1)
    shown = page.run(SHOWN)
    assert "4 · Mira, Pip" in shown["story"]
    assert "frame 4 of 4" in shown["collected"]
    assert shown["saved"] == 1
    check_the_picture_loads_its_workflow(page, pictures[0], loaded["nodes"])


def check_the_picture_loads_its_workflow(page: Page, path: Path, nodes: int) -> None:
    with Image.open(path) as image:
        carried = json.loads(image.info["workflow"])
    count = page.run(
        f'await app.loadGraphData({json.dumps(carried)}, true, true, "back"); return app.graph.nodes.length'
    )
    assert count == nodes
