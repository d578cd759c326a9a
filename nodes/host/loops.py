"""Which nodes of a graph stand between Each Frame and Collect Frames, and whether they can run once per frame.

The same for Each Character and Collect Characters.
"""

import hashlib
import json
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from comfy_execution.graph_utils import is_link

import nodes

from ...core.quoting import printable, quote_all


class LoopKind(NamedTuple):
    """What runs once per what: the ids and names of the nodes that begin and end it, and the word for one turn."""

    each: str
    collect: str
    each_name: str
    collect_name: str
    turn: str


FRAMES = LoopKind("StoryIdentityEachFrame", "StoryIdentityCollectFrames", "Each Frame", "Collect Frames", "frame")
CHARACTERS = LoopKind(
    *("StoryIdentityEachCharacter", "StoryIdentityCollectCharacters", "Each Character", "Collect Characters"),
    "character",
)
_BEGINNINGS = {kind.each: kind for kind in (FRAMES, CHARACTERS)}
_ENDINGS = {kind.collect: kind for kind in (FRAMES, CHARACTERS)}

SAVE, STORY_CAST = "StoryIdentitySaveFrame", "StoryIdentityStoryCast"
"""Ids of the nodes that save a frame in a loop, and that choose a frame's identities."""

VALUES = tuple(f"value_{number}" for number in range(1, 6))
"""The inputs of Collect Frames."""

SHOWN, ENDS = "shown_nodes", "ends"
"""Inputs of Collect Frames and of Each Frame that no user sees; see `prepared`."""

IDENTITIES = "identities"
"""The input of Story Cast whose content counts, wherever it comes from."""

NodeInfo = Mapping[str, Any]
Link = tuple[str, int]


@dataclass(frozen=True)
class Loop:
    """What runs once per frame.

    Args:
        each: The id of Each Frame.
        collect: The id of Collect Frames.
        body: The ids of all nodes in between, those that only show or save something included.
        ends: For every connected input of Collect Frames, the link that ends there.
        shown: The ids of the nodes of the body that show or save something.
        known: The inputs of the body, node and name, whose values the loop knows before it begins, and where they come
            from: a frame depends on the content of those that it uses, and not on where all of them come from.
    """

    each: str
    collect: str
    body: frozenset[str]
    ends: Mapping[str, Link]
    shown: tuple[str, ...]
    known: Mapping[tuple[str, str], Link]


