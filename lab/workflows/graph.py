"""A workflow as ComfyUI's editor saves it, from a short description: groups of nodes in columns, links by name.

Ids, slots and places follow from that, so that nothing overlaps and every link fits.
"""

import json
from typing import Any, NamedTuple

from .kinds import SCHEMAS, Folded, Kind, Node, check_value, kind
from .presets import PRESETS
from .schemas import Json
from .wiring import SLOT, TITLE, definition, numbered, output_of, outputs_of, sockets, taken, unique, wire

GAP, BETWEEN, PADDING, HEADER = 20, 24, 12, 40
PICTURES = {
    *("PreviewImage", "SaveImage", "StoryIdentitySaveFrame", "StoryIdentityStorySheet"),
    *("StoryIdentityPreviewAttentionMasks", "StoryIdentityFindIdentity"),
}
VIEW, MARGIN = (1480, 880), (90, 110)  # what the editor's bars leave of a window of 1600 x 1000, and its corner
WRITTEN_ON = {"StoryIdentityFindIdentity"}  # its text would take the room before there is a picture
READABLE = 0.6  # the zoom below which the editor leaves texts out
PICTURE = 232  # the least height of the pictures under a node's widgets

WRITTEN = {
    "StoryIdentityCharacters": ["characters"],
    "StoryIdentityStory": ["prompts", "style", "negative"],
    "StoryIdentityEachFrame": ["frames", "seed"],
}
"""What a user writes, by kind of node: favourites in the editor's side panel, inputs in App mode."""


class Group(NamedTuple):
    """Columns of nodes, from left to right, in a box; without a title there is no box."""

    title: str
    colour: str
    columns: list[list[Node]]


def node(
    key: str, kind_name: str, links: str = "", *, title: str = "", size: tuple[int, int] = (300, 0), **widgets: Any
) -> Node:
    """A node as groups.py writes it: links such as `model=freeu.MODEL`, and the values that differ from the default.

    Raises:
        ValueError: If the node has no such widget, a widget has no value, or does not take the one given.
    """
    known = kind(kind_name)
    names = [spec["name"] for spec in known.widgets]
    values = {spec["name"]: spec["default"] for spec in known.widgets if "default" in spec}
    values |= PRESETS.get(kind_name, {}) | widgets
    if unknown := values.keys() - names:
        raise ValueError(f"{key}: {kind_name} has no widget {', '.join(sorted(unknown))}")
    if missing := set(names) - values.keys():
        raise ValueError(f"{key}: {kind_name} needs a value for {', '.join(sorted(missing))}")
    for spec in known.widgets:
        check_value(spec, values[spec["name"]])
    tied = dict(pair.split("=") for pair in links.split())
    ordered = {name: values[name] for name in names}
    return Node(key, known, tied, ordered, title, size[0], max(size[1], _least_height(known, tied)))


def graph(name: str, left: list[Group], rows: list[list[Group]], **extra: Any) -> Json:
    """A whole workflow: groups below each other on the left, rows of groups to their right.

    `extra` is what else the editor keeps with a workflow.
    """
    boxes: list[Json] = []
    nodes: list[tuple[Node, int, int]] = []

    def put(group: Group, x: int, y: int, width: int, height: int) -> None:
        nodes.extend(_placed(group, x, y, width, height))
        if group.title:
            shown = {"title": group.title, "bounding": [x, y, width, height], "color": group.colour}
            boxes.append({"id": len(boxes) + 1, **shown, "font_size": 24, "flags": {}})

    to_the_right = max((_extent(group)[0] + BETWEEN for group in left), default=0)
    y = 0
    for group in left:
        put(group, 0, y, to_the_right - BETWEEN, _extent(group)[1])
        y += _extent(group)[1] + BETWEEN
    below, y, longest = y - BETWEEN, 0, max(_width(row) for row in rows)
    for row in rows:
        x, tallest = to_the_right, max(_extent(group)[1] for group in row)
        if row is rows[-1]:
            tallest = max(tallest, below - y)
        for group in row:
            width = _extent(group)[0] + (longest - _width(row) if group is row[-1] else 0)
            put(group, x, y, width, tallest)
            x += width + BETWEEN
        y += tallest + BETWEEN
    across, down = VIEW
    whole = min(across / (to_the_right + longest), down / (max(y - BETWEEN, below) + TITLE))
    scale = min(max(int(100 * whole) / 100, READABLE), 1.0)
    wired = _wired(nodes)
    favourites = [{"nodeLocatorId": str(key), "widgetName": widget} for key, widget in written_in(wired["nodes"])]
    return {
        **{"id": unique(f"storyidentity/{name}"), "revision": 0},
        **wired,
        "groups": boxes,
        "config": {},
        "extra": {
            "ds": {"scale": scale, "offset": _offset(scale)},
            "frontendVersion": SCHEMAS["editor"],
            "favoritedWidgets": {"favorites": favourites},
            **extra,
        },
        "version": 0.4,
    }


def written_in(nodes: list[Json]) -> list[tuple[int, str]]:
    """The widgets with a user's text, by the ids of their nodes; a Story without Characters has the characters too."""
    ids = {each["type"]: each["id"] for each in nodes}
    found = [(ids[kind], widget) for kind, widgets in WRITTEN.items() if kind in ids for widget in widgets]
    story, people = "StoryIdentityStory", "StoryIdentityCharacters"
    return [(ids[story], "characters"), *found] if story in ids and people not in ids else found


