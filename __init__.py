"""ComfyUI-StoryIdentity: picture stories that keep their characters from frame to frame."""

import importlib
from typing import Any

WEB_DIRECTORY = "./web"

_OLDEST_HOST = (0, 14)


async def comfy_entrypoint() -> Any:
    """Called once by ComfyUI when it loads the pack; says so if that ComfyUI is too old."""
    version = importlib.import_module("comfyui_version").__version__
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_HOST:
        oldest = ".".join(map(str, _OLDEST_HOST))
        raise RuntimeError(f"ComfyUI-StoryIdentity needs ComfyUI {oldest} or newer; this is {version}. Update ComfyUI.")
    from .nodes.extension import StoryIdentityExtension

    return StoryIdentityExtension()
