"""The links of a workflow: slots, ids and the order of the nodes follow from what each is tied to; so do subgraphs."""

import json
import uuid
from pathlib import Path
from typing import Any

from ...core.identity import PACK_VERSION
from .kinds import NOTE, SCHEMAS, Folded, Kind, Node
from .schemas import ANY, Json

PACK = Path(__file__).absolute().parents[2]
MODELS = json.loads((PACK / "models.json").read_text(encoding="utf-8"))["files"]
VERSIONS = {"comfy-core": SCHEMAS["comfyui"], "storyidentity": PACK_VERSION}
TITLE, SLOT = 30, 20
ENTRY = "in"  # where what enters a subgraph comes from, among its nodes' links
CATEGORY = "StoryIdentity"

Placed = list[tuple[Node, int, int]]


def unique(text: str) -> str:
    """An id of this text, the same each time."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, text))


def definition(folded: Folded, placed: Placed, right: int, before: int) -> Json:
    """A subgraph as the editor saves it.

    Args:
        folded: What is in it.
        placed: Its nodes at their places.
        right: Where these end.
        before: The last id that is in use, since no two nodes of a workflow may have one.

    Raises:
        ValueError: If a link does not fit.
    """
    inside = [each for each, _, _ in placed]
    outputs = {each.key: outputs_of(each) for each in inside}
    entry = [{"name": name, "type": kind, "links": None} for name, kind in taken(folded)]
    ids = {**numbered(inside, before), ENTRY: -10}
    nodes, links = wire(placed, ids, {**outputs, ENTRY: entry})
    leaving = []
    for slot, (name, origin) in enumerate(folded.gives.items()):
        key, output = origin.split(".")
        start, given = output_of(outputs[key], output)
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


def taken(folded: Folded) -> list[tuple[str, str]]:
    """The entries of a subgraph with their types, which are those of the first input that each leads to.

    Raises:
        ValueError: If an entry leads nowhere, or a link comes from an entry that is not there.
    """
    kinds: dict[str, str] = {}
    for each in (one for column in folded.columns for one in column):
        known = {spec["name"]: spec["type"] for spec in (*sockets(each.kind, each.links), *each.kind.widgets)}
        for name, origin in each.links.items():
            if origin.startswith(f"{ENTRY}."):
                kinds.setdefault(origin.split(".")[1], known[name])
    if set(kinds) != set(folded.takes):
        raise ValueError(f"{folded.name}: leads to {', '.join(sorted(kinds))}, but takes {', '.join(folded.takes)}")
    return [(name, kinds[name]) for name in folded.takes]


def numbered(nodes: list[Node], before: int = 0) -> dict[str, int]:
    """The ids of nodes by key.

    Raises:
        ValueError: If two have one key.
    """
    ids = {each.key: number for number, each in enumerate(nodes, start=before + 1)}
    if len(ids) != len(nodes):
        raise ValueError("two nodes have the same key")
    return ids


def wire(placed: Placed, ids: dict[str, int], outputs: dict[str, list[Json]]) -> tuple[list[Json], list[list[Any]]]:
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
            start, given = output_of(outputs[key], output)
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


def _shown(folded: Folded, before: int, placed: Placed) -> list[list[str]]:
    """The widgets that a subgraph's node shows, by the ids of the nodes in it."""
    for each, _, _ in placed:
        if each.inside is folded:
            break
        before += 0 if each.inside is None else sum(map(len, each.inside.columns))
    ids = numbered([each for column in folded.columns for each in column], before)
    return [[str(ids[key]), widget] for key, widget in (each.split(".") for each in folded.shows)]


def output_of(outputs: list[Json], name: str) -> tuple[int, Json]:
    """The number of an output, and the output."""
    return next((number, each) for number, each in enumerate(outputs) if each["name"] == name)


def _body(each: Node, x: int, y: int, order: int, inputs: list[Json], outputs: list[Json]) -> Json:
    body = {"type": each.kind.id, "pos": [x, y], "size": [each.width, each.height], "flags": {}, "order": order}
    title = {"title": each.title} if each.title else {}
    coloured = {"color": "#432", "bgcolor": "#653"} if each.kind is NOTE else {}
    slots = {"mode": 0, "inputs": inputs, "outputs": outputs}
    return {**body, **slots, **title, "properties": _properties(each), "widgets_values": _values(each), **coloured}


def sockets(known: Kind, links: dict[str, str]) -> list[Json]:
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
    for spec in sockets(each.kind, each.links):
        label = {"label": spec["label"]} if "label" in spec else {}
        inputs.append({**label, "name": spec["name"], **_shape(spec), "type": spec["type"], "link": None})
    for spec in () if each.kind is NOTE else each.kind.widgets:
        widget = {"widget": {"name": spec["name"]}, "link": None}
        inputs.append({"name": spec["name"], **_shape(spec), "type": spec["type"], **widget})
    return inputs


def _shape(spec: Json) -> Json:
    """How the editor draws an input that may stay empty."""
    return {"shape": 7} if spec.get("optional") else {}


def outputs_of(each: Node) -> list[Json]:
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
