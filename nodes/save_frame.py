"""Save Frame."""

from typing import Any

import torch
from comfy_api.latest import io, ui
from comfy_execution.graph import ExecutionBlocker
from comfy_execution.utils import get_executing_context

from ..core.story import Frame
from .host.loops import workflow_of
from .host.saving import place_of, save_png, states_of
from .types import StoryFrameSocket

_NODE = "Save Frame"


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
                io.Int.Input(
                    "take",
                    default=0,
                    min=0,
                    max=99999,
                    optional=True,
                    tooltip="Put into the file's name: take 2 of frame 3 becomes story_0003_take2.png. 0 takes the "
                    "frame's own; a frame with one take has none.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="The same pictures; go on to Collect Frames.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.dynprompt],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, filename_prefix: str | None, number: int | None, **others: Any) -> str:
        """Run again when the files are not as they were left."""
        numbered = f"{number:04}" if number else "[0-9]{4,5}"
        return states_of(filename_prefix or "", _NODE, rf"_{numbered}(_take[0-9]+)?(_[0-9]+)?\.png")

    @classmethod
    def check_lazy_status(cls, **_: Any) -> list[str]:
        """Ask for the picture, unless only copies of this node get one.

        Between Each Frame and Collect Frames the node itself has nothing to save; with its input lazy, what stands
        before the loop does not run for it when all frames are known.
        """
        return [] if cls._is_in_loop() else ["images"]

    @classmethod
    def execute(
        cls,
        filename_prefix: str,
        number: int,
        images: torch.Tensor | None = None,
        frame: Frame | None = None,
        take: int = 0,
    ) -> io.NodeOutput:
        if images is None or cls._is_in_loop():
            return io.NodeOutput(ExecutionBlocker(None))
        number = number or (0 if frame is None else frame.index + 1)
        if number < 1:
            raise ValueError(
                "Save Frame: the frame's number is not known. Put the node between Each Frame and Collect Frames, or "
                "connect frame of Story Frames, or set number."
            )
        folder, name, subfolder = place_of(_NODE, filename_prefix, images.shape[2], images.shape[1])
        name = f"{name}_{number:04}{f'_take{take}' if take else ''}"
        saved = []
        for place, picture in enumerate(images, start=1):
            path = folder / f"{name}{f'_{place}' if len(images) > 1 else ''}.png"
            save_png(_NODE, path, picture, cls.hidden.prompt, cls.hidden.extra_pnginfo)
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
