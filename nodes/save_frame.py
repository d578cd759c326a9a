"""Save Frame."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from comfy.cli_args import args
from comfy_api.latest import io, ui
from comfy_execution.graph import ExecutionBlocker
from comfy_execution.utils import get_executing_context
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..core.atomic_files import atomic_write
from ..core.quoting import printable, quote
from ..core.story import Frame
from .host.loops import workflow_of
from .types import StoryFrameSocket

_MARK = "StoryIdentity"
"""The text chunk of a PNG that Save Frame wrote: a digest of its pixels."""


class SaveFrameNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentitySaveFrame",
            display_name="Save Frame",
            category="StoryIdentity/story",
            description="Saves a frame as soon as it is finished, as a PNG under the story's name and the frame's "
            "number. A frame that is drawn again replaces its picture.",
            search_aliases=["save image", "output", "story", "comic", "frame number", "page"],
            inputs=[
                io.Image.Input("images", lazy=True, tooltip="The finished frame."),
                io.String.Input(
                    "filename_prefix",
                    default="StoryIdentity/story",
                    tooltip="Folder and name of the story in ComfyUI's output folder; frame 3 becomes story_0003.png.",
                ),
                io.Int.Input(
                    "number",
                    default=0,
                    min=0,
                    max=99999,
                    tooltip="0 takes the frame's own number: between Each Frame and Collect Frames, or from frame.",
                ),
                StoryFrameSocket.Input(
                    "frame",
                    optional=True,
                    tooltip="From Story Frames, for its number. Not needed between Each Frame and Collect Frames.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="The same pictures; go on to Collect Frames.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.dynprompt],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, filename_prefix: str | None, number: int | None, **others: Any) -> str:
        """Run again when the files are not as they were left."""
        folder, name, _ = _place(filename_prefix or "", 0, 0)
        pattern = re.compile(rf"{re.escape(name)}_{f'{number:04}' if number else '[0-9]{4,5}'}(_[0-9]+)?\.png")
        files = sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name))
        return "\n".join(f"{path.name}:{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in files)

    @classmethod
    def check_lazy_status(cls, **_: Any) -> list[str]:
        """Ask for the picture, unless only copies of this node get one.

        Between Each Frame and Collect Frames the node itself has nothing to save; with its input lazy, what stands
        before the loop does not run for it when all frames are known.
        """
        return [] if cls._is_in_loop() else ["images"]

    @classmethod
    def execute(
        cls, filename_prefix: str, number: int, images: torch.Tensor | None = None, frame: Frame | None = None
    ) -> io.NodeOutput:
        if images is None or cls._is_in_loop():
            return io.NodeOutput(ExecutionBlocker(None))
        number = number or (0 if frame is None else frame.index + 1)
        if number < 1:
            raise ValueError(
                "Save Frame: the frame's number is not known. Put the node between Each Frame and Collect Frames, or "
                "connect frame of Story Frames, or set number."
            )
        folder, name, subfolder = _place(filename_prefix, images.shape[2], images.shape[1])
        saved = []
        for place, picture in enumerate(images, start=1):
            path = folder / f"{name}_{number:04}{f'_{place}' if len(images) > 1 else ''}.png"
            _save(path, picture, cls.hidden.prompt, cls.hidden.extra_pnginfo)
            saved.append(ui.SavedResult(path.name, subfolder, io.FolderType.output))
        return io.NodeOutput(images, ui=ui.SavedImages(saved))

    @classmethod
    def _is_in_loop(cls) -> bool:
        """Whether this is a node that Collect Frames copies, and not a copy.

        Raises:
            ValueError: If it stands after an Each Frame that has no Collect Frames.
        """
        context = get_executing_context()
        if context is None:
            return False
        workflow = workflow_of(cls.hidden.dynprompt)
        loops = workflow.open_loops(context.node_id)
        for each in loops:
            workflow.require_end(each)
        return bool(loops)


def _place(prefix: str, width: int, height: int) -> tuple[Path, str, str]:
    """Folder, name and subfolder of the output folder, as Save Image understands a prefix."""
    folder, name, _, subfolder, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory(), width, height
    )
    if not name or printable(name, 200) != name:
        raise ValueError(f"Save Frame: filename_prefix {quote(prefix)} names no file. Write a folder and a name.")
    return Path(folder), name, subfolder


def _save(path: Path, picture: torch.Tensor, prompt: Any, more: dict[str, Any] | None) -> None:
    """Write a picture with ComfyUI's metadata, unless the file has the very same pixels.

    Raises:
        ValueError: If the file is there and Save Frame did not write it.
    """
    pixels = np.clip(255.0 * picture.cpu().numpy(), 0, 255).astype(np.uint8)  # as Save Image rounds
    digest = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()
    known = _digest_of(path)
    if known == digest:
        return
    if known is None and path.exists():
        raise ValueError(
            f"Save Frame: {printable(str(path))} is there and was not saved by Save Frame. Move it away, or choose "
            "another filename_prefix."
        )
    metadata = PngInfo()
    metadata.add_text(_MARK, digest)
    if not args.disable_metadata:
        for key, value in {"prompt": prompt, **(more or {})}.items():
            if value is not None:
                metadata.add_text(key, json.dumps(value))
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=metadata, compress_level=4)


def _digest_of(path: Path) -> str | None:
    """The digest in a file that Save Frame wrote; None for any other file, and where there is none."""
    if not path.is_file():
        return None
    try:
        with Image.open(path) as image:
            found = image.info.get(_MARK)
    except OSError:
        return None
    return found if isinstance(found, str) else None
