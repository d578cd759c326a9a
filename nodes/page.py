"""Story Page."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..core.fonts import system_fonts
from ..core.layout import Layout
from ..core.page import BALLOONS, CAPTIONS, MOST_PER_PAGE, NO_CAPTIONS, UNDER, PageStyle
from ..core.page_drawing import detail, draw_pages
from ..core.quoting import quote
from ..core.story import Frame
from ..core.story_fields import check_text
from .host.folders import ANY_FONT, check_present, fonts, full_path
from .host.list_inputs import first
from .host.node_text import show_text
from .host.saving import place_of, save_pdf, save_png, states_of
from .types import LayoutSocket, StoryFrameSocket

_NODE = "Story Page"
PNG, PDF, BOTH, NOTHING = "PNG", "PDF", "PNG and PDF", "nothing"
_DOTS_PER_INCH = 150.0
_A4 = {"page_width": 1240, "page_height": 1754}
"""In pixels, at 150 to an inch."""
_NO_TEXTS = "Story Page: there are no texts. Connect frames, write texts, or set captions to none."


class StoryPageNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityStoryPage",
            display_name=_NODE,
            category="StoryIdentity/story",
            description="Lays the frames out as pages of a picture book, one to six a page, with their texts under "
            "them or in balloons, and saves the pages as PNG and PDF.",
            search_aliases=["comic", "comic page", "picture book", "speech balloon", "PDF", "layout", "storyboard"],
            inputs=[
                io.Image.Input("images", tooltip="The finished frames; lists and batches are taken in order."),
                StoryFrameSocket.Input(
                    "frames", optional=True, tooltip="From Story Frames, Collect Frames or Choose Takes, for the texts."
                ),
                io.Int.Input(
                    "per_page", default=4, min=1, max=MOST_PER_PAGE, tooltip="How many frames a page has at most."
                ),
                io.Combo.Input(
                    "captions", options=list(CAPTIONS), default=UNDER, tooltip="Where the text of a frame stands."
                ),
                io.String.Input(
                    "texts",
                    multiline=True,
                    default="",
                    tooltip="One line per frame, in place of the captions of frames; an empty line gives none.",
                ),
                io.Int.Input(
                    "page_width",
                    default=_A4["page_width"],
                    min=256,
                    max=8192,
                    tooltip="In pixels, 150 to an inch in the PDF: 1240 x 1754 is A4.",
                ),
                io.Int.Input(
                    "page_height", default=_A4["page_height"], min=256, max=8192, tooltip="In pixels, likewise."
                ),
                io.Combo.Input(
                    "font",
                    options=fonts(),
                    default=ANY_FONT,
                    tooltip='A file of models/fonts. "automatic" takes Pillow\'s own font, or where it lacks a letter '
                    "one of this machine that has them all.",
                ),
                io.Int.Input(
                    "font_size",
                    default=28,
                    min=6,
                    max=400,
                    tooltip="Height of the letters in pixels. Where a text does not fit, all are written smaller.",
                ),
                io.Combo.Input(
                    "save", options=[BOTH, PNG, PDF, NOTHING], default=BOTH, tooltip="What is saved as files."
                ),
                io.String.Input(
                    "filename_prefix",
                    default="StoryIdentity/book",
                    tooltip="Folder and name in ComfyUI's output folder: book_0001.png and so on, and book.pdf. They "
                    "are replaced in the next run.",
                ),
                LayoutSocket.Input(
                    "layouts",
                    optional=True,
                    tooltip="Who is where, one per frame: balloons then keep off the characters.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="pages", tooltip="All pages as one batch."),
                io.String.Output(display_name="report", tooltip="How many pages there are, and which font they have."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_input_list=True,
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(
        cls,
        texts: list[str | None],
        font: list[str | None],
        captions: list[str | None] | None = None,
        input_types: list[dict[str, str]] | None = None,
    ) -> bool | str:
        """Refuse broken text and a font that is not there before anything runs. None comes through a link."""
        try:
            check_text(first(texts) or "", "texts")
        except ValueError as error:
            return str(error)
        written = first(texts) is None or bool(str(first(texts)).strip())
        if first(captions) not in (None, NO_CAPTIONS) and not written and "frames" not in (first(input_types) or {}):
            return _NO_TEXTS
        return first(font) == ANY_FONT or check_present("fonts", first(font))

    @classmethod
    def fingerprint_inputs(cls, filename_prefix: list[str | None], save: list[str | None], **_: object) -> str:
        """Run again when the files are not as they were left."""
        if first(save) == NOTHING or not first(filename_prefix):
            return ""
        return states_of(first(filename_prefix), _NODE, r"(_[0-9]{4,5}\.png|\.pdf)")

    @classmethod
    def execute(
        cls,
        images: list[torch.Tensor],
        per_page: list[int],
        captions: list[str],
        texts: list[str],
        page_width: list[int],
        page_height: list[int],
        font: list[str],
        font_size: list[int],
        save: list[str],
        filename_prefix: list[str],
        frames: list[Frame] | None = None,
        layouts: list[Layout] | None = None,
    ) -> io.NodeOutput:
        pictures = [picture[..., :3].cpu().float() for batch in images for picture in batch.flatten(0, -4)]
        style = PageStyle(page_width[0], page_height[0], captions[0])
        words = _texts(texts[0], captions[0], frames, len(pictures))
        busy = _busy(pictures, layouts, captions[0])
        if save[0] != NOTHING:
            folder, name, subfolder = place_of(_NODE, filename_prefix[0], style.width, style.height)
        else:
            folder, name, subfolder = Path(), "", ""
        pages, about = draw_pages(pictures, words, per_page[0], style, font_size[0], _fonts(font[0]), busy)
        report = f"{len(pages)} page{'s' if len(pages) > 1 else ''}, {about}"
        logging.info("%s: %s", _NODE, report)
        show_text(report)
        batch = torch.from_numpy(np.stack([np.asarray(page) for page in pages])).float() / 255
        if save[0] in (PDF, BOTH):
            save_pdf(_NODE, folder / f"{name}.pdf", pages, _DOTS_PER_INCH)
        if save[0] in (PNG, BOTH):
            return io.NodeOutput(batch, report, ui=cls._saved(batch, folder, name, subfolder))
        return io.NodeOutput(batch, report, ui=ui.PreviewImage(batch, cls=cls))

    @classmethod
    def _saved(cls, pages: torch.Tensor, folder: Path, name: str, subfolder: str) -> ui.SavedImages:
        saved = []
        for number, page in enumerate(pages, start=1):
            path = folder / f"{name}_{number:04}.png"
            save_png(_NODE, path, page, cls.hidden.prompt, cls.hidden.extra_pnginfo)
            saved.append(ui.SavedResult(path.name, subfolder, io.FolderType.output))
        return ui.SavedImages(saved)


def _texts(typed: str, captions: str, frames: Sequence[Frame] | None, count: int) -> list[str]:
    """The text of each picture."""
    if captions not in CAPTIONS:
        raise ValueError(f"Story Page: captions is {quote(captions)}; it must be one of {', '.join(CAPTIONS)}.")
    if captions == NO_CAPTIONS:
        return [""] * count
    if typed.strip():
        lines = typed.split("\n")
        while len(lines) > count and not lines[-1].strip():
            lines.pop()
        if len(lines) != count:
            raise ValueError(
                f"Story Page: texts has {len(lines)} lines for {count} pictures. Write one line for each, an empty one "
                "for a picture without text."
            )
        return lines
    if frames is None:
        raise ValueError(_NO_TEXTS)
    if len(frames) != count:
        raise ValueError(
            f"Story Page: there are {count} pictures and {len(frames)} frames. Connect both from the same node; with "
            "several takes, Choose Takes comes before."
        )
    return [frame.shown_caption for frame in frames]


def _busy(
    pictures: Sequence[torch.Tensor], layouts: Sequence[Layout] | None, captions: str
) -> list[torch.Tensor | None] | None:
    """What a balloon would hide: characters first, then detail."""
    if captions != BALLOONS or layouts is None:
        return None
    if len(layouts) != len(pictures):
        raise ValueError(
            f"Story Page: there are {len(pictures)} pictures and {len(layouts)} layouts. Connect the layouts of the "
            "same frames."
        )
    busy: list[torch.Tensor | None] = []
    for picture, layout in zip(pictures, layouts, strict=True):
        if len(layout.names) and layout.size != tuple(picture.shape[:2]):
            (height, width), size = layout.size, picture.shape
            raise ValueError(f"{layout.label}: the layout is {width}x{height}, but the picture is {size[1]}x{size[0]}.")
        there = layout.masks.any(dim=0).float() if len(layout.names) else 0.0
        busy.append(detail(picture) / 10 + there)
    return busy


def _fonts(name: str) -> Path | list[Path]:
    """The chosen font, or those among which one is looked for: models/fonts first, then those of the machine."""
    if name != ANY_FONT:
        return full_path("fonts", name)
    return [*(full_path("fonts", each) for each in fonts()[1:]), *system_fonts()]
