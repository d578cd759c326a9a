"""Which values of a loop stay the same when characters get other names.

A picture does where names only say which identity, which mask and which words belong together. That is known of few
nodes; whatever else takes a value that bears names may show them, and then its results count as another name's.
"""

from collections.abc import Mapping
from graphlib import TopologicalSorter

import nodes

from .loops import IDENTITIES, STORY_CAST, Graph, Link, Loop

_PLAIN = frozenset({"IMAGE", "LATENT", "MASK"})
"""Types of values that bear no names."""

_CONDITIONING = "CONDITIONING"
"""It may note which words name whom, which only nodes of this pack read."""

_NAMING = frozenset(
    "STORY STORY_FRAME STORY_CHARACTERS IDENTITY CAST STORY_LAYOUT FACE_FEATURES * COMFY_MATCHTYPE_V3".split()
)
"""Types of values whose names are compared with others, and those that may be any."""

_SHOWN: Mapping[str, frozenset[int]] = {
    "StoryIdentityEncodeFrame": frozenset(),
    "StoryIdentityNoisyLatentCache": frozenset(),
    "StoryIdentityGroundedSAMLayout": frozenset({2}),
    "StoryIdentityLayoutFromAttention": frozenset({2}),
    STORY_CAST: frozenset(),
    "StoryIdentityRedenoise": frozenset(),
    "StoryIdentityCharacterPortraits": frozenset(),
    "StoryIdentityFindIdentity": frozenset(),
}
"""The nodes for which names only say what belongs together, and their outputs in which names can be seen."""

_NOTED = ("StoryIdentityNoisyLatentCache", "positive")
"""The input whose notes of words come to a layout."""

_FREE, _NAMES, _CHANGED = "free", "names", "changed"
"""What another name does to a value: nothing; only the name in it changes; it may change altogether."""


class NameFree:
    """The values of a loop.

    Args:
        graph: The workflow.
        loop: The loop in it.
    """

    def __init__(self, graph: Graph, loop: Loop) -> None:
        self._graph, self._loop = graph, loop
        inside = {one: [origin for origin, _ in graph.links(one).values()] for one in loop.body}
        self._states: dict[str, str] = {}
        for node_id in TopologicalSorter(inside).static_order():
            if node_id in loop.body:
                self._states[node_id] = self._state_of(node_id)

    def is_free(self, link: Link) -> bool:
        """Whether the value of a link stays the same, and bears no name."""
        return self._link_state(link) == _FREE

    def _link_state(self, link: Link) -> str:
        origin, slot = link
        if origin == self._loop.each:
            return _NAMES if slot == 0 else _FREE  # the others are constants, and in the key by themselves
        state = self._states.get(origin, _FREE)
        if state != _NAMES:
            return state
        if slot in _SHOWN.get(self._graph.kind(origin), ()):
            return _CHANGED
        return _FREE if self._type(link) in _PLAIN else _NAMES

    def _state_of(self, node_id: str) -> str:
        """What another name does to a node's work, apart from what its outputs are."""
        kind, links = self._graph.kind(node_id), self._graph.links(node_id)
        bearing = [name for name, link in links.items() if self._link_state(link) != _FREE]
        if not bearing:
            return _FREE
        if any(self._link_state(links[name]) == _CHANGED for name in bearing):
            return _CHANGED
        if kind in _SHOWN:
            return _CHANGED if any(self._names_from_outside(node_id, name) for name in links) else _NAMES
        return _NAMES if all(self._type(links[name]) == _CONDITIONING for name in bearing) else _CHANGED

    def _names_from_outside(self, node_id: str, name: str) -> bool:
        """Whether an input brings names that are not the loop's own, and so may now be somebody else's."""
        link = self._graph.links(node_id)[name]
        if (node_id, name) in self._loop.known:
            return False
        if self._graph.kind(node_id) == STORY_CAST and name == IDENTITIES:
            return True
        if link[0] in self._loop.body or link[0] == self._loop.each:
            return False
        return self._type(link) in _NAMING or (self._graph.kind(node_id), name) == _NOTED

    def _type(self, link: Link) -> str:
        origin, slot = link
        types = nodes.NODE_CLASS_MAPPINGS[self._graph.kind(origin)].RETURN_TYPES
        return types[slot] if slot < len(types) else "*"
