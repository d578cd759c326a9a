"""The key of a node's result: a digest of everything that the result depends on, by the rules of ComfyUI's own keys.

A node's part is its kind, its inputs, what its fingerprint said (`IS_CHANGED`), and its id if it takes its id as an
input; then come the parts of all nodes before it. ComfyUI writes fingerprints into the nodes before a run, and they are
read from there. Equal keys mean that ComfyUI itself would take one result for the other.

Why not ComfyUI's interface for cache providers: with --cache-classic ComfyUI does not ask providers about nodes that
come from expansion, it makes a key of every node of every workflow once there is a provider, and it stores in tasks
that may be dropped when a run ends. Hosts before 0.17 do not have it.
"""

import hashlib
import json
from functools import cache
from typing import Any

from comfy_api.latest import io

import nodes

from .loops import Graph


def key_of(graph: Graph, node_id: str) -> str | None:
    """The key of a node's result; None if it cannot be known, so that nothing may be kept."""
    digests: dict[str, str] = {}
    waiting = [(node_id, False)]
    while waiting:  # without recursion, since a chain of nodes may be long
        current, has_origins = waiting.pop()
        if current in digests:
            continue
        if not has_origins:
            waiting += [(current, True), *((origin, False) for origin, _ in graph.links(current).values())]
            continue
        part = _part(graph, current, digests)
        if part is None:
            return None
        digests[current] = hashlib.sha256(part.encode()).hexdigest()
    return digests[node_id]


def _part(graph: Graph, node_id: str, digests: dict[str, str]) -> str | None:
    """What one node adds, as text; the digests of the nodes before it are known."""
    node = graph.node(node_id)
    is_fingerprinted, has_own_id = _rules(node["class_type"])
    if is_fingerprinted and "is_changed" not in node:
        return None
    links = graph.links(node_id)
    inputs = {name: [digests[links[name][0]], links[name][1]] for name in links}
    constants = {name: value for name, value in node["inputs"].items() if name not in links}
    parts: list[Any] = [node["class_type"], node.get("is_changed"), inputs, constants, node_id if has_own_id else ""]
    try:
        return json.dumps(parts, sort_keys=True, allow_nan=False)  # NaN is a fingerprint that always differs
    except (TypeError, ValueError):
        return None


@cache
def _rules(class_type: str) -> tuple[bool, bool]:
    """Whether a kind of node has a fingerprint, and whether its id counts."""
    kind = nodes.NODE_CLASS_MAPPINGS[class_type]
    if issubclass(kind, io.ComfyNode):
        is_fingerprinted = kind.fingerprint_inputs.__func__ is not io.ComfyNode.fingerprint_inputs.__func__
    else:
        is_fingerprinted = hasattr(kind, "IS_CHANGED")
    takes_id = "UNIQUE_ID" in kind.INPUT_TYPES().get("hidden", {}).values()
    return is_fingerprinted, takes_id or bool(getattr(kind, "NOT_IDEMPOTENT", False))
