"""What a checkpoint may lack, refused before anything runs."""

from typing import Any

_PARTS = {
    "model": ("MODEL", "diffusion model", "Load Diffusion Model"),
    "clip": ("CLIP", "text encoder", "Load CLIP (SDXL: DualCLIPLoader)"),
    "vae": ("VAE", "VAE", "Load VAE"),
    "clip_vision": ("CLIP_VISION", "image encoder", "Load CLIP Vision"),
}
"""Per input, the socket's type, what it stands for, and the stock node that loads one by itself."""


def require_parts(node: str, **parts: Any) -> None:
    """Refuse inputs that are None: what a loader gives for a part that its checkpoint does not hold.

    Args:
        node: The display name of the node, for the message.
        parts: What arrived at inputs called as in `_PARTS`.

    Raises:
        ValueError: Naming the first part that is missing.
    """
    for name, part in parts.items():
        if part is None:
            socket, meaning, loader = _PARTS[name]
            raise ValueError(
                f"{node}: the {socket} is None. If it comes from a checkpoint loader, the checkpoint holds no "
                f"{meaning}: connect one from {loader}, or use another checkpoint."
            )
