"""The tables of `docs/evidence.md`, from the rows that `toyworld.measure_story` gives."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..replacing import replacing
from ..toyworld.probe import PERSON, SCENE
from .scores import Interval, bootstrap_interval, paired_differences
from .stories import FRAMES
from .toyworld import DRAWN, OTHERS
from .variants import DIRECT, FIXED, NARROW, NARROW_RANK, TEMPLATE

BEGIN, END = "<!-- toyworld tables: begin -->", "<!-- toyworld tables: end -->"

Rows = Sequence[Mapping[str, Any]]

_FACES = {
    TEMPLATE: "base model alone (the template)",
    "mean": "re-denoised, mean of all portraits",
    "discovered": "re-denoised, discovered identity",
    NARROW: f"re-denoised, discovered with rank {NARROW_RANK}",
    "true": "re-denoised, true identity",
    DIRECT: "directly, discovered identity",
    DRAWN: "*drawn, one person throughout*",
    OTHERS: "*drawn, anybody the caption fits*",
}
_PAIRS = (
    ("discovered", TEMPLATE),
    ("mean", TEMPLATE),
    ("discovered", "mean"),
    (NARROW, "mean"),
    (NARROW, "discovered"),
    ("true", "discovered"),
    (DIRECT, "discovered"),
)
_IDENTITIES = {
    "cohesion_all": "identity embeddings of all portraits",
    "cohesion_kept": "identity embeddings of the kept portraits",
    "cohesion_narrow": f"identity embeddings of those kept with rank {NARROW_RANK}",
    "cohesion_true": "identity embeddings of drawn portraits of one person",
    "faces_all": "faces of all portraits (the encoder of Face-Sim)",
    "faces_kept": "faces of the kept portraits (the encoder of Face-Sim)",
    "faces_narrow": f"faces of those kept with rank {NARROW_RANK} (the encoder of Face-Sim)",
    "discovered_and_mean": "discovered identity against the mean of all portraits",
    "narrow_and_mean": f"the one of rank {NARROW_RANK} against the mean of all portraits",
    "energy": "*share of energy in the leading directions, rank 10*",
    "energy_narrow": f"*share of energy in the leading directions, rank {NARROW_RANK}*",
}
_READ = (TEMPLATE, "discovered", DIRECT, DRAWN)


def make_tables(rows: Rows) -> str:
    """All tables, as Markdown."""
    parts = (_about, _face_table, _pair_table, _identity_table, _agreement_table, _background_table, _edge_table)
    return "\n\n".join(part(rows) for part in parts)


def write_between_markers(page: Path, text: str) -> None:
    """Put a text between the two marker comments of a page; every other byte stays.

    Raises:
        ValueError: If the page does not have both, once, in order.
    """
    start, end = find_markers(page)
    content = page.read_text(encoding="utf-8")
    with replacing(page) as temporary:
        temporary.write_text(f"{content[:start]}\n{text}\n{content[end:]}", encoding="utf-8")


def find_markers(page: Path) -> tuple[int, int]:
    """Where the text between a page's markers begins and ends.

    Raises:
        ValueError: If the page does not have both, once, in order.
    """
    content = page.read_text(encoding="utf-8") if page.is_file() else ""
    if content.count(BEGIN) != 1 or content.count(END) != 1 or content.index(BEGIN) > content.index(END):
        raise ValueError(f'{page} needs the lines "{BEGIN}" and "{END}", once each; the tables go between them.')
    return content.index(BEGIN) + len(BEGIN), content.index(END)


def _about(rows: Rows) -> str:
    pairs = sum(len(row["people"]) == 2 for row in rows)
    evaluations = sum(row["evaluations"] for row in rows)
    return (
        f"{len(rows)} stories of {FRAMES} frames, {len(rows) - pairs} with one person and {pairs} with two; "
        f"{evaluations:,} UNet evaluations. Means over stories, with 95 % bootstrap intervals; differences are taken "
        "story by story."
    )


def _face_table(rows: Rows) -> str:
    wanted = sum(row["faces_wanted"] for row in rows)
    lines = []
    for name, label in _FACES.items():
        found = sum(row["faces"][name] for row in rows)
        likeness = "" if name == DRAWN else _cell(rows, lambda row, name=name: row["likeness"][name])
        face_sim = _cell(rows, lambda row, name=name: row["face_sim"][name])
        lines.append((label, face_sim, f"{found} of {wanted}", likeness))
    return _table(("**Faces**", "Face-Sim", "faces found", "likeness to the true person"), lines)


def _pair_table(rows: Rows) -> str:
    lines = []
    for name, other in _PAIRS:
        label = f"{_FACES[name]} − {_FACES[other]}"
        values, others = ([row["face_sim"][each] for row in rows] for each in (name, other))
        lines.append((label, _show(paired_differences(values, others), signed=True)))
    return _table(("**Differences**", "Face-Sim"), lines)


def _identity_table(rows: Rows) -> str:
    lines = [(label, _cell(rows, lambda row, key=key: row["identity"][key])) for key, label in _IDENTITIES.items()]
    return _table(("**Agreement among portraits**", "mean pairwise cosine"), lines)


def _agreement_table(rows: Rows) -> str:
    lines = []
    for name in ("scene", *SCENE, "person", *PERSON):
        label = {"scene": "**scene**", "person": "**person**"}.get(name, name)
        cells = [_cell(rows, lambda row, way=way, name=name: row["agreement"][way][name], 100, 1) for way in _READ]
        values = [row["agreement"]["discovered"][name] for row in rows]
        for way in (TEMPLATE, DIRECT):
            others = [row["agreement"][way][name] for row in rows]
            cells.append(_show(paired_differences(values, others), 100, 1, signed=True))
        lines.append((label, *cells))
    titles = ("template", "re-denoised", "direct", "*drawn*", "re-denoised − template", "re-denoised − direct")
    return _table(("**As the caption says, %**", *titles), lines)


def _background_table(rows: Rows) -> str:
    largest = max((row["background"].get("latent_difference") or 0.0 for row in rows), default=0.0)
    lines = [
        ("latent, largest difference in any frame", f"{largest:g}"),
        ("picture, PSNR in dB", _cell(rows, lambda row: row["background"].get("psnr"), digits=1)),
        (
            "picture, PSNR in dB, drawn directly",
            _cell(rows, lambda row: row["background"].get("psnr_direct"), digits=1),
        ),
        ("share of the picture inside the masks, %", _cell(rows, lambda row: row["background"].get("covered"), 100, 1)),
    ]
    return _table(("**Outside the final masks, against the template**", ""), lines)


def _edge_table(rows: Rows) -> str:
    lines = []
    for key, label, scale in (("ghost", "ghost, % of the old figure", 100), ("seam", "seam, levels of 255", 1)):
        values = {way: [row["edges"][way].get(key) for row in rows] for way in ("discovered", FIXED)}
        cells = [_show(_known(values[way]), scale, 2) for way in (FIXED, "discovered")]
        difference = paired_differences(values["discovered"], values[FIXED])
        lines.append((label, *cells, _show(difference, scale, 2, signed=True)))
    return _table(("**Edges of the masks**", "fixed", "progressive", "progressive − fixed"), lines)


def _table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = (titles, ("---",) * len(titles), *lines)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(rows: Rows, value: Callable[[Mapping[str, Any]], float | None], scale: int = 1, digits: int = 3) -> str:
    return _show(_known([value(row) for row in rows]), scale, digits)


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _show(values: Sequence[float], scale: int = 1, digits: int = 3, signed: bool = False) -> str:
    """Such as "0.512 [0.480, 0.545]"; a dash where no story has the value."""
    if not values:
        return "–"
    return show_interval(bootstrap_interval([scale * value for value in values]), digits, signed)


def show_interval(interval: Interval, digits: int, signed: bool = False) -> str:
    """A mean and its interval in words, with a real minus sign."""
    sign = "+" if signed else ""
    mean, low, high = (f"{each:{sign}.{digits}f}" for each in (interval.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]".replace("-", "−")
