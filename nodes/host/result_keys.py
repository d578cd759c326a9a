"""The key of a node's result: a digest of everything that the result depends on, by the rules of ComfyUI's own keys.

A node's part is its kind, its inputs, what its fingerprint said (`IS_CHANGED`), and its id if it takes its id as an
input; then come the parts of all nodes before it. An input whose content is known counts by that content, and not by
what it comes from; a value that bears no names has a key without them (`expansion`). ComfyUI writes fingerprints into
the nodes before a run, and they are read from there. Equal keys mean that ComfyUI itself would take one result for the
other.

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

from .expansion import KNOWN, WITHOUT_NAMES
from .loops import Graph, Link


def key_of(graph: Graph, node_id: str, name_free: bool = False) -> str | None:
    """The key of a node's result; None if it cannot be known, so that nothing may be kept.

    Args:
        graph: The workflow.
        node_id: The node.
        name_free: Whether the result stays the same when people get other names.
    """
    digests: dict[str, str] = {}
    waiting = [(node_id, False)]
    while waiting:  # without recursion, since a chain of nodes may be long
        current, has_origins = waiting.pop()
        if current in digests:
            continue
        if not has_origins:
            waiting += [(current, True), *((origin, False) for origin, _ in _unknown(graph, current).values())]
            continue
        part = _part(graph, current, digests, name_free)
        if part is None:
            return None
        digests[current] = hashlib.sha256(part.encode()).hexdigest()
    return digests[node_id]


def _unknown(graph: Graph, node_id: str) -> dict[str, Link]:
    """The links of a node but those whose content is known."""
    known = graph.node(node_id).get(KNOWN, {})
    return {name: link for name, link in graph.links(node_id).items() if name not in known}


def _part(graph: Graph, node_id: str, digests: dict[str, str], name_free: bool) -> str | None:
    """What one node adds, as text; the digests of the nodes before it are known."""
    node = graph.node(node_id)
    is_fingerprinted, has_own_id = _rules(node["class_type"])
    if is_fingerprinted and "is_changed" not in node:
        return None
    linked = graph.links(node_id)
    inputs: dict[str, Any] = {
        name: [digests[origin], slot] for name, (origin, slot) in _unknown(graph, node_id).items()
    }
    inputs |= {name: digest[name_free] for name, digest in node.get(KNOWN, {}).items()}
    constants = {name: value for name, value in node["inputs"].items() if name not in linked}
    if name_free and WITHOUT_NAMES in node:
        constants = {WITHOUT_NAMES: node[WITHOUT_NAMES]}
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
