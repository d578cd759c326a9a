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
VIEW, MARGIN = (1480, 880), (90, 110)  # what the editor's bars leave of a window of 1600 x 1000, and its corner
READABLE = 0.6  # the zoom below which the editor leaves texts out
ENTRY = "in"  # where what enters a subgraph comes from, among its nodes' links
CATEGORY = "StoryIdentity"
PICTURE = 232  # the least height of the pictures under a node's widgets


class Node(NamedTuple):
    """A node of a graph; `links` has, for each input tied to something, the key and the output it comes from."""

    key: str
    kind: Kind
    links: dict[str, str]
    widgets: Json
    title: str
    width: int
    height: int
    inside: "Folded | None" = None


class Folded(NamedTuple):
    """A subgraph; see `fold`."""

    id: str
    name: str
    about: str
    columns: list[list[Node]]
    takes: list[str]
    gives: dict[str, str]
    shows: list[str]


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
    return {
        **{"id": unique(f"storyidentity/{name}"), "revision": 0},
        **_wired(nodes),
        "groups": boxes,
        "config": {},
        "extra": {"ds": {"scale": scale, "offset": _offset(scale)}, "frontendVersion": SCHEMAS["editor"], **extra},
        "version": 0.4,
    }


def unique(text: str) -> str:
    """An id of this text, the same each time."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, text))


def stored(workflow: Json) -> str:
    return json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"


def _offset(scale: float) -> list[int]:
    """Where the canvas begins, so that the editor's bars cover nothing of it."""
    return [round(each / scale) for each in MARGIN]


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
                if each.key == column[-1].key:
                    each = each._replace(height=bottom - top - TITLE)
            placed.append((each, left, top + TITLE))
            top += _room(each)
        left += max(each.width for each in column) + BETWEEN
    return placed


def _wired(placed: list[tuple[Node, int, int]]) -> Json:
    """The nodes of the canvas with their slots and the links between them, and the subgraphs in them."""
    ids = numbered([each for each, _, _ in placed])
    nodes, links = wire(placed, ids, {each.key: _outputs(each) for each, _, _ in placed})
    last, definitions = len(nodes), []
    for each, _, _ in placed:
        if each.inside is not None:
            definitions.append(definition(each.inside, last))
            last += len(definitions[-1]["nodes"])
    subgraphs = {"definitions": {"subgraphs": definitions}} if definitions else {}
    return {"last_node_id": last, "last_link_id": len(links), "nodes": nodes, "links": links, **subgraphs}


def definition(folded: Folded, before: int) -> Json:
    """A subgraph as the editor saves it; its nodes are numbered from `before` + 1, since no two of a workflow may agree.

    Raises:
        ValueError: If a link does not fit.
    """
    placed = _placed(Group("", "", folded.columns), 0, 0, *_extent(Group("", "", folded.columns)))
    inside = [each for each, _, _ in placed]
    right, bottom = _extent(Group("", "", folded.columns))
    outputs = {each.key: _outputs(each) for each in inside}
    entry = [{"name": name, "type": kind, "links": None} for name, kind in _taken(folded)]
    ids = {**numbered(inside, before), ENTRY: -10}
    nodes, links = wire(placed, ids, {**outputs, ENTRY: entry})
    leaving = []
    for slot, (name, origin) in enumerate(folded.gives.items()):
        key, output = origin.split(".")
        start, given = _output(outputs[key], output)
        links.append([len(links) + 1, ids[key], start, -20, slot, given["type"]])
        given["links"] = [*(given["links"] or []), len(links)]
        leaving.append({"name": name, "type": given["type"], "linkIds": [len(links)]})
    entering = [{"name": each["name"], "type": each["type"], "linkIds": each["links"]} for each in entry]
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return {
        **{"id": folded.id, "version": 1, "revision": 0, "config": {}, "name": folded.name},
        "state": {"lastGroupId": 0, "lastNodeId": before + len(nodes), "lastLinkId": len(links), "lastRerouteId": 0},
        "inputNode": {"id": -10, "bounding": [-260, TITLE, 160, 40 + SLOT * len(entering)]},
        "outputNode": {"id": -20, "bounding": [right + 100, TITLE, 160, 40 + SLOT * len(leaving)]},
        "inputs": [_end(folded, "in", each, -120, row) for row, each in enumerate(entering)],
        "outputs": [_end(folded, "out", each, right + 120, row) for row, each in enumerate(leaving)],
        **{"widgets": [], "nodes": nodes, "groups": []},
        "links": [dict(zip(names, link, strict=True)) for link in links],
        **{"extra": {}, "category": CATEGORY, "description": folded.about},
    }


def _end(folded: Folded, side: str, each: Json, x: int, row: int) -> Json:
    """An entry or exit of a subgraph."""
    return {"id": unique(f"{folded.id}/{side}/{each['name']}"), **each, "pos": [x, TITLE + 20 + SLOT * row]}


