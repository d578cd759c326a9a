"""The tables of Storynizor in `docs/evidence/storynizor.md`, from the rows that `storynizor.measure_story` gives."""

from ..toyworld.probe import PERSON, SCENE
from .drawing_modes import HALF, MIXED, OFF, ON
from .identitystory import DRAWN, OTHERS
from .layouts import ATTENTION, DETECTOR
from .markdown import Columns, Of, Rows, about, at, cell, cells, difference, differences, table
from .variants import TEMPLATE

_DRAWING_MODES = {
    OFF: "every frame by itself (off)",
    HALF: "AMSA, strength 0.5",
    ON: "AMSA (on)",
    MIXED: "AMSA without same_character (mixed)",
}
OF_DRAWINGS = {DRAWN: "*drawn, one person throughout*", OTHERS: "*drawn, anybody the caption fits*"}
_PAIRS = ((ON, OFF), (HALF, OFF), (MIXED, OFF), (ON, HALF))
_LAYOUTS = {TEMPLATE: "the template", DETECTOR: "toy detector", ATTENTION: "attention"}


def make_tables(rows: Rows) -> str:
    """All tables, as Markdown."""
    parts = (
        about, _people_table, _people_differences, _two_people_table, _agreement_table, _background_table,
        _drawn_masks_table, _running_masks_table, _layout_table,
    )  # fmt: skip
    return "\n\n".join(part(rows) for part in parts)


def with_people(rows: Rows, people: int) -> Rows:
    return [row for row in rows if len(row["people"]) == people]


LOOKS: Columns = {
    "Face-Sim": (lambda mode: at("face_sim", mode), 1, 3),
    "same clothes, %": (lambda mode: at("clothes", mode, "all"), 100, 1),
    "same clothes where the caption does not mention them, %": (lambda mode: at("clothes", mode, "untold"), 100, 1),
    "likeness of figures": (lambda mode: at("alike", mode), 1, 3),
}
"""How alike people look."""
LEAK: Columns = {
    "of the two in one frame": (lambda mode: at("leak", mode, "same_frame"), 1, 3),
    "of the two in different frames": (lambda mode: at("leak", mode, "other_frames"), 1, 3),
}
"""How alike the faces of two people are."""


def _people_table(rows: Rows) -> str:
    wanted, lines = sum(row["faces_wanted"] for row in rows), []
    for mode, label in (_DRAWING_MODES | OF_DRAWINGS).items():
        found = sum(row["faces"][mode] for row in rows)
        lines.append((label, *cells(rows, mode, LOOKS), f"{found} of {wanted}"))
    return table(("**The same person over the frames**", *LOOKS, "faces found"), lines)


def _people_differences(rows: Rows) -> str:
    groups = [(f"{one} − {other}", rows, one, other) for one, other in _PAIRS]
    for people, count in ((1, "one person"), (2, "two people")):
        groups.append((f"{ON} − {OFF}, stories of {count}", with_people(rows, people), ON, OFF))
    groups.append((f"{ON} − {MIXED}, stories of two people", with_people(rows, 2), ON, MIXED))
    lines = [(label, *differences(some, one, other, LOOKS)) for label, some, one, other in groups]
    return table(("**Differences**", *LOOKS), lines)


def _two_people_table(rows: Rows) -> str:
    pairs = with_people(rows, 2)
    columns: Columns = {"Face-Sim of one and the same": LOOKS["Face-Sim"], **LEAK}
    lines = [(label, *cells(pairs, mode, columns)) for mode, label in (_DRAWING_MODES | OF_DRAWINGS).items()]
    for one, other in (*_PAIRS[:3], (ON, MIXED)):
        lines.append((f"{one} − {other}", *differences(pairs, one, other, columns)))
    return table(("**Stories of two people**", *columns), lines)


