"""The demo's pictures: masks over templates, all portraits of a character, and everything on one sheet."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from ..core.shapes import Float, UInt8
from ..core.sheet import colour_of, contact_sheet
from .demo_album import Album, FaceSim, Page, Portraits

_FRAME_WIDTH = 256
_PORTRAIT_WIDTH = 128
_COLUMNS = 8
_FADED = 100  # alpha of portraits that were not kept, out of 255
_TITLE_PX, _HEADING_PX = 40, 24


def as_bytes(picture: Float[Tensor, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def enlarge(picture: Float[Tensor, "h w 3"], width: int) -> Float[Tensor, "H W 3"]:
    """Repeat pixels by the largest whole number with which the picture is not wider than `width`; 1 at least."""
    times = max(1, width // picture.shape[1])
    return picture.repeat_interleave(times, dim=0).repeat_interleave(times, dim=1)


def draw_masks(page: Page) -> Float[Tensor, "H W 3"]:
    """The template, enlarged, with each character's mask in the colour that they have throughout the story."""
    tinted = page.template.clone()
    for name, mask in zip(page.layout.names, page.layout.masks, strict=True):
        colour = torch.tensor(colour_of(page.frame.story_names.index(name))) / 255
        tinted[mask] = 0.4 * tinted[mask] + 0.6 * colour
    return enlarge(tinted, _FRAME_WIDTH)


def draw_portraits(portraits: Portraits, index: int) -> Image.Image:
    """All portraits of one character in rows of eight; those not kept are faded, the others framed.

    Args:
        portraits: Whose.
        index: The character's place in the story, which gives their colour.
    """
    height, width, _ = portraits.pictures[0].shape
    frame = max(1, width // 16)
    rows = -(-len(portraits.pictures) // _COLUMNS)
    cell = (width + 2 * frame, height + 2 * frame)
    whole = Image.new("RGBA", (min(_COLUMNS, len(portraits.pictures)) * cell[0], rows * cell[1]))
    for position, picture in enumerate(portraits.pictures):
        row, column = divmod(position, _COLUMNS)
        kept = position in portraits.kept
        plate = Image.new("RGBA", cell, colour_of(index) if kept else (0, 0, 0, 0))
        portrait = Image.fromarray(as_bytes(picture)).convert("RGBA")
        portrait.putalpha(255 if kept else _FADED)
        plate.paste(portrait, (frame, frame))
        whole.paste(plate, (column * cell[0], row * cell[1]))
    return whole


def draw_sheet(album: Album, scores: Sequence[FaceSim]) -> Float[Tensor, "H W 3"]:
    """One column per frame: template, masks, re-denoised; below them everybody's likeness and kept portraits.

    Args:
        album: The finished run.
        scores: From `measure`.
    """
    pages = album.pages
    pictures = [enlarge(page.template, _FRAME_WIDTH) for page in pages]
    pictures += [draw_masks(page) for page in pages]
    pictures += [enlarge(page.picture, _FRAME_WIDTH) for page in pages]
    captions = [f"{page.frame.index + 1}. template" for page in pages]
    captions += [f"masks: {', '.join(page.found) or 'nobody found'}" for page in pages]
    captions += [f"re-denoised: {page.sentence}" for page in pages]
    frames = contact_sheet(pictures, captions, len(pages), _FRAME_WIDTH)
    parts = [_heading(album.title, _TITLE_PX), frames]
    parts += [_heading(score_line(score), _HEADING_PX) for score in scores]
    for portraits in album.portraits:
        parts.append(_heading(kept_line(portraits), _HEADING_PX))
        kept = [enlarge(portraits.pictures[position], _PORTRAIT_WIDTH) for position in portraits.kept]
        numbers = [f"portrait {position + 1}" for position in portraits.kept]
        parts.append(contact_sheet(kept, numbers, 2 * len(pages), _PORTRAIT_WIDTH))
    return _stack(parts)


def score_line(score: FaceSim) -> str:
    """How alike a character's faces are before and after."""
    before, after = cosine(score.before.mean), cosine(score.after.mean)
    return f"{score.name}: likeness of the faces (mean cosine) {before} in the template, {after} re-denoised"


def cosine(value: float | None) -> str:
    """Two decimals with a true minus sign, and no minus before zero; a dash where there is none."""
    if value is None:
        return "–"
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def kept_line(portraits: Portraits) -> str:
    """The heading above a character's portraits."""
    count = f"{len(portraits.kept)} of {len(portraits.pictures)} portraits"
    return f"{portraits.name}: the identity is made of {count} of “{portraits.description}”"


def _heading(text: str, size: int) -> Float[Tensor, "h w 3"]:
    """A line of text on white, as wide as it needs."""
    font = ImageFont.load_default(size=size)
    band = Image.new("RGB", (round(font.getlength(text)) + 32, 2 * size), "white")
    ImageDraw.Draw(band).text((16, size // 2), text, fill=(40, 40, 40), font=font)
    return torch.from_numpy(np.asarray(band, dtype=np.float32) / 255)


def _stack(parts: list[Tensor]) -> Float[Tensor, "H W 3"]:
    """One below the other, on white."""
    width = max(part.shape[1] for part in parts)
    return torch.cat([F.pad(part, (0, 0, 0, width - part.shape[1]), value=1.0) for part in parts])
