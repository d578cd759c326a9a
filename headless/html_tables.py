"""What the pages of scores share: their style, in light and dark, and a table."""

from collections.abc import Sequence
from html import escape

STYLE = """
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


def html_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts, which are escaped."""
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
