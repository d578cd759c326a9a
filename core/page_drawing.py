"""The pages of a picture book, drawn."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .fonts import BUILT_IN, Font, check_letters, fonts_for, load_font
from .page import BALLOONS, PageStyle, Panel, Text, arrange_page, pages_of
from .shapes import Float
from .sheet import to_uint8

_INK, _OUTLINE, _PAPER = (30, 30, 30), (60, 60, 60), (255, 255, 255)
_SHRINKS = (1.0, 0.85, 0.7, 0.6, 0.5)
"""Sizes of the text that are tried, as shares of the wanted one, until every text fits."""


def draw_pages(
    pictures: Sequence[Float[Tensor, "_ _ 3"]],
    texts: Sequence[str],
    per_page: int,
    style: PageStyle,
    font_px: int,
    fonts: Iterable[Path] | Path,
    busy: Sequence[Float[Tensor, "_ _"] | None] | None = None,
) -> tuple[list[Image.Image], str]:
    """All pages, and which font and size their texts have.

    Args:
        pictures: In [0, 1], of any sizes.
        texts: One per picture; empty for none.
        per_page: How many pictures a page has at most, 1 to 6.
        style: What a page is like.
        font_px: The wanted size of the text. Where a text does not fit, all are written smaller, down to half of it.
        fonts: The font, or those among which one is looked for that has all letters.
        busy: Per picture, how much a balloon would hide at each place; by default, how much the picture changes there.

    Raises:
        ValueError: If there are no pictures, a letter is in no font, or a text does not fit its page.
    """
    if not pictures:
        raise ValueError("There are no pictures for a page.")
    if isinstance(fonts, Path):
        check_letters(texts, fonts)
        files: list[Path | None] = [fonts] * len(texts)
    else:
        files = fonts_for(texts, fonts)
    hidden = [detail(picture) for picture in pictures] if busy is None and style.captions == BALLOONS else busy
    pages, too_full = pages_of(len(pictures), per_page), 0
    for share in _SHRINKS:
        size = max(6, round(share * font_px))
        own = [load_font(file, size) for file in files]
        panels = _arranged(pictures, texts, pages, style, own, hidden)
        if not isinstance(panels, int):
            parts = [slice(page.start, page.stop) for page in pages]
            drawn = [_drawn(pictures[each], panels[each], own[each], style) for each in parts]
            return drawn, _about(files, size, font_px)
        too_full = panels
    raise ValueError(
        f"The texts of page {too_full} do not fit, even in half of the size. Shorten them, put fewer pictures on a "
        "page, or lower font_size."
    )


def detail(picture: Float[Tensor, "h w 3"]) -> Float[Tensor, "h w"]:
    """How much a picture changes from pixel to pixel, from 0 to 1; a balloon hides least where that is little."""
    grey = picture.mean(dim=-1)
    change = torch.zeros_like(grey)
    change[1:] += grey.diff(dim=0).abs()
    change[:, 1:] += grey.diff(dim=1).abs()
    return change / 2


def _arranged(
    pictures: Sequence[Tensor],
    texts: Sequence[str],
    pages: Sequence[range],
    style: PageStyle,
    fonts: Sequence[Font],
    busy: Sequence[Tensor | None] | None,
) -> list[Panel] | int:
    """The panels of all pages, or the number of a page, from 1, whose texts do not fit."""
    panels: list[Panel] = []
    for number, page in enumerate(pages, start=1):
        arranged = arrange_page(
            [(pictures[n].shape[1], pictures[n].shape[0]) for n in page],
            [Text(texts[n], fonts[n].getlength, line_height(fonts[n])) for n in page],
            style,
            [None if busy is None else busy[n] for n in page],
        )
        if arranged is None:
            return number
        panels += arranged
    return panels


def line_height(font: Font) -> int:
    """From one line to the next, in pixels."""
    ascent, descent = font.getmetrics()
    return round(1.15 * (ascent + descent))


def _drawn(pictures: Sequence[Tensor], panels: Sequence[Panel], fonts: Sequence[Font], style: PageStyle) -> Image.Image:
    page = Image.new("RGB", (style.width, style.height), _PAPER)
    draw = ImageDraw.Draw(page)
    for picture, panel, font in zip(pictures, panels, fonts, strict=True):
        box = panel.picture
        scaled = Image.fromarray(to_uint8(picture)).resize((box.width, box.height), Image.Resampling.LANCZOS)
        page.paste(scaled, (box.left, box.top))
        if panel.text is None:
            continue
        top, text = panel.text.top, panel.text
        if style.captions == BALLOONS:
            edges = (text.left, text.top, text.right - 1, text.bottom - 1)
            radius = min(text.height // 2, line_height(font))
            draw.rounded_rectangle(edges, radius=radius, fill=_PAPER, outline=_OUTLINE, width=max(1, radius // 12))
            top += (text.height - len(panel.lines) * line_height(font)) // 2
        for row, line in enumerate(panel.lines):
            middle = text.left + text.width / 2, top + (row + 0.5) * line_height(font)
            draw.text(middle, line, fill=_INK, font=font, anchor="mm")
    return page


def _about(files: Sequence[Path | None], size: int, wanted: int) -> str:
    names = ", ".join(dict.fromkeys(BUILT_IN if file is None else file.name for file in files))
    smaller = f", smaller than {wanted} so that every text fits" if size < wanted else ""
    return f"font: {names}, {size} pixels{smaller}"
