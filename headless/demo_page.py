"""The demo's page: one HTML file with everything in it, readable on a phone, light and dark, without scripts."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from PIL import Image
from torch import Tensor

from ..core.shapes import Float
from .demo_album import Album, FaceSim, Page, Portraits, count_evaluations
from .demo_sheet import as_bytes, draw_masks, draw_portraits, kept_line

MADE_BY = "Made by <code>story-identity demo</code>"
"""By which one knows the page again."""

_STYLE = """
:root { color-scheme: light dark; --paper: #fbf7ee; --card: #ffffff; --ink: #2a2520; --soft: #645b50; --line: #d9cfbe; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #1b1917; --card: #262320; --ink: #ece5d8; --soft: #b5aa9a; --line: #453f38; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.55 Georgia, "Times New Roman", serif; }
main, header, footer { max-width: 72rem; margin: 0 auto; padding: 0 1rem; }
header { padding-top: 3rem; text-align: center; }
h1 { font-size: clamp(2rem, 8vw, 3.5rem); line-height: 1.1; margin: 0; }
h2 { font-size: 1.6rem; margin: 4rem 0 1rem; }
h3 { font-size: 1.1rem; margin: 0 0 .5rem; }
p { max-width: 42rem; }
header p { margin: .5rem auto 2.5rem; }
.soft, figcaption small { color: var(--soft); }
figure { margin: 0; }
img { display: block; width: 100%; height: auto; image-rendering: pixelated; border-radius: .35rem; }
.book, .making, .people { display: grid; gap: 1.5rem; list-style: none; margin: 0; padding: 0; }
.book { grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }
.making, .people { grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)); }
.book li, .making li, .people section {
  background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .9rem;
}
.book figcaption { padding-top: .7rem; font-size: 1.1rem; }
.three { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .5rem; }
.three figcaption { font-size: .9rem; padding-top: .25rem; text-align: center; }
.making p { margin: .5rem 0 0; }
.kept { display: grid; grid-template-columns: repeat(auto-fill, minmax(4rem, 1fr)); gap: .4rem; padding: 0; }
.kept li { list-style: none; font-size: .85rem; text-align: center; color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .5rem; color: var(--soft); }
th, td { padding: .35rem .8rem .35rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: normal; }
thead th, tr.mean > * { font-weight: bold; }
td.number { text-align: right; padding-right: 1.6rem; }
footer { padding-top: 3rem; padding-bottom: 3rem; }
"""


def build_page(album: Album, scores: Sequence[FaceSim]) -> str:
    """The whole page.

    Args:
        album: The finished run.
        scores: From `measure`.
    """
    title = escape(album.title)
    names = " and ".join(escape(portraits.name) for portraits in album.portraits)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="soft">A story of {names}, drawn from text by the toy world’s small models.</p>
</header>
<main>
{_book(album.pages)}
{_making(album.pages, scores)}
{_people(album.portraits)}
{_scores(album.pages, scores)}
{_settings(album)}
</main>
<footer><p class="soft">{MADE_BY}, which gives this page again, byte for byte, when
it is run again.</p></footer>
</body>
</html>
"""


def _book(pages: Sequence[Page]) -> str:
    items = "\n".join(
        f"<li><figure>{_picture(page.picture, f'Picture {page.frame.index + 1}: {page.frame.prompt}.')}"
        f"<figcaption>{escape(page.told)}</figcaption></figure></li>"
        for page in pages
    )
    return f'<section aria-label="The story">\n<ol class="book">\n{items}\n</ol>\n</section>'


def _making(pages: Sequence[Page], scores: Sequence[FaceSim]) -> str:
    items = "\n".join(f"<li>{_making_of(page, scores)}</li>" for page in pages)
    return f"""<section>
<h2>How the pictures were made</h2>
<p>The base model draws a <em>template</em> from the words alone. They leave a face open, so it draws another person
each time. The detector finds who is where: the <em>masks</em>. Then the steps run once more. Inside the masks,
which grow with every step, the identity generator says what is there; outside them the template’s own steps are
repeated: <em>re-denoised</em>.</p>
<ol class="making">
{items}
</ol>
</section>"""


def _making_of(page: Page, scores: Sequence[FaceSim]) -> str:
    number, found = page.frame.index + 1, " and ".join(page.found) or "nobody"
    missing = " and ".join(name for name in page.layout.names if name not in page.found)
    note = f"<p>Not found, and left as drawn: {escape(missing)}.</p>" if missing else ""
    three = (
        (page.template, "template"),
        (draw_masks(page), f"masks: {found}"),
        (page.picture, "re-denoised"),
    )
    figures = "\n".join(
        f"<figure>{_picture(picture, f'Frame {number}, {what}')}<figcaption>{escape(what)}</figcaption></figure>"
        for picture, what in three
    )
    return f"""<h3>{number}. {escape(page.frame.caption)}</h3>
<div class="three">
{figures}
</div>
<p class="soft">The model read: “{escape(page.frame.prompt)}”</p>{note}{_frame_scores(page, scores)}"""


def _frame_scores(page: Page, scores: Sequence[FaceSim]) -> str:
    parts = [
        f"{escape(score.name)} {_number(score.before.to_others[page.frame.index])} → "
        f"{_number(score.after.to_others[page.frame.index])}"
        for score in scores
        if score.name in page.layout.names
    ]
    return f"<p>Face-Sim to the other frames, template → re-denoised: {', '.join(parts)}.</p>" if parts else ""