def prepared(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt with what the keys of Each Frame and Collect Frames must cover besides what they depend on.

    ComfyUI's key of a node's result is a digest of what the node depends on. Previews in a loop that lead nowhere are
    not of that; with a digest of them as an input of Collect Frames, a new or changed preview runs all the same. An
    Each Frame gets the ids of its ends, so that it is asked again whether it has one.
    """
    if not any(node.get("class_type") in {**_BEGINNINGS, **_ENDINGS} for node in prompt.values()):
        return dict(prompt)
    graph, changed = Graph(prompt.__getitem__, list(prompt)), dict(prompt)
    for node_id, node in prompt.items():
        if node.get("class_type") in _ENDINGS and (shown := graph.only_shown(node_id)):
            parts = {one: [info["class_type"], info["inputs"]] for one, info in shown.items()}
            more = {SHOWN: hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()}
        elif node.get("class_type") in _BEGINNINGS:
            more = {ENDS: ", ".join(graph.ends_of(node_id))}
        else:
            continue
        changed[node_id] = {**node, "inputs": {**node["inputs"], **more}}
    return changed


class Graph:
    """The nodes of a prompt and what they depend on.

    Args:
        get_node: A node by its id, as in ComfyUI's API form.
        ids: All nodes of the workflow.
    """

    def __init__(self, get_node: Callable[[str], NodeInfo], ids: Iterator[str] | list[str]) -> None:
        self._get_node = get_node
        self._ids = list(ids)
        self._open: dict[str, frozenset[str]] = {}

    def node(self, node_id: str) -> NodeInfo:
        return self._get_node(node_id)

    def kind(self, node_id: str) -> str:
        return self._get_node(node_id)["class_type"]

    def loop_kind(self, loop: Loop) -> LoopKind:
        return _BEGINNINGS[self.kind(loop.each)]

    def links(self, node_id: str) -> dict[str, Link]:
        """The inputs of a node that are connected: where each link begins."""
        inputs = self._get_node(node_id)["inputs"]
        return {name: (value[0], int(value[1])) for name, value in inputs.items() if is_link(value)}

    def ancestors(self, *starts: str, without: Container[tuple[str, str]] = ()) -> list[str]:
        """The nodes themselves and all that they depend on; `without` some inputs, node and name."""
        found, waiting = dict.fromkeys(starts), list(starts)
        while waiting:
            current = waiting.pop()
            for name, (origin, _) in self.links(current).items():
                if origin not in found and (current, name) not in without:
                    found[origin] = None
                    waiting.append(origin)
        return list(found)

    def open_loops(self, node_id: str) -> frozenset[str]:
        """Every Each Frame that a node depends on by a way that does not pass a Collect Frames."""
        waiting, begun = [(node_id, False)], set()
        while waiting:  # without recursion, since a chain of nodes may be long
            current, has_origins = waiting.pop()
            if current in self._open or (current in begun and not has_origins):
                continue
            begun.add(current)
            origins = [origin for origin, _ in self.links(current).values() if self.kind(origin) not in _ENDINGS]
            if has_origins:
                own = {current} if self.kind(current) in _BEGINNINGS else set()
                known = (self._open.get(origin, frozenset()) for origin in origins)  # in a circle one is not known yet
                self._open[current] = frozenset(own.union(*known))
            else:
                waiting += [(current, True), *((origin, False) for origin in origins)]
        return self._open[node_id]

    def ends_of(self, each: str) -> list[str]:
        """Every Collect Frames that ends the loop of an Each Frame, in the workflow's order."""
        return [one for one in self._ids if self.kind(one) in _ENDINGS and each in self.open_loops(one)]

    def called(self, node_id: str) -> str:
        """A node in the words of messages: its title and its id."""
        node = self._get_node(node_id)
        named = nodes.NODE_DISPLAY_NAME_MAPPINGS.get(node["class_type"], node["class_type"])
        title = node.get("_meta", {}).get("title") or named
        return f"{printable(title, 60)} (#{printable(node_id, 20)})"

    def only_shown(self, collect: str) -> dict[str, NodeInfo]:
        """The nodes of the loops that end here which lead to no Collect Frames: they only show or save something."""
        starts = self.open_loops(collect)
        ends = [one for one in self._ids if self.kind(one) in _ENDINGS]
        leading = set(self.ancestors(*ends))
        return {one: self._get_node(one) for one in self._ids if one not in leading and starts & self.open_loops(one)}

    def loop(self, collect: str) -> Loop:
        """The loop that a Collect Frames ends.

        Raises:
            ValueError: If there is none, several loops meet, one lies in another (of ours or of another pack), or a
                value leaves the loop by another way.
        """
        here, kind = self.called(collect), _ENDINGS[self.kind(collect)]
        if collect not in self._ids:
            raise ValueError(
                f"{here} stands in a loop that another node makes. Loops do not nest; take {kind.each_name} and "
                f"{kind.collect_name} out of that loop."
            )
        starts = sorted(self.open_loops(collect))
        if not starts:
            raise ValueError(
                f"{here}: no {kind.each_name} comes before it. Connect a node that takes its values from "
                f"{kind.each_name}."
            )
        self._refuse_nested(collect, starts)
        (each,) = starts
        begun = _BEGINNINGS[self.kind(each)]
        if begun is not kind:
            raise ValueError(
                f"{here} does not end the loop that {self.called(each)} begins. Put {begun.collect_name} in its place."
            )
        inside = {one for one in self._ids if each in self.open_loops(one) and one not in (each, collect)}
        inside = {one for one in inside if self.kind(one) not in _ENDINGS}
        self._refuse_ways_around(each, inside)
        ends = {name: link for name, link in self.links(collect).items() if name in VALUES}
        first = self.ends_of(each)[0] == collect  # of several ends, the first shows and saves
        shown = tuple(one for one in self._ids if first and one in inside and self._shows(one))
        body = set(self.ancestors(*(origin for origin, _ in ends.values()), *shown)) & inside
        casts = {one: self.links(one) for one in body if kind is FRAMES and self.kind(one) == STORY_CAST}
        given = {one: links[IDENTITIES] for one, links in casts.items() if IDENTITIES in links}
        known = {(one, IDENTITIES): link for one, link in given.items() if link[0] not in inside}
        return Loop(each, collect, frozenset(body), ends, shown, known)

    def _shows(self, node_id: str) -> bool:
        return bool(getattr(nodes.NODE_CLASS_MAPPINGS[self.kind(node_id)], "OUTPUT_NODE", False))

    def _refuse_nested(self, collect: str, starts: list[str]) -> None:
        before = [one for one in self.ancestors(collect) if one != collect and self.kind(one) in _ENDINGS]
        within = [one for one in before if self.open_loops(one) & set(starts) and self.open_loops(one) != set(starts)]
        for end in [collect, *within]:
            if len(self.open_loops(end)) > 1:
                both = " and ".join(self.called(each) for each in sorted(self.open_loops(end)))
                raise ValueError(
                    f"{self.called(end)}: {both} both lead to it, so that one loop lies in the other. Loops do not "
                    "nest; end the first loop with a Collect node of its own before the second begins."
                )

    def _refuse_ways_around(self, each: str, inside: set[str]) -> None:
        """No node may take a value of the loop itself and a collected one of the same loop."""
        ends = set(self.ends_of(each))
        around = [one for one in sorted(inside) if ends & set(self.ancestors(one))]
        if around:
            raise ValueError(
                f"{self.called(around[0])} takes values from inside the loop of {self.called(each)} and from "
                f"{self.called(min(ends & set(self.ancestors(around[0]))))}. Connect everything through the "
                "latter."
            )
        unended = [one for one in sorted(inside) if self.kind(one) == SAVE and not self._leads_on(one, ends)]
        if unended:
            raise ValueError(
                f"{self.called(unended[0])}: connect its output to Collect Frames, or to nodes that lead there. Only "
                "then is it known when pictures have to be saved again."
            )

    def _leads_on(self, node_id: str, ends: set[str]) -> bool:
        return any(node_id in self.ancestors(end) for end in ends)

    def require_end(self, each: str) -> None:
        """Refuse an Each Frame without end.

        Raises:
            ValueError: If no Collect Frames comes after it.
        """
        if not self.ends_of(each):
            end = _BEGINNINGS[self.kind(each)].collect_name
            others = [self.called(one) for one in self._ids if self.kind(one) in _ENDINGS]
            known = f" There is {quote_all(others)}, which does not depend on it." if others else ""
            raise ValueError(
                f"{self.called(each)}: no {end} comes after it. Connect what the nodes after it make to a {end}.{known}"
            )


def workflow_of(dynprompt: Any) -> Graph:
    """The workflow that is running, as it was sent and with whatever expansion has added.

    Args:
        dynprompt: ComfyUI's, a hidden input of nodes.
    """
    return Graph(dynprompt.get_node, list(dynprompt.get_original_prompt()))