def _taken(folded: Folded) -> list[tuple[str, str]]:
    """The entries of a subgraph with their types, which are those of the first input that each leads to.

    Raises:
        ValueError: If an entry leads nowhere, or a link comes from an entry that is not there.
    """
    kinds: dict[str, str] = {}
    for each in (one for column in folded.columns for one in column):
        known = {spec["name"]: spec["type"] for spec in (*each.kind.sockets, *each.kind.widgets)}
        for name, origin in each.links.items():
            if origin.startswith(f"{ENTRY}."):
                kinds.setdefault(origin.split(".")[1], known[name])
    if set(kinds) != set(folded.takes):
        raise ValueError(f"{folded.name}: leads to {', '.join(sorted(kinds))}, but takes {', '.join(folded.takes)}")
    return [(name, kinds[name]) for name in folded.takes]


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
    outputs = [_output(_outputs(found[each.split(".")[0]]), each.split(".")[1])[1] for each in folded.gives.values()]
    known = Kind(
        folded.id,
        False,
        tuple({"name": name, "type": kind} for name, kind in _taken(folded)),
        (),
        tuple({"name": name, "type": each["type"]} for name, each in zip(folded.gives, outputs, strict=True)),
    )
    tied = dict(pair.split("=") for pair in links.split())
    height = _least_height(known, tied) + 28 * len(folded.shows)
    return Node(key, known, tied, {}, folded.name, size[0], max(size[1], height), folded)


def numbered(nodes: list[Node], before: int = 0) -> dict[str, int]:
    """The ids of nodes by key.

    Raises:
        ValueError: If two have one key.
    """
    ids = {each.key: number for number, each in enumerate(nodes, start=before + 1)}
    if len(ids) != len(nodes):
        raise ValueError("two nodes have the same key")
    return ids


def wire(
    placed: list[tuple[Node, int, int]], ids: dict[str, int], outputs: dict[str, list[Json]]
) -> tuple[list[Json], list[list[Any]]]:
    """The nodes with their slots, and the links between them, which are also noted in `outputs`.

    Raises:
        ValueError: If an input does not take what it is tied to.
    """
    order = _order([each for each, _, _ in placed])
    links: list[list[Any]] = []
    nodes = []
    for each, x, y in placed:
        inputs = _inputs(each)
        for name, origin in each.links.items():
            slot = next(i for i, one in enumerate(inputs) if one["name"] == name)
            key, output = origin.split(".")
            start, given = _output(outputs[key], output)
            kinds = set(given["type"].split(",")), set(inputs[slot]["type"].split(","))
            if not (kinds[0] & kinds[1] or {ANY} in kinds):
                raise ValueError(f"{each.key}: {name} takes {inputs[slot]['type']}, {origin} gives {given['type']}")
            links.append([len(links) + 1, ids[key], start, ids[each.key], slot, given["type"]])
            inputs[slot]["link"] = len(links)
            given["links"] = [*(given["links"] or []), len(links)]
        nodes.append({"id": ids[each.key], **_body(each, x, y, order[each.key], inputs, outputs[each.key])})
    for each, (one, _, _) in zip(nodes, placed, strict=True):
        if one.inside is not None:
            each["properties"] = {"proxyWidgets": _shown(one.inside, len(nodes), placed)}
    return nodes, links


def _shown(folded: Folded, before: int, placed: list[tuple[Node, int, int]]) -> list[list[str]]:
    """The widgets that a subgraph's node shows, by the ids of the nodes in it."""
    for each, _, _ in placed:
        if each.inside is folded:
            break
        before += 0 if each.inside is None else sum(map(len, each.inside.columns))
    ids = numbered([each for column in folded.columns for each in column], before)
    return [[str(ids[key]), widget] for key, widget in (each.split(".") for each in folded.shows)]


def _output(outputs: list[Json], name: str) -> tuple[int, Json]:
    """The number of an output, and the output."""
    return next((number, each) for number, each in enumerate(outputs) if each["name"] == name)


def _body(each: Node, x: int, y: int, order: int, inputs: list[Json], outputs: list[Json]) -> Json:
    body = {"type": each.kind.id, "pos": [x, y], "size": [each.width, each.height], "flags": {}, "order": order}
    title = {"title": each.title} if each.title else {}
    coloured = {"color": "#432", "bgcolor": "#653"} if each.kind is NOTE else {}
    slots = {"mode": 0, "inputs": inputs, "outputs": outputs}
    return {**body, **slots, **title, "properties": _properties(each), "widgets_values": _values(each), **coloured}


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
    waiting = {key: [each for each in before if each != ENTRY] for key, before in waiting.items()}
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
