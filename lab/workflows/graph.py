"""A workflow as ComfyUI's editor saves it, from a short description: groups of nodes in columns, links by name.

Ids, slots and places follow from that, so that nothing overlaps and every link fits.
"""

import json
import uuid
from pathlib import Path
from typing import Any, NamedTuple

from .kinds import CORE, OURS, Choice, Json, Kind, Lines, Seed, Upload

PACK = Path(__file__).absolute().parents[2]
MODELS = json.loads((PACK / "models.json").read_text(encoding="utf-8"))["files"]
VERSIONS = {"comfy-core": "0.31.0", "storyidentity": "0.1.0"}  # of the nodes as they are described here
FRONT_END = "1.48.7"

TITLE, SLOT, GAP, BETWEEN, PADDING, HEADER = 30, 20, 20, 50, 20, 40
PICTURES = {"PreviewImage", "SaveImage", "StorySheet", "PreviewAttentionMasks"}
READABLE = 0.6  # the zoom below which the editor leaves texts out
PICTURE = 232  # the least height of the pictures under a node's widgets


class Node(NamedTuple):
    """A node of a graph; `links` has, for each input tied to something, the key and the output it comes from."""

    key: str
    kind: str
    links: dict[str, str]
    widgets: Json
    title: str
    width: int
    height: int


class Group(NamedTuple):
    """Columns of nodes, from left to right, in a box; without a title there is no box."""

    title: str
    colour: str
    columns: list[list[Node]]


def node(
    key: str, kind: str, links: str = "", *, title: str = "", size: tuple[int, int] = (300, 0), **widgets: Any
) -> Node:
    """A node as groups.py writes it: links such as `model=freeu.MODEL`, and the values that differ from the default."""
    known = _kind(kind)
    defaults = {name.rstrip("?"): value for name, value in known.widgets.items()}
    if unknown := widgets.keys() - defaults:
        raise ValueError(f"{key}: {kind} has no {', '.join(sorted(unknown))}")
    values = {name: type(default)(widgets.get(name, default)) for name, default in defaults.items()}
    tied = dict(pair.split("=") for pair in links.split())
    return Node(key, kind, tied, values, title, size[0], max(size[1], _least_height(kind, values)))


