"""Example Picture: a drawn picture that comes with the pack."""

from pathlib import Path

import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image

from ..core.quoting import quote, quote_all

_FILES = {path.stem.replace("_", " "): path for path in sorted(Path(__file__).with_name("pictures").glob("*.png"))}


class ExamplePictureNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityExamplePicture",
            display_name="Example Picture",
            category="StoryIdentity/toy world",
            description="A drawn picture that comes with the pack, so that a workflow with pictures runs at once. For "
            "your own picture put Load Image in its place.",
            search_aliases=["load image", "sample picture", "demo", "reference picture", "pose", "OpenPose"],
            inputs=[
                io.Combo.Input(
                    "picture",
                    options=list(_FILES),
                    tooltip="Close-ups of a drawn person, three of each, for Face Features; a pose for a ControlNet.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The picture, as Load Image would give it.")],
        )

    @classmethod
    def weight_files(cls) -> list[Path]:
        """The files that the node reads, on which results depend."""
        return list(_FILES.values())

    @classmethod
    def execute(cls, picture: str) -> io.NodeOutput:
        if picture not in _FILES:  # a name that came through a link
            raise ValueError(f"Example Picture: there is no picture {quote(picture)}. There are {quote_all(_FILES)}.")
        with Image.open(_FILES[picture]) as file:
            levels = np.asarray(file.convert("RGB"), dtype=np.float32)
        image = torch.from_numpy(levels / 255).unsqueeze(0)
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))
