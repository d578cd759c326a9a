"""Story Sheet."""

from collections.abc import Sequence

import torch
from comfy_api.latest import io, ui

from ..core.identity import Identity
from ..core.layout import Layout
from ..core.scores.report import faces_by_frame
from ..core.story import Frame
from ..core.story_sheet import SheetFrame, story_sheet
from .host.list_inputs import first
from .host.saving import place_of, save_png, states_of
from .types import IdentitySocket, LayoutSocket, StoryFrameSocket

_NODE = "Story Sheet"
LONGEST_SHOWN = 16384
"""Pixels of a side of the picture on the node: what browsers draw."""


class StorySheetNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityStorySheet",
            display_name=_NODE,
            category="StoryIdentity/story",
            description="Puts all frames on one sheet, with their captions; also with templates, masks, portraits and "
            "the likeness of the faces.",
            search_aliases=["contact sheet", "image grid", "storyboard", "comic page", "IdentityStory", "before after"],
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
                io.Image.Input(
                    "templates",
                    optional=True,
                    tooltip="What the base model drew, one per frame: shown above the frame, as before and after.",
                ),
                LayoutSocket.Input(
                    "layouts", optional=True, tooltip="Who is where, one per frame: shown below the frame, as masks."
                ),
                IdentitySocket.Input(
                    "identities", optional=True, tooltip="The portraits that they carry are shown above all frames."
                ),
                io.String.Input(
                    "numbers",
                    optional=True,
                    force_input=True,
                    tooltip="From Score Story: under each frame stands how alike each face is to those of the other "
                    "frames. Needs frames.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="",
                    optional=True,
                    tooltip="Folder and name in ComfyUI's output folder: the sheet is saved there as one PNG, which "
                    "the next one replaces. Empty saves nothing.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="sheet", tooltip="The sheet as one picture on white, also shown on the node."
                )
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_input_list=True,
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, filename_prefix: list[str | None] | None = None, **_: object) -> str:
        """Run again when the file is not as it was left."""
        prefix = (first(filename_prefix) or "").strip()
        return states_of(prefix, _NODE, r"\.png") if prefix else ""

    @classmethod
    def execute(
        cls,
        images: list[torch.Tensor],
        columns: list[int],
        cell_width: list[int],
        captions: list[bool],
        frames: list[Frame] | None = None,
        templates: list[torch.Tensor] | None = None,
        layouts: list[Layout] | None = None,
        identities: list[Identity] | None = None,
        numbers: list[str] | None = None,
        filename_prefix: list[str] | None = None,
    ) -> io.NodeOutput:
        pictures = _pictures(images)
        if frames and (captions[0] or numbers) and len(frames) != len(pictures):
            raise ValueError(f"The sheet has {len(pictures)} pictures but {len(frames)} frames for captions.")
        before = _pictures(templates) if templates else None
        for what, values in (("templates", before), ("layouts", layouts)):
            if values is not None and len(values) != len(pictures):
                raise ValueError(f"The sheet has {len(pictures)} pictures but {len(values)} {what}; connect one each.")
        portraits = {
            identity.name: list(identity.portrait_images())
            for identity in identities or []
            if identity.portraits is not None  # files of the first version have none
        }
        faces = _faces(numbers[0], frames, len(pictures)) if numbers else [[]] * len(pictures)
        shown = [
            SheetFrame(
                picture,
                frames[row].shown_caption if frames and captions[0] else "",
                None if before is None else before[row],
                None if layouts is None else layouts[row],
                faces[row],
            )
            for row, picture in enumerate(pictures)
        ]
        sheet = story_sheet(shown, columns[0], cell_width[0], portraits).unsqueeze(0)
        cls._save((first(filename_prefix) or "").strip(), sheet)
        return io.NodeOutput(sheet, ui=ui.PreviewImage(to_show(sheet), cls=cls))

    @classmethod
    def _save(cls, prefix: str, sheet: torch.Tensor) -> None:
        if prefix:
            folder, name, _ = place_of(_NODE, prefix, sheet.shape[2], sheet.shape[1])
            save_png(_NODE, folder / f"{name}.png", sheet[0], cls.hidden.prompt, cls.hidden.extra_pnginfo)


def to_show(sheet: torch.Tensor, most_pixels: int = 4096 * 4096) -> torch.Tensor:
    """The sheet (1 h w 3), smaller if it has more pixels, or a longer side, than a browser can show on a node."""
    area, longest = sheet.shape[1] * sheet.shape[2], max(sheet.shape[1:3])
    share = min((most_pixels / area) ** 0.5, LONGEST_SHOWN / longest)
    if share >= 1:
        return sheet
    size = [max(1, int(side * share)) for side in sheet.shape[1:3]]
    return torch.nn.functional.interpolate(sheet.movedim(-1, 1), size=size, mode="area").movedim(1, -1)


def _pictures(images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    batches = [batch.flatten(0, -4) for batch in images]  # a video's pictures, one after the other
    return [picture[..., :3].cpu().float() for batch in batches for picture in batch]


def _faces(numbers: str, frames: Sequence[Frame] | None, count: int) -> list[Sequence[tuple[str, float | None, bool]]]:
    """Per picture, whose face is in it and how alike it is."""
    known = faces_by_frame(numbers)
    if not frames:
        raise ValueError("Story Sheet: numbers are by frame; connect frames too, from the same Collect Frames.")
    assert len(frames) == count  # `execute` has checked it
    return [known.get(frame.index, ()) for frame in frames]
