"""The demo's page: one HTML file with everything in it, readable on a phone, light and dark, without scripts.

Its words and layout are in `templates/demo_page.html`.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from ..core.shapes import Float
from .demo_album import Album, FaceSim, count_evaluations
from .demo_sheet import as_bytes, cosine, draw_masks, draw_portraits, kept_line

MADE_BY = "Made by <code>story-identity demo</code>"
"""By which one knows the page again."""


def build_page(album: Album, scores: Sequence[FaceSim]) -> str:
    """The whole page; whatever the story says is text in it, never markup.

    Args:
        album: The finished run.
        scores: From `measure`.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates", encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": cosine, "numbers": _numbers}
    return environment.get_template("demo_page.html").render(
        album=album,
        scores=scores,
        facts=_facts(album),
        made_by=Markup(MADE_BY),
        picture=_picture,
        image=_image,
        draw_masks=draw_masks,
        draw_portraits=draw_portraits,
        kept_line=kept_line,
    )


def _facts(album: Album) -> dict[str, str]:
    """How the story was made, and what it cost."""
    settings, cost = album.settings, count_evaluations(album)
    return {
        "Frames": f"{settings.width} × {settings.height} pixels, {settings.steps} steps, {settings.sampler}, "
        f"{settings.scheduler}, CFG {settings.cfg}, seed {settings.seed}",
        "Re-denoising": f"from step {settings.start}; masks grow by up to {settings.max_kernel} pixels at 1024",
        "Portraits": f"{settings.portraits} per character, {settings.portrait_steps} steps, "
        f"CFG {settings.portrait_cfg}",
        "Discovery": f"rank {settings.rank}, keeps {settings.keep_ratio} per round, {settings.rounds} rounds",
        "UNet evaluations": f"{cost.total:,}: {cost.portraits:,} for portraits, {cost.templates:,} for templates, "
        f"{cost.redenoising:,} for re-denoising",
    }


def _numbers(positions: Sequence[int]) -> str:
    """Positions, from 0, as people count."""
    return ", ".join(str(position + 1) for position in positions)


def _picture(picture: Float[Tensor, "h w 3"], alt: str) -> Markup:
    return _image(Image.fromarray(as_bytes(picture)), alt)


def _image(picture: Image.Image, alt: str) -> Markup:
    """A picture inside the page, as data."""
    content = io.BytesIO()
    picture.save(content, format="PNG", optimize=True)
    data = base64.b64encode(content.getvalue()).decode("ascii")
    form = Markup('<img src="data:image/png;base64,{}" width="{}" height="{}" alt="{}">')
    return form.format(data, picture.width, picture.height, alt)