def graph(name: str, left: list[Group], rows: list[list[Group]]) -> Json:
    """A whole workflow: groups below each other on the left, rows of groups beside them."""
    boxes: list[Json] = []
    nodes: list[tuple[Node, int, int]] = []

    def put(group: Group, x: int, y: int, width: int, height: int) -> None:
        nodes.extend(_placed(group, x, y, width, height))
        if group.title:
            shown = {"title": group.title, "bounding": [x, y, width, height], "color": group.colour}
            boxes.append({"id": len(boxes) + 1, **shown, "font_size": 24, "flags": {}})

    beside = max((_extent(group)[0] + BETWEEN for group in left), default=0)
    y = 0
    for group in left:
        put(group, 0, y, beside - BETWEEN, _extent(group)[1])
        y += _extent(group)[1] + BETWEEN
    below, y, longest = y - BETWEEN, 0, max(_width(row) for row in rows)
    for row in rows:
        x, tallest = beside, max(_extent(group)[1] for group in row)
        if row is rows[-1]:
            tallest = max(tallest, below - y)
        for group in row:
            width = _extent(group)[0] + (longest - _width(row) if group is row[-1] else 0)
            put(group, x, y, width, tallest)
            x += width + BETWEEN
        y += tallest + BETWEEN
    whole = min(1800 / (beside + longest), 900 / max(y, below))
    scale = max(round(whole, 2), READABLE)
    return {
        **{"id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"storyidentity/{name}")), "revision": 0},
        **_wired(nodes),
        "groups": boxes,
        "config": {},
        "extra": {"ds": {"scale": scale, "offset": [60, 80]}, "frontendVersion": FRONT_END},
        "version": 0.4,
    }


def stored(workflow: Json) -> str:
    return json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"


def _least_height(kind: str, values: Json) -> int:
    """What the node needs in either look of the editor: the classic one, or the one it calls Nodes 2.0."""
    known = _kind(kind)
    slots = SLOT * max(len(known.inputs.split()), len(known.outputs.split()))
    rows = [{Lines: 54, Seed: 48}.get(type(value), 24) for value in values.values()]
    rows_2 = [{Lines: 68, str: 36}.get(type(value), 28) for value in values.values()]
    badge = 24 if kind in OURS else 0
    return slots + max(sum(rows), sum(rows_2) + badge) + 14 + (PICTURE if kind in PICTURES else 0)


def _room(each: Node) -> int:
    """Its height with the title and the gap below; portraits appear under the node, which then grows."""
    return TITLE + each.height + GAP + (PICTURE if each.kind == "CharacterPortraits" else 0)


def _kind(name: str) -> Kind:
    return OURS[name] if name in OURS else CORE[name]


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
            if each.kind in PICTURES:
                each = each._replace(width=each.width + spare)
                if each.key == column[-1].key:
                    each = each._replace(height=bottom - top - TITLE)
            placed.append((each, left, top + TITLE))
            top += _room(each)
        left += max(each.width for each in column) + BETWEEN
    return placed


def _wired(placed: list[tuple[Node, int, int]]) -> Json:
    """The nodes with their slots and the links between them."""
    ids = {each.key: number for number, (each, _, _) in enumerate(placed, start=1)}
    if len(ids) != len(placed):
        raise ValueError("two nodes have the same key")
    outputs = {each.key: _outputs(each) for each, _, _ in placed}
    order = _order([each for each, _, _ in placed])
    links: list[list[Any]] = []
    nodes = []
    for each, x, y in placed:
        inputs = _inputs(each)
        for name, origin in each.links.items():
            slot = next(i for i, one in enumerate(inputs) if one["name"] == name)
            key, output = origin.split(".")
            start = next(i for i, one in enumerate(outputs[key]) if one["name"] == output)
            kind = outputs[key][start]["type"]
            if kind != inputs[slot]["type"] and inputs[slot]["type"] != "*":
                raise ValueError(f"{each.key}: {name} takes {inputs[slot]['type']}, {origin} gives {kind}")
            links.append([len(links) + 1, ids[key], start, ids[each.key], slot, kind])
            inputs[slot]["link"] = len(links)
            outputs[key][start]["links"] = [*(outputs[key][start]["links"] or []), len(links)]
        body = {"id": ids[each.key], "type": _type(each.kind), "pos": [x, y], "size": [each.width, each.height]}
        state = {"flags": {}, "order": order[each.key], "mode": 0, "inputs": inputs, "outputs": outputs[each.key]}
        title = {"title": each.title} if each.title else {}
        nodes.append({**body, **state, **title, "properties": _properties(each), "widgets_values": _values(each)})
        if each.kind == "MarkdownNote":
            nodes[-1] |= {"color": "#432", "bgcolor": "#653"}
    return {"last_node_id": len(nodes), "last_link_id": len(links), "nodes": nodes, "links": links}


def _type(kind: str) -> str:
    return f"StoryIdentity{kind}" if kind in OURS else kind


def _inputs(each: Node) -> list[Json]:
    kind = _kind(each.kind)
    inputs = []
    for socket in kind.inputs.split():
        name, type_ = socket.split(":")
        shape = {"shape": 7} if type_.endswith("?") else {}
        label = {"label": name.split(".")[1]} if "." in name else {}
        inputs.append({**label, "name": name, **shape, "type": type_.rstrip("?"), "link": None})
    if each.kind == "MarkdownNote":
        return inputs
    names = {Choice: "COMBO", Upload: "IMAGEUPLOAD", bool: "BOOLEAN", int: "INT", Seed: "INT", float: "FLOAT"}
    for (listed, default), name in zip(kind.widgets.items(), each.widgets, strict=True):
        shape = {"shape": 7} if listed.endswith("?") else {}
        type_ = names.get(type(default), "STRING")
        inputs.append({"name": name, **shape, "type": type_, "widget": {"name": name}, "link": None})
    return inputs


def _outputs(each: Node) -> list[Json]:
    outputs = []
    for socket in _kind(each.kind).outputs.split():
        name, type_ = socket.split(":") if ":" in socket else (socket, socket)
        shape = {"shape": 6} if type_.endswith("*") else {}
        outputs.append({"name": name, **shape, "type": type_.rstrip("*"), "links": None})
    return outputs


def _properties(each: Node) -> Json:
    if each.kind == "MarkdownNote":
        return {}
    pack = "storyidentity" if each.kind in OURS else "comfy-core"
    chosen = [value for value in each.widgets.values() if isinstance(value, Choice)]
    models = [
        {"name": file["name"], "url": file["url"], "directory": file["folder"]}
        for file in MODELS
        if file["name"] in chosen
    ]
    known = {"cnr_id": pack, "ver": VERSIONS[pack], "Node name for S&R": _type(each.kind)}
    return {**known, "models": models} if models else known


def _values(each: Node) -> list[Any]:
    values: list[Any] = []
    for value in each.widgets.values():
        values += [value, "fixed"] if isinstance(value, Seed) else [value]
    return values


def _order(nodes: list[Node]) -> dict[str, int]:
    """The order in which they can run, as the editor counts it: each once the last node it is tied to is done."""
    waiting = {each.key: [origin.split(".")[0] for origin in each.links.values()] for each in nodes}
    order = [key for key, before in waiting.items() if not before]
    for done in order:  # which grows on the way
        for output in (socket.split(":")[0] for socket in _kind(_find(nodes, done).kind).outputs.split()):
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
