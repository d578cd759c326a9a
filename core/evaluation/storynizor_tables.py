"""The tables of Storynizor in `docs/evidence.md`, from the rows that `storynizor.measure_story` gives."""

from collections.abc import Callable

from ..toyworld.probe import PERSON, SCENE
from .layouts import ATTENTION, DETECTOR
from .markdown import Rows, Value, about, at, cell, difference, table
from .toyworld import DRAWN, OTHERS
from .variants import TEMPLATE
from .ways import HALF, MIXED, OFF, ON

_WAYS = {
    OFF: "every frame by itself (off)",
    HALF: "AMSA, strength 0.5",
    ON: "AMSA (on)",
    MIXED: "AMSA without same_character (mixed)",
}
_DRAWN = {DRAWN: "*drawn, one person throughout*", OTHERS: "*drawn, anybody the caption fits*"}
_PAIRS = ((ON, OFF), (HALF, OFF), (MIXED, OFF), (ON, HALF))
_LAYOUTS = {TEMPLATE: "the template", DETECTOR: "toy detector", ATTENTION: "attention"}

Of = Callable[[str], Value]
"""A way to draw to what is taken out of a row for it."""


def make_tables(rows: Rows) -> str:
    """All tables, as Markdown."""
    parts = (
        about, _people_table, _people_differences, _two_people_table, _agreement_table, _background_table,
        _drawn_masks_table, _running_masks_table, _layout_table,
    )  # fmt: skip
    return "\n\n".join(part(rows) for part in parts)


def _with(rows: Rows, people: int) -> Rows:
    return [row for row in rows if len(row["people"]) == people]


_LOOKS: dict[str, tuple[Of, int, int]] = {
    "Face-Sim": (lambda way: at("face_sim", way), 1, 3),
    "same clothes, %": (lambda way: at("clothes", way, "all"), 100, 1),
    "same clothes where the caption does not tell them, %": (lambda way: at("clothes", way, "untold"), 100, 1),
    "likeness of figures": (lambda way: at("alike", way), 1, 3),
}
"""How alike people look: title, and how it is shown."""


def _people_table(rows: Rows) -> str:
    wanted, lines = sum(row["faces_wanted"] for row in rows), []
    for way, label in (_WAYS | _DRAWN).items():
        found = sum(row["faces"][way] for row in rows)
        cells = [cell(rows, of(way), scale, digits) for of, scale, digits in _LOOKS.values()]
        lines.append((label, *cells, f"{found} of {wanted}"))
    return table(("**The same person over the frames**", *_LOOKS, "faces found"), lines)


def _people_differences(rows: Rows) -> str:
    groups = [(f"{one} − {other}", rows, one, other) for one, other in _PAIRS]
    for people, count in ((1, "one person"), (2, "two people")):
        groups.append((f"{ON} − {OFF}, stories of {count}", _with(rows, people), ON, OFF))
    groups.append((f"{ON} − {MIXED}, stories of two people", _with(rows, 2), ON, MIXED))
    lines = [
        (label, *(difference(some, of(one), of(other), scale, digits) for of, scale, digits in _LOOKS.values()))
        for label, some, one, other in groups
    ]
    return table(("**Differences**", *_LOOKS), lines)


def _two_people_table(rows: Rows) -> str:
    pairs = _with(rows, 2)
    of: tuple[Of, ...] = (
        lambda way: at("face_sim", way),
        lambda way: at("leak", way, "same_frame"),
        lambda way: at("leak", way, "other_frames"),
    )
    lines = [(label, *(cell(pairs, each(way)) for each in of)) for way, label in (_WAYS | _DRAWN).items()]
    for one, other in (*_PAIRS[:3], (ON, MIXED)):
        lines.append((f"{one} − {other}", *(difference(pairs, each(one), each(other)) for each in of)))
    titles = ("Face-Sim of one and the same", "of the two in one frame", "of the two in different frames")
    return table(("**Stories of two people**", *titles), lines)


