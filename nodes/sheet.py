"""Story Sheet."""

import torch
from comfy_api.latest import io, ui

from ..core.sheet import contact_sheet
from ..core.story import Frame
from .types import StoryFrameSocket


class StorySheetNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityStorySheet",
            display_name="Story Sheet",
            category="StoryIdentity/story",
            description="Puts all frames on one sheet, with their captions.",
            search_aliases=["contact sheet", "image grid", "storyboard", "comic page", "IdentityStory"],
            inputs=[
                io.Image.Input(
                    "images", tooltip="The finished frames; lists and batches are taken in order, sizes may differ."
                ),
                StoryFrameSocket.Input(
                    "frames", optional=True, tooltip="From Story Frames or Collect Frames, for the captions."
                ),
                io.Int.Input("columns", default=4, min=1, max=64, tooltip="Pictures per row."),
                io.Int.Input(
                    "cell_width",
                    default=512,
                    min=16,
                    max=4096,
                    tooltip="Width of a picture on the sheet; the height follows.",
                ),
                io.Boolean.Input("captions", default=True, tooltip="Write each frame's text under it. Needs frames."),
            ],
            outputs=[
                io.Image.Output(
                    display_name="sheet", tooltip="The sheet as one picture on white, also shown on the node."
                )
            ],
            hidden=[io.Hidden.unique_id],
            is_input_list=True,
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        images: list[torch.Tensor],
        columns: list[int],
        cell_width: list[int],
        captions: list[bool],
        frames: list[Frame] | None = None,
    ) -> io.NodeOutput:
        batches = [batch.flatten(0, -4) for batch in images]  # a video's pictures, one after the other
        pictures = [picture[..., :3].cpu().float() for batch in batches for picture in batch]
        texts = [""] * len(pictures)
        if frames and captions[0]:
            if len(frames) != len(pictures):
                raise ValueError(f"The sheet has {len(pictures)} pictures but {len(frames)} frames for captions.")
            texts = [frame.caption for frame in frames]
        sheet = contact_sheet(pictures, texts, columns[0], cell_width[0]).unsqueeze(0)
        return io.NodeOutput(sheet, ui=ui.PreviewImage(sheet, cls=cls))