def _people(everybody: Sequence[Portraits]) -> str:
    sections = "\n".join(_person(portraits, index) for index, portraits in enumerate(everybody))
    return f"""<section>
<h2>Where the faces come from</h2>
<p>Nobody gave the models a face. The base model drew portraits from each description alone, of many different
people. The discovery kept those that stray least from what all have in common, as the generator’s image encoder sees
them; their mean is the identity. Kept portraits are framed, the others faded.</p>
<div class="people">
{sections}
</div>
</section>"""


def _person(portraits: Portraits, index: int) -> str:
    numbers = ", ".join(str(position + 1) for position in portraits.kept)
    montage = _image(
        draw_portraits(portraits, index),
        f"All {len(portraits.pictures)} portraits of {portraits.name}; kept are numbers {numbers}.",
    )
    alt = f"Kept portrait of {portraits.name}, number"
    kept = "\n".join(
        f"<li>{_picture(portraits.pictures[position], f'{alt} {position + 1}')}{position + 1}</li>"
        for position in portraits.kept
    )
    return f"""<section>
<h3>{escape(kept_line(portraits))}</h3>
<figure>{montage}</figure>
<ul class="kept">
{kept}
</ul>
</section>"""


def _scores(pages: Sequence[Page], scores: Sequence[FaceSim]) -> str:
    people = "".join(f'<th scope="colgroup" colspan="2">{escape(score.name)}</th>' for score in scores)
    columns = '<th scope="col">template</th><th scope="col">re-denoised</th>' * len(scores)
    rows = "\n".join(
        _row(f"Frame {page.frame.index + 1}", [_both(score, page.frame.index) for score in scores]) for page in pages
    )
    means = _row("All pairs", [(score.before.mean, score.after.mean) for score in scores], "mean")
    faces = "; ".join(
        f"{score.name} {score.before.faces} in the templates, {score.after.faces} re-denoised" for score in scores
    )
    return f"""<section>
<h2>Face-Sim</h2>
<p>{" ".join(_verdict(score) for score in scores)} Face-Sim is the mean cosine between the vectors which the toy world’s
identity encoder gives to the faces of one character in different frames; 1 would be the same face. One story is an
anecdote: the means over many stories, with their confidence intervals, are in <code>docs/evidence.md</code>.</p>
<div class="scroll" role="region" aria-label="Face-Sim per frame" tabindex="0">
<table>
<caption>Each face against the same character’s faces in the other frames. Faces found: {escape(faces)}.</caption>
<thead>
<tr><td></td>{people}</tr>
<tr><th scope="col">frame</th>{columns}</tr>
</thead>
<tbody>
{rows}
{means}
</tbody>
</table>
</div>
</section>"""


def _both(score: FaceSim, index: int) -> tuple[float | None, float | None]:
    return score.before.to_others[index], score.after.to_others[index]


def _verdict(score: FaceSim) -> str:
    """One sentence, whichever way it went."""
    before, after = score.before.mean, score.after.mean
    name = escape(score.name)
    if before is None or after is None:
        return f"Too few of {name}’s faces were found to compare them."
    if after > before:
        return f"{name}’s faces became more alike: Face-Sim rose from {_number(before)} to {_number(after)}."
    return f"{name}’s faces did not become more alike: Face-Sim went from {_number(before)} to {_number(after)}."


def _settings(album: Album) -> str:
    settings, cost = album.settings, count_evaluations(album)
    facts = {
        "Frames": f"{settings.width} × {settings.height} pixels, {settings.steps} steps, {settings.sampler}, "
        f"{settings.scheduler}, CFG {settings.cfg}, seed {settings.seed}",
        "Re-denoising": f"from step {settings.start}; masks grow by up to {settings.max_kernel} pixels at 1024",
        "Portraits": f"{settings.portraits} per character, {settings.portrait_steps} steps, "
        f"CFG {settings.portrait_cfg}",
        "Discovery": f"rank {settings.rank}, keeps {settings.keep_ratio} per round, {settings.rounds} rounds",
        "UNet evaluations": f"{cost.total:,}: {cost.portraits:,} for portraits, {cost.templates:,} for templates, "
        f"{cost.redenoising:,} for re-denoising",
    }
    rows = "\n".join(f'<tr><th scope="row">{name}</th><td>{escape(value)}</td></tr>' for name, value in facts.items())
    return f"""<section>
<h2>Settings and cost</h2>
<div class="scroll" role="region" aria-label="Settings and cost" tabindex="0">
<table>
<caption>One UNet evaluation is one sample through the UNet; with CFG every picture costs two per step.</caption>
<tbody>
{rows}
</tbody>
</table>
</div>
</section>"""


def _row(name: str, pairs: Iterable[tuple[float | None, float | None]], kind: str = "frame") -> str:
    cells = "".join(f'<td class="number">{_number(value)}</td>' for pair in pairs for value in pair)
    return f'<tr class="{kind}"><th scope="row">{name}</th>{cells}</tr>'


def _number(value: float | None) -> str:
    """A cosine with a true minus sign, and no minus before zero; a dash where there is none."""
    if value is None:
        return "–"
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def _picture(picture: Float[Tensor, "h w 3"], alt: str) -> str:
    return _image(Image.fromarray(as_bytes(picture)), alt)


def _image(picture: Image.Image, alt: str) -> str:
    """A picture inside the page, as data."""
    content = io.BytesIO()
    picture.save(content, format="PNG", optimize=True)
    data = base64.b64encode(content.getvalue()).decode("ascii")
    size = f'width="{picture.width}" height="{picture.height}"'
    return f'<img src="data:image/png;base64,{data}" {size} alt="{escape(alt)}">'