def _agreement_table(rows: Rows) -> str:
    lines = []
    for name in ("scene", *SCENE, "person", *PERSON):
        label = f"**{name}**" if name in ("scene", "person") else name
        of = {way: at("agreement", way, name) for way in (OFF, HALF, ON, MIXED, DRAWN)}
        cells = [cell(rows, of[way], 100, 1) for way in (OFF, HALF, ON, DRAWN)]
        cells += [difference(rows, of[one], of[OFF], 100, 1) for one in (ON, HALF)]
        cells.append(difference(_with(rows, 2), of[ON], of[MIXED], 100, 1))
        lines.append((label, *cells))
    titles = ("off", "strength 0.5", "on", "*drawn*", "on − off", "0.5 − off", "on − mixed, two people")
    return table(("**As the caption says, %**", *titles), lines)


def _background_table(rows: Rows) -> str:
    lines = []
    for way, label in (_WAYS | _DRAWN).items():
        change = [] if way in (OFF, *_DRAWN) else [cell(rows, at("background", way, "change"), 255, 1)]
        change += [cell(rows, at("background", way, "psnr"), 1, 1)] if change else ["", ""]
        lines.append((label, cell(rows, at("background", way, "diversity"), 255, 1), *change))
    of: Of = lambda way: at("background", way, "diversity")  # noqa: E731
    for one, other in _PAIRS:
        lines.append((f"{one} − {other}", difference(rows, of(one), of(other), 255, 2), "", ""))
    titles = ("between two frames, levels of 255", "against off, levels of 255", "against off, PSNR in dB")
    return table(("**Background (where nobody is)**", *titles), lines)


_MASKS = ("grid, one person", "grid, two people", "picture, one person", "picture, two people")


def _overlaps(rows: Rows, *path: str) -> list[str]:
    return [cell(_with(rows, people), at(*path, where)) for where in ("grid", "picture") for people in (1, 2)]


def _drawn_masks_table(rows: Rows) -> str:
    lines = [
        (f"attention, at the noise left after {done} of 25 steps", *_overlaps(rows, "drawn_masks", "levels", done))
        for done in rows[0]["drawn_masks"]["levels"]
    ]
    lines.append(("attention, steady average of all levels", *_overlaps(rows, "drawn_masks", "steady")))
    height, width = rows[0]["drawn_masks"]["grid"]
    for label, key in (("toy detector", "detector"), (f"*the best that {height} × {width} cells allow*", "best")):
        cells = [cell(_with(rows, people), at("drawn_masks", key)) for people in (1, 2)]
        lines.append((label, "", "", *cells))
    return table(("**Masks of drawn scenes, IoU with the exact ones**", *_MASKS), lines)


def _running_masks_table(rows: Rows) -> str:
    lines = [
        (f"after {done} of 25 steps", *_overlaps(rows, "running_masks", done)) for done in rows[0]["running_masks"]
    ]
    return table(("**AMSA's running masks, IoU with the toy detector's of the finished frames**", *_MASKS), lines)


def _layout_table(rows: Rows) -> str:
    drawn = [row for row in rows if row["layouts"]]
    values = {
        "Face-Sim": (lambda way: at("layouts", "face_sim", way), 1, 3),
        "scene as the caption says, %": (lambda way: at("layouts", "agreement", way, "scene"), 100, 1),
        "person as the caption says, %": (lambda way: at("layouts", "agreement", way, "person"), 100, 1),
        "background outside the final masks, PSNR in dB": (lambda way: at("layouts", way, "psnr"), 1, 1),
        "share of the picture inside them, %": (lambda way: at("layouts", way, "covered"), 100, 1),
        "left of the old figure, %": (lambda way: at("layouts", way, "ghost"), 100, 2),
    }
    lines = []
    for title, (of, scale, digits) in values.items():
        cells = [cell(drawn, of(way), scale, digits) for way in _LAYOUTS]
        lines.append((title, *cells, difference(drawn, of(ATTENTION), of(DETECTOR), scale, digits)))
    lines.append(("masks, IoU of the one with the other", "", "", cell(drawn, at("layouts", "overlap")), ""))
    titles = (*_LAYOUTS.values(), "attention − detector")
    return table((f"**Re-denoised with the layout of ({len(drawn)} stories)**", *titles), lines)
