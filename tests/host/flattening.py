"""A workflow with the nodes of its subgraphs in place of those that stand for them, as the editor hands it on."""

from typing import Any

Json = dict[str, Any]

ENTRY, EXIT = -10, -20


def flattened(workflow: Json) -> Json:
    """The workflow without subgraphs; the nodes of one get ids such as "7:12".

    Raises:
        ValueError: If a subgraph lies in another one, or its node is muted or bypassed.
    """
    definitions = {each["id"]: each for each in workflow.get("definitions", {}).get("subgraphs", [])}
    standing = [node for node in workflow["nodes"] if node["type"] in definitions]
    if not standing:
        return workflow
    nodes = [dict(node) for node in workflow["nodes"] if node["type"] not in definitions]
    links = [list(link) for link in workflow["links"]]
    for node in standing:
        inner = definitions[node["type"]]
        where = f"node {node['id']} ({inner['name']})"
        if node.get("mode", 0):
            raise ValueError(f"{where} is muted or bypassed, which is not understood here")
        if nested := [each for each in inner["nodes"] if each["type"] in definitions]:
            raise ValueError(f"{where} has a subgraph in it, node {nested[0]['id']}, which is not understood here")
        nodes += [{**each, "id": f"{node['id']}:{each['id']}"} for each in inner["nodes"]]
        links = _joined(links, node, inner)
    ends = [(start, slot, end, target, kind) for _, start, slot, end, target, kind in links]
    links = [[number, *each] for number, each in enumerate(ends, start=1)]
    return {**workflow, "nodes": [_relinked(node, links) for node in nodes], "links": links, "definitions": {}}


def _joined(links: list[list[Any]], node: Json, inner: Json) -> list[list[Any]]:
    """The links past a subgraph's node: what enters goes to the nodes inside, what leaves comes from them."""
    key = node["id"]
    entering = {slot: (start, output) for _, start, output, end, slot, _ in links if end == key}
    leaving = {
        each["target_slot"]: (f"{key}:{each['origin_id']}", each["origin_slot"])
        for each in inner["links"]
        if each["target_id"] == EXIT
    }
    joined = [link for link in links if link[3] != key]
    for link in joined:
        if link[1] == key:
            link[1:3] = leaving[link[2]]
    for each in inner["links"]:
        if each["target_id"] == EXIT:
            continue
        inside = (f"{key}:{each['origin_id']}", each["origin_slot"])
        start = entering.get(each["origin_slot"]) if each["origin_id"] == ENTRY else inside
        if start is not None:
            joined.append([0, *start, f"{key}:{each['target_id']}", each["target_slot"], each["type"]])
    return joined


def _relinked(node: Json, links: list[list[Any]]) -> Json:
    """The node with the numbers that the links now have."""
    into = {link[4]: link[0] for link in links if link[3] == node["id"]}
    inputs = [{**each, "link": into.get(slot)} for slot, each in enumerate(node.get("inputs") or [])]
    outputs = [
        {**each, "links": [link[0] for link in links if (link[1], link[2]) == (node["id"], slot)]}
        for slot, each in enumerate(node.get("outputs") or [])
    ]
    return {**node, "inputs": inputs, "outputs": outputs}
