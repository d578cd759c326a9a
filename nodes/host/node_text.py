"""Text on a node, while it runs, by the means that ComfyUI has for reports of progress."""

import logging
from collections.abc import Sequence

from comfy_api.latest import ui
from comfy_execution.utils import get_executing_context
from server import PromptServer


def show_text(text: str, node_id: str | None = None) -> None:
    """Show a text on a node of the editor; nothing happens where no editor listens.

    Args:
        text: One or more lines, which replace what was shown before.
        node_id: Which node; by default the one that is running.
    """
    context = get_executing_context()
    node_id = node_id or (context.node_id if context else None)
    server = getattr(PromptServer, "instance", None)
    if node_id and server is not None:
        server.send_progress_text(text, node_id)


def report(text: str) -> ui.PreviewText:
    """Show on the running node what it did; gives what the node's output takes as `ui`, for when a page is reloaded."""
    show_text(text)
    return ui.PreviewText(text)


def warn(sentences: Sequence[str]) -> None:
    """Sentences in the log and, while the node runs, on it."""
    for sentence in sentences:
        logging.warning("%s", sentence)
    if sentences:
        show_text("\n".join(f"⚠ {sentence}" for sentence in sentences))
