"""A workflow as ComfyUI's editor saves it, from a short description: groups of nodes in columns, links by name.

Ids, slots and places follow from that, so that nothing overlaps and every link fits.
"""

import json
import uuid
from pathlib import Path
from typing import Any, NamedTuple

from ...core.identity import PACK_VERSION
from .kinds import NOTE, SCHEMAS, Kind, check_value, kind
from .presets import PRESETS
from .schemas import ANY, Json

PACK = Path(__file__).absolute().parents[2]
MODELS = json.loads((PACK / "models.json").read_text(encoding="utf-8"))["files"]
VERSIONS = {"comfy-core": SCHEMAS["comfyui"], "storyidentity": PACK_VERSION}

TITLE, SLOT, GAP, BETWEEN, PADDING, HEADER = 30, 20, 20, 50, 20, 40
PICTURES = {
    *("PreviewImage", "SaveImage", "StoryIdentitySaveFrame", "StoryIdentityStorySheet"),
    *("StoryIdentityPreviewAttentionMasks", "StoryIdentityFindIdentity"),
}
READABLE = 0.6  # the zoom below which the editor leaves texts out
PICTURE = 232  # the least height of the pictures under a node's widgets


class Node(NamedTuple):
    """A node of a graph; `links` has, for each input tied to something, the key and the output it comes from.

    `inside` is of a subgraph: its definition, the last of its ids, and which widgets of its nodes it shows.
    """

    key: str
    kind: Kind
    links: dict[str, str]
    widgets: Json
    title: str
    width: int
    height: int
    inside: Json | None = None


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