def stored(workflow: Json) -> str:
    return json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"


def alone(each: Node) -> Json:
    """A workflow of one node, as the editor publishes a subgraph."""
    return {"id": unique(f"{each.kind.id}/alone"), "revision": 0, **_wired([(each, 0, 0)]), "version": 0.4}


def _offset(scale: float) -> list[int]:
    """Where the canvas begins, so that the editor's bars cover nothing of it."""
    return [round(each / scale) for each in MARGIN]


def _least_height(known: Kind, links: dict[str, str]) -> int:
    """What the node needs in either look of the editor: the classic one, or the one it calls Nodes 2.0."""
    slots = SLOT * max(len(sockets(known, links)), len(known.outputs))
    heights = [_widget_heights(spec) for spec in known.widgets]
    classic, nodes_2 = (sum(column) for column in zip(*heights, strict=True)) if heights else (0, 0)
    badge = 24 if known.is_ours else 0
    return slots + max(classic, nodes_2 + badge) + 14 + (PICTURE if known.id in PICTURES else 0)


def _widget_heights(spec: Json) -> tuple[int, int]:
    """A widget's height in the classic look and in Nodes 2.0."""
    if spec.get("multiline"):
        return 54, 68
    if spec.get("control_after_generate"):
        return 48, 28
    return 24, 36 if spec["type"] == "STRING" else 28


def _room(each: Node) -> int:
    """Its height with the title and the gap below; portraits appear under the node, which then grows."""
    grows = each.kind.id == "StoryIdentityCharacterPortraits"
    return TITLE + each.height + GAP + (PICTURE if grows else 0)


def _extent(group: Group) -> tuple[int, int]:
    widths = [max(each.width for each in column) for column in group.columns]
    heights = [sum(_room(each) for each in column) - GAP for column in group.columns]
    around = 2 * PADDING if group.title else 0
    return sum(widths) + BETWEEN * (len(widths) - 1) + around, max(heights) + around + (HEADER if group.title else 0)


def _width(row: list[Group]) -> int:
    return sum(_extent(group)[0] for group in row) + BETWEEN * (len(row) - 1)


def _placed(group: Group, x: int, y: int, width: int, height: int) -> list[tuple[Node, int, int]]:
    """The nodes at their places in a box; pictures take what room is left below them and in the last column."""
    inside = PADDING if group.title else 0
    placed, left, bottom = [], x + inside, y + height - inside
    for column in group.columns:
        top = y + inside + (HEADER if group.title else 0)
        spare = width - _extent(group)[0] if column is group.columns[-1] else 0
        for each in column:
            if each.kind.id in PICTURES:
                each = each._replace(width=each.width + spare)
                if each.key == column[-1].key and each.kind.id not in WRITTEN_ON:
                    each = each._replace(height=bottom - top - TITLE)
            placed.append((each, left, top + TITLE))
            top += _room(each)
        left += max(each.width for each in column) + BETWEEN
    return placed


def _wired(placed: list[tuple[Node, int, int]]) -> Json:
    """The nodes of the canvas with their slots and the links between them, and the subgraphs in them."""
    ids = numbered([each for each, _, _ in placed])
    nodes, links = wire(placed, ids, {each.key: outputs_of(each) for each, _, _ in placed})
    last, definitions = len(nodes), []
    for each, _, _ in placed:
        if each.inside is not None:
            definitions.append(defined(each.inside, last))
            last += len(definitions[-1]["nodes"])
    subgraphs = {"definitions": {"subgraphs": definitions}} if definitions else {}
    return {"last_node_id": last, "last_link_id": len(links), "nodes": nodes, "links": links, **subgraphs}


def defined(folded: Folded, before: int) -> Json:
    """A subgraph as the editor saves it; its nodes are numbered from `before` + 1."""
    whole = Group("", "", folded.columns)
    right, bottom = _extent(whole)
    return definition(folded, _placed(whole, 0, 0, right, bottom), right, before)


def fold(
    name: str, about: str, columns: list[list[Node]], takes: str, gives: str, shows: str = "", place: str = ""
) -> Folded:
    """A subgraph of nodes in columns, which read what enters it as `in.NAME`.

    Args:
        name: What it is called.
        about: What it does, in a sentence.
        columns: Its nodes.
        takes: The names of its inputs.
        gives: Its outputs, such as `image=decoded.IMAGE`.
        shows: The widgets of its nodes that it shows, such as `cache.steps`.
        place: The workflow that it belongs to.
    """
    outputs = dict(pair.split("=") for pair in gives.split())
    return Folded(unique(f"storyidentity/{place}/{name}"), name, about, columns, takes.split(), outputs, shows.split())


def folded_node(key: str, folded: Folded, links: str, *, size: tuple[int, int] = (300, 0)) -> Node:
    """The node that stands for a subgraph."""
    found = {each.key: each for column in folded.columns for each in column}
    outputs = [
        output_of(outputs_of(found[each.split(".")[0]]), each.split(".")[1])[1] for each in folded.gives.values()
    ]
    known = Kind(
        folded.id,
        False,
        tuple({"name": name, "type": kind} for name, kind in taken(folded)),
        (),
        tuple({"name": name, "type": each["type"]} for name, each in zip(folded.gives, outputs, strict=True)),
    )
    tied = dict(pair.split("=") for pair in links.split())
    height = _least_height(known, tied) + 28 * len(folded.shows)
    return Node(key, known, tied, {}, folded.name, size[0], max(size[1], height), folded)
