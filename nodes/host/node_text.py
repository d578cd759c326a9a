"""Text on a node, while it runs, by the means that ComfyUI has for reports of progress."""

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
