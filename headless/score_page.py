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

_THUMB_PX = 240
_STYLE = """
:root { color-scheme: light dark; --worst: #b3321c; --paper: #fbfaf7; --ink: #26231f; --soft: #6a635a;
  --line: #d9d3c8; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #1b1a18; --ink: #ebe6dc; --soft: #b3aa9d; --line: #45403a; --worst: #ff8a73; }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
.soft { color: var(--soft); } .worst { color: var(--worst); font-weight: bold; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem 1.2rem .35rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
.scroll { overflow-x: auto; }
.frames { display: grid; grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)); gap: 1rem; padding: 0; }
.frames li { list-style: none; } .frames img { width: 100%; border-radius: .3rem; }
.plot { max-width: 100%; background: white; }
"""


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
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Scores of a story</h1>
<p class="soft">{scores.frames} frames; measured by {names}. Cosines times 100; in brackets the 95 % interval, by
bootstrap over the frames.</p>
{_scores(scores)}
{_table(("rating", "mean"), ratings.lines()) if ratings.of_frames else ""}
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
    return _table(("score", "mean"), rows)


def _characters(scores: StoryScores) -> str:
    keys = [key for key in LABELS if any(key in person.scores for person in scores.characters)]
    rows = []
    for person in scores.characters:
        found = [f"{person.found[key]} of {len(person.frames)}" if key in person.found else "" for key in keys]
        means = [_number(person.scores.get(key)) for key in keys]
        cells = [f"{mean} ({count})" if count else mean for mean, count in zip(means, found, strict=True)]
        worst = "" if person.worst is None else f"frame {person.worst + 1}"
        rows.append((person.name, *cells, worst))
    return _table(("character", *(LABELS[key] for key in keys), "face least like the others"), rows)


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
        lines = [f"{frame.index + 1}. {escape(frame.caption or frame.prompt)}"]
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


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


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
