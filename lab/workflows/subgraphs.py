"""Nodes that the editor shows as one: a subgraph, which is opened by a click.

Inside, an input of the whole is the output of that name of a node `in`; what the whole gives is named by `gives`.
"""

import json
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

from .graph import Group, Node, placed, wired
from .kinds import Kind
from .schemas import Json

INPUT, OUTPUT = -10, -20
"""What the editor calls the two ends of a subgraph among its nodes."""


class Widget(NamedTuple):
    """A widget inside that the whole shows: the key of its node, and its name."""

    key: str
    name: str


def folded(
    key: str,
    title: str,
    columns: list[list[Node]],
    *,
    first: int,
    takes: str,
    gives: str,
    links: str = "",
    widgets: Sequence[Widget] = (),
    width: int = 320,
) -> Node:
    """One node for several.

    Args:
        key: Of the node.
        title: What it does.
        columns: The nodes inside, from left to right.
        first: The id of the first node inside; the editor wants ids that no other node of the workflow has.
        takes: The inputs of the whole and their types, such as `model=MODEL clip=CLIP`.
        gives: The outputs of the whole, such as `image=decoded.IMAGE`.
        links: What the inputs are tied to outside.
        widgets: The widgets that the whole shows.
        width: Of the node.
    """
    nodes = [each for column in columns for each in column]
    ids = {each.key: number for number, each in enumerate(nodes, start=first)}
    kinds = {f"{each.key}.{output['name']}": output["type"] for each in nodes for output in each.kind.outputs}
    given = dict(pair.split("=") for pair in gives.split())
    entry = tuple({"name": name, "type": kind} for name, kind in (pair.split("=") for pair in takes.split()))
    leave = tuple({"name": name, "type": kinds[origin]} for name, origin in given.items())
    ends = [
        Node("in", Kind("in", False, (), (), entry), {}, {}, "", 120, 0),
        Node("out", Kind("out", False, leave, (), ()), given, {}, "", 120, 0),
    ]
    group = Group("", "", columns)
    places = placed(group, 0, 0)
    inside = _definition(title, wired([*places, *((each, 0, 0) for each in ends)], first))
    shown = [[str(ids[each.key]), each.name] for each in widgets]
    kind = Kind(inside["id"], False, entry, (), leave)
    tied = dict(pair.split("=") for pair in links.split())
    height = 20 * max(len(entry), len(leave)) + 28 * len(shown) + 24
    return Node(
        key, kind, tied, {}, title, width, height, {"definition": inside, "last": max(ids.values()), "widgets": shown}
    )


def _definition(title: str, whole: Json) -> Json:
    """The subgraph as the editor saves it, from its wired nodes, the two ends being the last of them."""
    *nodes, entry, leave = whole["nodes"]
    ends = {entry["id"]: INPUT, leave["id"]: OUTPUT}
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [dict(zip(names, link, strict=True)) for link in whole["links"]]
    for link in links:
        link["origin_id"] = ends.get(link["origin_id"], link["origin_id"])
        link["target_id"] = ends.get(link["target_id"], link["target_id"])
    right = max(each["pos"][0] + each["size"][0] for each in nodes)
    tops = [40 + 20 * number for number in range(max(len(entry["outputs"]), len(leave["inputs"])))]
    inputs = [
        _end(title, each, each["links"] or [], [-100, top]) for each, top in zip(entry["outputs"], tops, strict=False)
    ]
    outputs = [
        _end(title, each, [each["link"]], [right + 100, top]) for each, top in zip(leave["inputs"], tops, strict=False)
    ]
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([title, nodes, links]))),
        "version": 1,
        "state": {"lastGroupId": 0, "lastNodeId": nodes[-1]["id"], "lastLinkId": len(links), "lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": title,
        "inputNode": {"id": INPUT, "bounding": [-220, 20, 120, 20 * len(inputs) + 40]},
        "outputNode": {"id": OUTPUT, "bounding": [right + 80, 20, 120, 20 * len(outputs) + 40]},
        "inputs": inputs,
        "outputs": outputs,
        "widgets": [],
        "nodes": nodes,
        "groups": [],
        "links": links,
        "extra": {},
    }


def _end(title: str, slot: Json, links: list[int], place: list[int]) -> dict[str, Any]:
    identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"storyidentity/{title}/{slot['name']}"))
    return {"id": identity, "name": slot["name"], "type": slot["type"], "linkIds": links, "pos": place}
