"""A workflow without its subgraphs: the nodes inside take their place, under the ids that the editor gives them."""

from copy import deepcopy
from typing import Any

Json = dict[str, Any]
INPUT, OUTPUT = -10, -20


def unfolded(workflow: Json) -> Json:
    """The workflow with every subgraph's nodes in place of the node that stands for it.

    Raises:
        ValueError: If a subgraph lies in another one.
    """
    kinds = {each["id"]: each for each in workflow.get("definitions", {}).get("subgraphs", [])}
    if not kinds:
        return workflow
    if nested := [each["name"] for each in kinds.values() if any(node["type"] in kinds for node in each["nodes"])]:
        raise ValueError(f"has subgraphs in subgraphs, which are not understood here: {nested}")
    whole = {node["id"]: kinds[node["type"]] for node in workflow["nodes"] if node["type"] in kinds}
    nodes = [deepcopy(node) for node in workflow["nodes"] if node["id"] not in whole]
    for key, kind in whole.items():
        nodes += [{**deepcopy(node), "id": f"{key}:{node['id']}"} for node in kind["nodes"]]
    links = [*_outer(workflow["links"], whole), *_inner(workflow["links"], whole)]
    _tie(nodes, links)
    return {**workflow, "definitions": {}, "nodes": nodes, "links": links}


def _ends(kind: Json) -> list[tuple[Any, ...]]:
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return [tuple(link[name] for name in names) for link in kind["links"]]


def _origin(node: Any, slot: int, whole: dict[Any, Json]) -> tuple[Any, int]:
    """Where a link begins, inside the subgraph if it is one."""
    if node not in whole:
        return node, slot
    (found,) = [link for link in _ends(whole[node]) if link[3] == OUTPUT and link[4] == slot]
    return f"{node}:{found[1]}", found[2]


def _outer(links: list[list[Any]], whole: dict[Any, Json]) -> list[list[Any]]:
    """The links to nodes outside."""
    outside = [link for link in links if link[3] not in whole]
    return [[number, *_origin(node, slot, whole), *rest] for number, node, slot, *rest in outside]


def _inner(links: list[list[Any]], whole: dict[Any, Json]) -> list[list[Any]]:
    """The links to nodes inside, from the inside or through the subgraph's inputs."""
    found = []
    for key, kind in whole.items():
        given = {link[4]: _origin(link[1], link[2], whole) for link in links if link[3] == key}
        for number, node, slot, target, target_slot, name in _ends(kind):
            if target == OUTPUT or (node == INPUT and slot not in given):
                continue
            origin = given[slot] if node == INPUT else (f"{key}:{node}", slot)
            found.append([f"{key}:{number}", *origin, f"{key}:{target}", target_slot, name])
    return found


def _tie(nodes: list[Json], links: list[list[Any]]) -> None:
    """Let every slot know its links."""
    known = {node["id"]: node for node in nodes}
    for node in nodes:
        for slot in node.get("inputs") or []:
            slot["link"] = None
        for slot in node.get("outputs") or []:
            slot["links"] = []
    for number, node, slot, target, target_slot, _ in links:
        known[node]["outputs"][slot]["links"].append(number)
        known[target]["inputs"][target_slot]["link"] = number