def _agreement_table(rows: Rows) -> str:
    lines = []
    for name in ("scene", *SCENE, "person", *PERSON):
        label = f"**{name}**" if name in ("scene", "person") else name
        of = {mode: at("agreement", mode, name) for mode in (OFF, HALF, ON, MIXED, DRAWN)}
        shown = [cell(rows, of[mode], 100, 1) for mode in (OFF, HALF, ON, DRAWN)]
        shown += [difference(rows, of[one], of[OFF], 100, 1) for one in (ON, HALF)]
        shown.append(difference(with_people(rows, 2), of[ON], of[MIXED], 100, 1))
        lines.append((label, *shown))
    titles = ("off", "strength 0.5", "on", "*drawn*", "on − off", "0.5 − off", "on − mixed, two people")
    return table(("**As the caption says, %**", *titles), lines)


def _background_table(rows: Rows) -> str:
    lines = []
    for mode, label in (_DRAWING_MODES | OF_DRAWINGS).items():
        change = [] if mode in (OFF, *OF_DRAWINGS) else [cell(rows, at("background", mode, "change"), 255, 1)]
        change += [cell(rows, at("background", mode, "psnr"), 1, 1)] if change else ["", ""]
        lines.append((label, cell(rows, at("background", mode, "diversity"), 255, 1), *change))
    of: Of = lambda mode: at("background", mode, "diversity")  # noqa: E731
    for one, other in _PAIRS:
        lines.append((f"{one} − {other}", difference(rows, of(one), of(other), 255, 2), "", ""))
    titles = ("between two frames, levels of 255", "against off, levels of 255", "against off, PSNR in dB")
    return table(("**Background (where nobody is)**", *titles), lines)


MASKS = ("grid, one person", "grid, two people", "picture, one person", "picture, two people")


def _overlaps(rows: Rows, *path: str) -> list[str]:
    return [cell(with_people(rows, people), at(*path, where)) for where in ("grid", "picture") for people in (1, 2)]


def _drawn_masks_table(rows: Rows) -> str:
    lines = [
        (f"attention, at the noise left after {done} of 25 steps", *_overlaps(rows, "drawn_masks", "levels", done))
        for done in rows[0]["drawn_masks"]["levels"]
    ]
    lines.append(("attention, steady average of all levels", *_overlaps(rows, "drawn_masks", "steady")))
    height, width = rows[0]["drawn_masks"]["grid"]
    for label, key in (("toy detector", "detector"), (f"*the best that {height} × {width} cells allow*", "best")):
        shown = [cell(with_people(rows, people), at("drawn_masks", key)) for people in (1, 2)]
        lines.append((label, "", "", *shown))
    return table(("**Masks of drawn scenes, IoU with the exact ones**", *MASKS), lines)


def _running_masks_table(rows: Rows) -> str:
    lines = [
        (f"after {done} of 25 steps", *_overlaps(rows, "running_masks", done)) for done in rows[0]["running_masks"]
    ]
    return table(("**AMSA's running masks, IoU with the toy detector's of the finished frames**", *MASKS), lines)


def _layout_table(rows: Rows) -> str:
    drawn = [row for row in rows if row["layouts"]]
    values: Columns = {
        "Face-Sim": (lambda mode: at("layouts", "face_sim", mode), 1, 3),
        "scene as the caption says, %": (lambda mode: at("layouts", "agreement", mode, "scene"), 100, 1),
        "person as the caption says, %": (lambda mode: at("layouts", "agreement", mode, "person"), 100, 1),
        "background outside the final masks, PSNR in dB": (lambda mode: at("layouts", mode, "psnr"), 1, 1),
        "share of the picture inside them, %": (lambda mode: at("layouts", mode, "covered"), 100, 1),
        "left of the old figure, %": (lambda mode: at("layouts", mode, "ghost"), 100, 2),
    }
    lines = []
    for title, (of, scale, digits) in values.items():
        shown = [cell(drawn, of(mode), scale, digits) for mode in _LAYOUTS]
        lines.append((title, *shown, difference(drawn, of(ATTENTION), of(DETECTOR), scale, digits)))
    lines.append(("masks, IoU of the one with the other", "", "", cell(drawn, at("layouts", "overlap")), ""))
    titles = (*_LAYOUTS.values(), "attention − detector")
    return table((f"**Re-denoised with the layout of ({len(drawn)} stories)**", *titles), lines)