def graph(name: str, left: list[Group], rows: list[list[Group]]) -> Json:
    """A whole workflow: groups below each other on the left, rows of groups to their right."""
    boxes: list[Json] = []
    nodes: list[tuple[Node, int, int]] = []

    def put(group: Group, x: int, y: int, width: int, height: int) -> None:
        nodes.extend(_placed_within(group, x, y, width, height))
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
    whole = min(1800 / (to_the_right + longest), 900 / max(y, below))
    scale = max(round(whole, 2), READABLE)
    folded = [each.inside["definition"] for each, _, _ in nodes if each.inside is not None]
    return {
        **{"id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"storyidentity/{name}")), "revision": 0},
        **wired(nodes),
        "groups": boxes,
        **({"definitions": {"subgraphs": folded}} if folded else {}),
        "config": {},
        "extra": {"ds": {"scale": scale, "offset": [60, 80]}, "frontendVersion": SCHEMAS["editor"]},
        "version": 0.4,
    }


def stored(workflow: Json) -> str:
    return json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"


def _least_height(known: Kind, links: dict[str, str]) -> int:
    """What the node needs in either look of the editor: the classic one, or the one it calls Nodes 2.0."""
    slots = SLOT * max(len(_sockets(known, links)), len(known.outputs))
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


def placed(group: Group, x: int, y: int) -> list[tuple[Node, int, int]]:
    """The nodes of a group at their places, with nothing around them."""
    return _placed_within(group, x, y, *_extent(group))


def _placed_within(group: Group, x: int, y: int, width: int, height: int) -> list[tuple[Node, int, int]]:
    """The nodes at their places in a box; pictures take what room is left below them and in the last column."""
    inside = PADDING if group.title else 0
    found, left, bottom = [], x + inside, y + height - inside
    for column in group.columns:
        top = y + inside + (HEADER if group.title else 0)
        spare = width - _extent(group)[0] if column is group.columns[-1] else 0
        for each in column:
            if each.kind.id in PICTURES:
                each = each._replace(width=each.width + spare)
                if each.key == column[-1].key:
                    each = each._replace(height=bottom - top - TITLE)
            found.append((each, left, top + TITLE))
            top += _room(each)
        left += max(each.width for each in column) + BETWEEN
    return found


def wired(places: list[tuple[Node, int, int]], first: int = 1) -> Json:
    """The nodes with their slots and the links between them; the ids count up from `first`."""
    ids = {each.key: number for number, (each, _, _) in enumerate(places, start=first)}
    if len(ids) != len(places):
        raise ValueError("two nodes have the same key")
    outputs = {each.key: _outputs(each) for each, _, _ in places}
    order = _order([each for each, _, _ in places])
    links: list[list[Any]] = []
    nodes = []
    for each, x, y in places:
        inputs = _inputs(each)
        for name, origin in each.links.items():
            slot = next(i for i, one in enumerate(inputs) if one["name"] == name)
            key, output = origin.split(".")
            start = next(i for i, one in enumerate(outputs[key]) if one["name"] == output)
            given = outputs[key][start]["type"]
            if ANY not in (given, inputs[slot]["type"]) and given not in inputs[slot]["type"].split(","):
                raise ValueError(f"{each.key}: {name} takes {inputs[slot]['type']}, {origin} gives {given}")
            links.append([len(links) + 1, ids[key], start, ids[each.key], slot, given])
            inputs[slot]["link"] = len(links)
            outputs[key][start]["links"] = [*(outputs[key][start]["links"] or []), len(links)]
        body = {"id": ids[each.key], "type": each.kind.id, "pos": [x, y], "size": [each.width, each.height]}
        state = {"flags": {}, "order": order[each.key], "mode": 0, "inputs": inputs, "outputs": outputs[each.key]}
        title = {"title": each.title} if each.title else {}
        nodes.append({**body, **state, **title, "properties": _properties(each), "widgets_values": _values(each)})
        if each.kind is NOTE:
            nodes[-1] |= {"color": "#432", "bgcolor": "#653"}
    last = max([*ids.values(), *(each.inside["last"] for each, _, _ in places if each.inside is not None)])
    return {"last_node_id": last, "last_link_id": len(links), "nodes": nodes, "links": links}


def _sockets(known: Kind, links: dict[str, str]) -> list[Json]:
    """The inputs that take only links; one that grows shows as many as are tied, and one more."""
    shown: list[Json] = []
    for spec in known.sockets:
        if "grows" not in spec:
            shown.append(spec)
            continue
        prefix, least = spec["grows"]["prefix"], spec["grows"]["min"]
        tied = sum(name.startswith(f"{spec['name']}.") for name in links)
        for number in range(min(tied + 1, spec["grows"]["max"])):
            name = f"{prefix}{number}"
            one = {"label": name, "name": f"{spec['name']}.{name}", "type": spec["type"]}
            shown.append({**one, "optional": number >= least})
    return shown


def _inputs(each: Node) -> list[Json]:
    inputs = []
    for spec in _sockets(each.kind, each.links):
        label = {"label": spec["label"]} if "label" in spec else {}
        inputs.append({**label, "name": spec["name"], **_shape(spec), "type": spec["type"], "link": None})
    for spec in () if each.kind is NOTE else each.kind.widgets:
        widget = {"widget": {"name": spec["name"]}, "link": None}
        inputs.append({"name": spec["name"], **_shape(spec), "type": spec["type"], **widget})
    return inputs


def _shape(spec: Json) -> Json:
    """How the editor draws an input that may stay empty."""
    return {"shape": 7} if spec.get("optional") else {}


def _outputs(each: Node) -> list[Json]:
    return [
        {"name": spec["name"], **({"shape": 6} if spec.get("list") else {}), "type": spec["type"], "links": None}
        for spec in each.kind.outputs
    ]


def _properties(each: Node) -> Json:
    if each.kind is NOTE:
        return {}
    if each.inside is not None:
        return {"proxyWidgets": each.inside["widgets"]}
    pack = "storyidentity" if each.kind.is_ours else "comfy-core"
    chosen = [each.widgets[spec["name"]] for spec in each.kind.widgets if spec["type"] == "COMBO"]
    models = [
        {"name": file["name"], "url": file["url"], "directory": file["folder"]}
        for file in MODELS
        if file["name"] in chosen
    ]
    known = {"cnr_id": pack, "ver": VERSIONS[pack], "Node name for S&R": each.kind.id}
    return {**known, "models": models} if models else known


def _values(each: Node) -> list[Any]:
    values: list[Any] = []
    for spec in each.kind.widgets:
        value = each.widgets[spec["name"]]
        values += [value, "fixed"] if spec.get("control_after_generate") else [value]
    return values


def _order(nodes: list[Node]) -> dict[str, int]:
    """The order in which they can run, as the editor counts it: each once the last node it is tied to is done."""
    waiting = {each.key: [origin.split(".")[0] for origin in each.links.values()] for each in nodes}
    order = [key for key, before in waiting.items() if not before]
    for done in order:  # which grows on the way
        for output in (spec["name"] for spec in _find(nodes, done).kind.outputs):
            for each in nodes:
                for _ in [origin for origin in each.links.values() if origin == f"{done}.{output}"]:
                    waiting[each.key].remove(done)
                    if not waiting[each.key]:
                        order.append(each.key)
    if len(order) != len(nodes):
        raise ValueError("the links go in a circle")
    return {key: number for number, key in enumerate(order)}


def _find(nodes: list[Node], key: str) -> Node:
    return next(each for each in nodes if each.key == key)
