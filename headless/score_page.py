"""The page of a story's scores: one HTML file with everything in it, light and dark, without scripts."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..core.scores.ratings import Ratings
from ..core.scores.report import interval_text, notes
from ..core.scores.story_scores import CLIP_T, FACE_SIM, LABELS, StoryScores
from ..core.shapes import Float
from ..core.story import Story
from .html_tables import STYLE, html_table

_THUMB_PX = 240


def build_page(
    scores: StoryScores,
    about: Mapping[str, Any],
    story: Story,
    pictures: Sequence[Float[Tensor, "_ _ 3"]],
    plot: Float[Tensor, "h w 3"],
    ratings: Ratings,
) -> str:
    """The whole page.

    Args:
        scores: The story's.
        about: What scores.json says besides: encoders, threshold, tokens beyond CLIP's limit.
        story: What the pictures show.
        pictures: One per frame, in [0, 1].
        plot: From `core.scores.plot.draw_scores`.
        ratings: Of the whole frames.
    """
    names = ", ".join(f"{kind}: {escape(name)}" for kind, name in about["encoders"].items())
    plotted = f'<img class="plot" alt="likeness of faces" src="{_data(plot)}">' if FACE_SIM in scores.scores else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Scores of a story</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>Scores of a story</h1>
<p class="soft">{scores.frames} frames; measured by {names}. Cosines times 100; in brackets the 95 % interval, by
bootstrap over the frames.</p>
{_scores(scores)}
{html_table(("rating", "mean"), ratings.lines()) if ratings.of_frames else ""}
{_notes(scores, about)}
<h2>Characters</h2>
{_characters(scores)}
{plotted}
<h2>Frames</h2>
<ul class="frames">
{_frames(scores, story, pictures)}
</ul>
</main>
</body>
</html>
"""


def _scores(scores: StoryScores) -> str:
    rows = [(LABELS[key], interval_text(each)) for key, each in scores.scores.items()]
    return html_table(("score", "mean"), rows)


def _characters(scores: StoryScores) -> str:
    keys = [key for key in LABELS if any(key in person.scores for person in scores.characters)]
    rows = []
    for person in scores.characters:
        found = [f"{person.found[key]} of {len(person.frames)}" if key in person.found else "" for key in keys]
        means = [_number(person.scores.get(key)) for key in keys]
        cells = [f"{mean} ({count})" if count else mean for mean, count in zip(means, found, strict=True)]
        worst = "" if person.worst is None else f"frame {person.worst + 1}"
        rows.append((person.name, *cells, worst))
    return html_table(("character", *(LABELS[key] for key in keys), "face least like the others"), rows)


def _notes(scores: StoryScores, about: Mapping[str, Any]) -> str:
    said = notes(scores, about["encoders"].get("faces", ""))
    if about["threshold"] is not None:
        said.append(
            f"The recogniser's usual threshold is {100 * about['threshold']:.1f}: faces above it count as one person's."
        )
    over = [number for number, tokens in enumerate(about["prompt_tokens_over"] or (), start=1) if tokens]
    if over:
        said.append(f"CLIP does not read the ends of the prompts of frames {', '.join(map(str, over))}.")
    return "".join(f"<p>{escape(line)}</p>" for line in said)


def _frames(scores: StoryScores, story: Story, pictures: Sequence[Tensor]) -> str:
    items = []
    for frame, picture in zip(story.frames, pictures, strict=True):
        lines = [f"{frame.index + 1}. {escape(frame.shown_caption or frame.prompt)}"]
        if scores.clip_t is not None:
            lines.append(f"{LABELS[CLIP_T]} {_number(scores.clip_t[frame.index])}")
        for person in scores.characters:
            if frame.index in person.frames and FACE_SIM in person.of_frames:
                value = person.of_frames[FACE_SIM][frame.index]
                said = f"{escape(person.name)} {'no face to compare' if value is None else _number(value)}"
                lines.append(f'<span class="worst">{said}, worst</span>' if frame.index == person.worst else said)
        items.append(
            f'<li><img alt="frame {frame.index + 1}" src="{_data(picture, _THUMB_PX)}">{"<br>".join(lines)}</li>'
        )
    return "\n".join(items)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _data(picture: Tensor, longest: int = 0) -> str:
    """A picture as a data address, scaled down to `longest` pixels."""
    image = Image.fromarray((picture.clamp(0, 1) * 255).round().byte().numpy().astype(np.uint8))
    if longest:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
