"""ComfyUI's own editor, open in a browser."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .chromium import START_S, Page
from .server import Host

WINDOW = (1600, 1000)
READY = "return Boolean(window.app?.extensionManager && window.LiteGraph?.registered_node_types['StoryIdentityStory'])"
SAID = "[role=dialog], .p-toast-message, [data-testid=error-overlay]"
"""A CSS selector of what the editor says beside the graph."""
OPEN = """
    await app.loadGraphData(GRAPH, true, true, NAME)
    await new Promise(done => setTimeout(done, 1500))
"""


@contextmanager
def open_editor(host: Host, folder: Path, settings: dict[str, Any] | None = None) -> Iterator[Page]:
    """The editor of a running host, ready, with settings of the user; `folder` becomes the browser's profile."""
    # Without the first setting it greets with its templates.
    host.read("/settings", {"Comfy.TutorialCompleted": True, **(settings or {})})
    with Page(folder) as page:
        across, down = WINDOW
        size = {"width": across, "height": down, "deviceScaleFactor": 1, "mobile": False}
        page.call("Emulation.setDeviceMetricsOverride", **size)
        page.call("Page.navigate", url=f"http://127.0.0.1:{host._port}")
        wait(lambda: page.run(READY), START_S)
        time.sleep(3)  # it loads a workflow of its own first
        yield page


def wait(happened: Callable[[], Any], seconds: float) -> None:
    """Ask again and again until it has happened."""
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise RuntimeError(f"not done after {seconds:.0f} s")
        time.sleep(0.05)


def open_workflow(page: Page, path: Path) -> None:
    workflow = path.read_text(encoding="utf-8")
    page.run(OPEN.replace("GRAPH", workflow).replace("NAME", json.dumps(path.stem)))
