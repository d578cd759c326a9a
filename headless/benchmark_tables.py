"""The tables of a benchmark: ours, next to what was published; as JSON, CSV and one HTML page."""

import csv
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..core.atomic_files import atomic_write
from ..core.scores.statistics import Interval, bootstrap_interval
from .benchmark_stories import CONSISTORY_HUMAN, VISTORYBENCH
from .html_tables import STYLE, html_table
from .run_files import write_json

Numbers = Sequence[Mapping[str, Any]]
COLUMNS: Mapping[str, Mapping[str, tuple[str, int, int]]] = {
    CONSISTORY_HUMAN: {
        "clip_t": ("CLIP-T", 100, 1),
        "clip_t_c": ("CLIP-T-C", 100, 1),
        "clip_i": ("CLIP-I", 100, 1),
        "face_sim": ("Face-Sim", 100, 1),
        "qalign_aesthetic": ("Q-Align-Aes", 1, 2),
        "qalign_general": ("Q-Align-Gen", 1, 2),
    },
    VISTORYBENCH: {
        "cids_cross": ("CIDS cross", 100, 1),
        "cids_self": ("CIDS self", 100, 1),
        "copy_paste": ("copy-paste", 100, 1),
        "occm": ("OCCM", 1, 1),
        "clip_t": ("CLIP-T", 100, 1),
        "text_alignment": ("prompt adherence (judge)", 1, 1),
        "csd": ("CSD", 1, 1),
    },
}
"""By benchmark and score: the title, the factor with which it is printed, and its digits."""
PUBLISHED: Mapping[str, Mapping[str, Sequence[float]]] = {
    CONSISTORY_HUMAN: {
        "ConsiStory (Tewel et al. 2024)": (35.5, 30.1, 78.2, 17.1, 3.75, 4.71),
        "StoryDiffusion (Zhou et al. 2024b)": (34.0, 30.7, 85.2, 27.1, 3.58, 4.20),
        "Story-Adapter (Mao et al. 2024)": (34.3, 29.1, 76.6, 23.9, 3.65, 4.42),
        "1Prompt1Story (Liu et al. 2025)": (34.9, 29.7, 79.8, 23.5, 4.16, 4.81),
        "IdentityStory, as published": (35.4, 31.1, 85.8, 55.5, 4.25, 4.92),
    },
    VISTORYBENCH: {},
}
"""The rows of table 1 of the IdentityStory paper, as printed; of ViStoryBench none are here."""
_SOURCES = {
    CONSISTORY_HUMAN: "The other rows are table 1 of the IdentityStory paper (100 stories of 10 frames; CLIP ViT-L/14, "
    "ArcFace, Q-Align). They can be compared with ours only where the encoders are the same.",
    VISTORYBENCH: "Definitions of ViStoryBench (arXiv:2505.24862) on these encoders, so not its published numbers. "
    "CSD needs a network for style that is not part of this pack, and is not measured; prompt adherence is by this "
    "pack's judge, from 0 to 100. Copy-paste is 0 for a copy of the first reference, 100 for a copy of another and 50 "
    "for neither.",
}
OURS = "this run"


def means(benchmark: str, numbers: Numbers) -> dict[str, Interval | None]:
    """Per column the mean over the stories that have it, with its bootstrap interval over stories; None for none."""
    found: dict[str, Interval | None] = {}
    for key in COLUMNS[benchmark]:
        values = [each["numbers"][key] for each in numbers if each["numbers"].get(key) is not None]
        found[key] = bootstrap_interval(values) if values else None
    return found


def table_rows(benchmark: str, numbers: Numbers) -> list[list[str]]:
    """A line of titles, our row, and the published ones."""
    columns, ours = COLUMNS[benchmark], means(benchmark, numbers)
    lines = [["", *(title for title, _, _ in columns.values())]]
    lines.append([f"{OURS} ({len(numbers)} stories)", *(_cell(ours[key], *columns[key][1:]) for key in columns)])
    for name, values in PUBLISHED[benchmark].items():
        digits = [each[2] for each in columns.values()]
        lines.append([name, *(f"{value:.{count}f}" for value, count in zip(values, digits, strict=True))])
    return lines


def faces_line(numbers: Numbers) -> str:
    """How many faces there were to compare; empty where nobody looked."""
    looked = [each for each in numbers if each["faces_found"] is not None]
    if not looked:
        return ""
    found, wanted = (sum(each[key] for each in looked) for key in ("faces_found", "faces_wanted"))
    return f"{found} of {wanted} faces found; the others take no part in Face-Sim."


def write_results(out: Path, benchmark: str, numbers: Numbers, record: Mapping[str, Any]) -> None:
    """Write results.json, results.csv (a row per story) and results.html."""
    ours = means(benchmark, numbers)
    content = {
        **record,
        "stories": list(numbers),
        "means": {key: None if each is None else vars(each) for key, each in ours.items()},
        "published": {name: list(values) for name, values in PUBLISHED[benchmark].items()},
        "columns": list(COLUMNS[benchmark]),
    }
    write_json(out / "results.json", content)
    keys = list(dict.fromkeys(key for each in numbers for key in each["numbers"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["story", "frames", "faces_found", "faces_wanted", *keys])
    for each in numbers:
        values = [each["faces_found"], each["faces_wanted"], *(each["numbers"].get(key) for key in keys)]
        writer.writerow([each["story"], each["frames"], *("" if value is None else value for value in values)])
    _write(out / "results.csv", text.getvalue())
    _write(out / "results.html", _page(benchmark, numbers))


def _page(benchmark: str, numbers: Numbers) -> str:
    titles, *rows = table_rows(benchmark, numbers)
    columns = COLUMNS[benchmark]
    stories = [
        [each["story"], *(_plain(each["numbers"].get(key), *columns[key][1:]) for key in columns)] for each in numbers
    ]
    encoders = dict(item for each in numbers for item in each["encoders"].items())
    named = ", ".join(f"{kind}: {name}" for kind, name in encoders.items())
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(benchmark)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{escape(benchmark)}</h1>
<p class="soft">{len(numbers)} stories; measured by {escape(named)}. Means over stories; in brackets the 95 % interval,
by bootstrap over the stories. {escape(faces_line(numbers))}</p>
{html_table(titles, rows)}
<p>{escape(_SOURCES[benchmark])}</p>
<h2>Stories</h2>
{html_table(titles, stories)}
</main>
</body>
</html>
"""


def _cell(interval: Interval | None, scale: int, digits: int) -> str:
    if interval is None:
        return "not measured"
    mean, low, high = (f"{scale * each:.{digits}f}" for each in (interval.mean, interval.low, interval.high))
    return f"{mean} ({low} to {high})" if interval.low < interval.high else mean


def _plain(value: float | None, scale: int, digits: int) -> str:
    return "–" if value is None else f"{scale * value:.{digits}f}"


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
