"""Copies of a loop's nodes, one set per frame or per character, as a graph that ComfyUI runs in place of a node.

What a frame's nodes get of the story is constants: the frame's own text, prompt, seed and number, never a link to the
story. ComfyUI's key of a node's result is a digest of all that it depends on, so an edit of the story leaves the keys
of all other frames as they are. The number is in no key but those of nodes that take it.

Between the copies stand Frame Value nodes. Their input is lazy: a value that is known is asked for by its key before
anything that would make it, and if all that is wanted of a frame is known, nothing of the frame runs.

Identities are known before the frames begin. A frame's copies are linked to where they come from, and the key has the
content of those that the frame uses. All of this holds for the loop over characters as well: a turn of a loop is a
frame or a character.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from comfy_execution.graph_utils import is_link

from .loops import SAVE, Graph, Link, Loop
from .name_free import NameFree

VALUE, LIST = "StoryIdentityFrameValue", "StoryIdentityFrameList"
"""Ids of the nodes that only expansion makes: a value of a turn, the values of all turns."""

KEEP_BOTH, KEEP_MEMORY, KEEP_NOTHING = "in memory and on the disk", "in memory", "nothing"
KEEPS = (KEEP_BOTH, KEEP_MEMORY, KEEP_NOTHING)
"""What Collect Frames may keep of the results."""

MARK = "storyidentity"
"""How the id of every copy begins."""


ABOUT, WITHOUT_NAMES, KNOWN = "about", "without_names", "known"
"""Where a node has what is no input: what a Frame Value has to know; the text of a turn without names; digests of the
inputs whose content is known, with names and without. `result_keys` reads the latter two."""


class About(NamedTuple):
    """What a Frame Value has to know: where it may be kept, and, if it is what a turn comes to, how far the loop is.

    A Frame List has the one of the last turn, since with it the loop is at its end.

    Args:
        keep: Whether it may be kept at all.
        on_disk: Whether it may be kept on the disk too.
        name_free: Whether it stays the same when people get other names.
        collect: The id of Collect Frames; empty for values within the loop.
        number: Which of the turns it is, from 1.
        turns: How many there are.
        said: How far the loop is, for a person.
    """

    keep: bool
    on_disk: bool
    name_free: bool
    collect: str
    number: int
    turns: int
    said: str


@dataclass(frozen=True)
class Turn:
    """What the copies of a frame, or of a character, are made of.

    Args:
        text: All of it that its nodes may depend on.
        without_names: The same without names.
        constant: The id of the node that makes an object of the text.
        constants: What the outputs of Each Frame give, by slot; the others give the object.
        number: The number under which Save Frame saves.
        take: Which of several pictures of the frame it is, from 1; 0 where a frame has only one.
        known: Per link of `Loop.known`, digests of what this turn uses of the value, with names and without.
    """

    text: str
    without_names: str
    constant: str
    constants: Mapping[int, Any]
    number: int = 0
    take: int = 0
    known: Mapping[Link, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Expansion:
    """A graph for ComfyUI, and for every connected input of Collect Frames the node that has all its values."""

    nodes: dict[str, dict[str, Any]]
    lists: dict[str, str]


def expand(graph: Graph, loop: Loop, turns: Sequence[Turn], keep: str, files: str) -> Expansion:
    """One copy of the loop's body per turn.

    Args:
        graph: The workflow.
        loop: The loop in it.
        turns: In the order in which they are to run, all takes of a frame one after the other.
        keep: One of `KEEPS`.
        files: A digest of what the turns depend on besides the workflow, such as files of weights.
    """
    made: dict[str, dict[str, Any]] = {}
    results: dict[str, list[Any]] = {name: [] for name in loop.ends}
    times: dict[tuple[str, int], int] = {}
    names, word = NameFree(graph, loop), graph.loop_kind(loop).turn

    def about(position: int) -> About:
        progress = loop.collect, position, len(turns), _said(word, position, turns)
        return About(keep != KEEP_NOTHING, keep == KEEP_BOTH, False, *progress)

    for position, turn in enumerate(turns, start=1):
        which = turn.text, turn.take
        times[which] = times.get(which, 0) + 1
        copies = _Copies(graph, loop, turn, times[which], about(position), files, names)
        made.update(copies.nodes())
        for name, link in loop.ends.items():
            results[name].append(copies.value(link))
    lists = {name: f"{MARK}~{loop.collect}~{name}" for name in loop.ends}
    for name, node_id in lists.items():
        numbered = [(f"{position:06}", value) for position, value in enumerate(results[name])]
        # ComfyUI turns to the input first that comes last, and the first frame is to be the first.
        listed = {"class_type": LIST, "inputs": dict(reversed(numbered)), "override_display_id": loop.collect}
        made[node_id] = {**listed, ABOUT: about(len(turns))}
    return Expansion(made, lists)


def _said(word: str, position: int, turns: Sequence[Turn]) -> str:
    """How far the loop is, for a person; `word` is what it runs once for."""
    take, takes = turns[position - 1].take, max(each.take for each in turns) or 1
    said = f"{word} {(position + takes - 1) // takes} of {len(turns) // takes}"
    return f"{said}, take {take} of {takes}" if take else said


class _Copies:
    """The copies of one turn's nodes; their ids follow the turn's text, so that they are the same in every run."""

    def __init__(
        self, graph: Graph, loop: Loop, turn: Turn, time: int, about: About, files: str, names: NameFree
    ) -> None:
        self._graph, self._loop, self._turn, self._about = graph, loop, turn, about
        self._files, self._names = files, names
        digest = hashlib.sha256(turn.text.encode()).hexdigest()[:16]
        take = f".{turn.take}" if turn.take > 1 else ""
        self._prefix = f"{MARK}~{loop.collect}~{digest}.{time}{take}~"
        self._results = {self._origin(link) for link in loop.ends.values()}

    def nodes(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every node by its id: the frame or character, the copies of the body, the values between them."""
        constant = self._node(self._turn.constant, {"text": self._turn.text}, self._loop.each)
        yield self._constant(), {**constant, WITHOUT_NAMES: self._turn.without_names}
        wanted = set(self._results)
        for node_id in sorted(self._loop.body):
            inputs = self._graph.node(node_id)["inputs"]
            wanted |= {self._origin(link) for link in self._graph.links(node_id).values()}
            # ComfyUI turns to the input that comes last first: to a cast, which refuses much, before a template.
            last_the_cast = sorted(inputs.items(), key=lambda each: each[0] == "cast")
            copied = {name: self._input(value) for name, value in last_the_cast}
            if self._graph.kind(node_id) == SAVE:
                own = {"number": self._turn.number, "take": self._turn.take}
                copied |= {name: value for name, value in own.items() if not inputs.get(name)}
            node = self._node(self._graph.kind(node_id), copied, node_id)
            known = {name: self._turn.known[link] for (one, name), link in self._loop.known.items() if one == node_id}
            yield self._copy(node_id), {**node, KNOWN: known} if known else node
        for link in sorted(wanted):
            if link[0] in self._loop.body:
                yield self._value(link), self._value_node(link)

    def _value_node(self, link: Link) -> dict[str, Any]:
        origin, slot = link
        is_result = link in self._results
        about = self._about._replace(
            on_disk=is_result and self._about.on_disk,
            name_free=self._names.is_free(link),
            collect=self._loop.collect if is_result else "",
        )
        inputs = {"value": [self._copy(origin), slot], "files": self._files}
        return {**self._node(VALUE, inputs, self._loop.collect), ABOUT: about}

    def value(self, link: Link) -> Any:
        """What a consumer of a link gets in this turn: a link to the value, or a constant."""
        origin, slot = self._origin(link)
        if origin == self._loop.each:
            return self._turn.constants[slot] if slot in self._turn.constants else [self._constant(), 0]
        return [self._value((origin, slot)), 0] if origin in self._loop.body else [origin, slot]

    def _input(self, value: Any) -> Any:
        return self.value((value[0], int(value[1]))) if is_link(value) else value

    def _origin(self, link: Link) -> Link:
        """Where a link begins; what Save Frame passes on comes from where Save Frame has it.

        The file that Save Frame writes, and its number, are thus in no key of what comes after it.
        """
        origin, slot = link
        while origin in self._loop.body and self._graph.kind(origin) == SAVE:
            origin, slot = self._graph.links(origin)["images"]
        return origin, slot

    def _constant(self) -> str:
        return f"{self._prefix}{self._graph.kind(self._loop.each)}"

    def _copy(self, node_id: str) -> str:
        return f"{self._prefix}{node_id}"

    def _value(self, link: Link) -> str:
        return f"{self._prefix}{link[0]}~{link[1]}"

    @staticmethod
    def _node(kind: str, inputs: dict[str, Any], shown_on: str) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs, "override_display_id": shown_on}
