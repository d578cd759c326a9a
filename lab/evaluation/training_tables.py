"""The tables of training in `docs/evidence/training.md`, from the rows that `training.measure_story` gives."""

from collections.abc import Iterable, Mapping

from ...core.shuffle import MODES
from .drawing_modes import OFF, ON
from .markdown import Columns, Of, Rows, Value, about, at, cells, differences, table
from .storynizor_tables import LEAK, LOOKS, MASKS, OF_DRAWINGS, with_people
from .training import LORAS, OFF_WITH, ON_WITH, ON_WITHOUT

Pairs = Iterable[tuple[str, str]]
"""Drawing modes: the second is subtracted from the first."""

_SYNCHRONIZED = {mode: mode for mode in (OFF, ON, ON_WITHOUT, ON_WITH, OFF_WITH)}
_OF_SYNCHRONIZED = (
    (ON, OFF), (ON_WITHOUT, ON), (ON_WITH, ON), (ON_WITH, ON_WITHOUT), (ON_WITH, OFF), (OFF_WITH, OFF),
    (ON_WITH, OFF_WITH),
)  # fmt: skip
_SHUFFLED = MODES[0]
_INJECTED = {ON_WITH: "no references", **{mode: mode for mode in MODES}}
_OF_SHUFFLED = tuple((_SHUFFLED, other) for other in _INJECTED if other != _SHUFFLED)
_OF_INJECTED = (*((mode, ON_WITH) for mode in MODES), *_OF_SHUFFLED[1:])
_BASE, _WITHOUT, _WITH = LORAS.values()


def make_tables(rows: Rows) -> str:
    """All tables, as Markdown."""
    synchronized, references = _SYNCHRONIZED | OF_DRAWINGS, _INJECTED | _trained_for(rows)
    injected = references | OF_DRAWINGS
    running = "**Running masks after the last step, IoU with the toy detector's**"
    one, two = "**References: stories of one person**", "**References: stories of two people**"
    parts = [
        about(rows),
        _table("**AMSA and synchronizer: the same person**", rows, synchronized, _OF_SYNCHRONIZED, _FACES),
        _table("**As the caption says, %**", rows, synchronized, _OF_SYNCHRONIZED, _AGREEMENT),
        _table("**Background (where nobody is)**", rows, synchronized, _OF_SYNCHRONIZED, _BACKGROUND),
        _table("**Masks of drawn scenes, IoU with the exact ones**", rows, _LORAS, _OF_LORAS, _DRAWN_MASKS),
        _table(running, rows, _SYNCHRONIZED, _OF_SYNCHRONIZED, _RUNNING_MASKS),
        _table("**References: faces and poses**", rows, injected, _OF_INJECTED, _REFERENCES),
        _table("**References: the rest**", rows, injected, _OF_INJECTED, _REST),
        _table(one, with_people(rows, 1), references, _OF_SHUFFLED, _REFERENCES),
        _table(two, with_people(rows, 2), references, _OF_SHUFFLED, {**_REFERENCES, **_LEAK}),
    ]
    return "\n\n".join(parts)


def _trained_for(rows: Rows) -> dict[str, str]:
    """Labels of the modes that are drawn by an injector trained in another mode."""
    trained = rows[0].get("trained_for", {})  # older rows have one injector, which was trained with shuffled references
    return {
        mode: f"{mode}, trained {trained.get(mode, _SHUFFLED)}"
        for mode in MODES
        if trained.get(mode, _SHUFFLED) != mode
    }


def _table(title: str, rows: Rows, modes: Mapping[str, str], pairs: Pairs, columns: Columns) -> str:
    """Drawing modes, then differences of them."""
    lines = [(label, *cells(rows, mode, columns)) for mode, label in modes.items()]
    for one, other in pairs:
        lines.append((f"{modes[one]} − {modes[other]}", *differences(rows, one, other, columns)))
    return table((title, *columns), lines)


def _share_of_faces(mode: str) -> Value:
    return lambda row: row["faces"][mode] / row["faces_wanted"]


def _agreement(what: str) -> Of:
    return lambda mode: at("agreement", mode, what)


def _overlaps(key: str, *level: str) -> Columns:
    """Columns of masks: on the grid and at the picture's size, of stories of one person and of two."""

    def of(where: str, people: int) -> Of:
        return lambda mode: lambda row: at(key, mode, *level, where)(row) if len(row["people"]) == people else None

    kinds = [(where, people) for where in ("grid", "picture") for people in (1, 2)]
    return {title: (of(*kind), 1, 3) for title, kind in zip(MASKS, kinds, strict=True)}


_FACES: Columns = {**LOOKS, "faces found, %": (_share_of_faces, 100, 1)}
_AGREEMENT: Columns = {what: (_agreement(what), 100, 1) for what in ("scene", "person", "word", "hair", "pose")}
_BACKGROUND: Columns = {
    "between two frames, levels of 255": (lambda mode: at("background", mode, "diversity"), 255, 1),
    "against off, levels of 255": (lambda mode: at("background", mode, "change"), 255, 1),
}
_LORAS = {_BASE: "no synchronizer", _WITHOUT: f"synchronizer {_WITHOUT}", _WITH: f"synchronizer {_WITH}"}
_OF_LORAS = ((_WITHOUT, _BASE), (_WITH, _BASE), (_WITH, _WITHOUT))
_DRAWN_MASKS = _overlaps("drawn_masks", "steady")
_RUNNING_MASKS = _overlaps("running_masks")
_REFERENCES: Columns = {
    "Face-Sim(R)": (lambda mode: at("to_references", mode), 1, 3),
    "Face-Sim": (lambda mode: at("face_sim", mode), 1, 3),
    "pose as the caption says, %": (_agreement("pose"), 100, 1),
    "poses that differ where the captions' do, %": (lambda mode: at("poses", mode), 100, 1),
}
_LEAK: Columns = {f"faces {title}": column for title, column in LEAK.items()}
_REST: Columns = {
    "scene as the caption says, %": (_agreement("scene"), 100, 1),
    "person as the caption says, %": (_agreement("person"), 100, 1),
    **{title: column for title, column in LOOKS.items() if title != "Face-Sim"},
    "background between two frames, levels of 255": _BACKGROUND["between two frames, levels of 255"],
    "faces found, %": (_share_of_faces, 100, 1),
}
