"""Copies of a loop's nodes, one set per frame, as a graph that ComfyUI runs in place of a node.

What a frame's nodes get of the story is constants: the frame's own text, prompt, seed and number, never a link to the
story. ComfyUI's key of a node's result is a digest of all that it depends on, so an edit of the story leaves the keys
of all other frames as they are. The number is in no key but those of nodes that take it.

Between the copies stand Frame Value nodes. Their input is lazy: a value that is known is asked for by its key before
anything that would make it, and if all that is wanted of a frame is known, nothing of the frame runs.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from comfy_execution.graph_utils import is_link

from .loops import EACH, SAVE, Graph, Link, Loop

CONSTANT, VALUE, LIST = "StoryIdentityFrameConstant", "StoryIdentityFrameValue", "StoryIdentityFrameList"
"""Ids of the nodes that only expansion makes: a frame, a value of a frame, the values of all frames."""

FRAME, PROMPT, NEGATIVE, SEED, NUMBER = range(5)
"""The outputs of Each Frame."""

KEEP_BOTH, KEEP_MEMORY, KEEP_NOTHING = "in memory and on the disk", "in memory", "nothing"
KEEPS = (KEEP_BOTH, KEEP_MEMORY, KEEP_NOTHING)
"""What Collect Frames may keep of the results."""

MARK = "storyidentity"
"""How the id of every copy begins."""


ABOUT = "about"
"""Where a Frame Value's node has what is no input, and so in no key."""


class About(NamedTuple):
    """What a Frame Value has to know: where it may be kept, and, if it is what a frame comes to, how far the loop is.

    Args:
        keep: Whether it may be kept at all.
        on_disk: Whether it may be kept on the disk too.
        collect: The id of Collect Frames; empty for values within the loop.
        frame: Which of the pictures it is, from 1.
        frames: How many there are.
        said: The same in words.
    """

    keep: bool
    on_disk: bool
    collect: str
    frame: int
    frames: int
    said: str


class FrameToRun(NamedTuple):
    """What a frame's copies are made of: `text` has the frame, `seed` and `number` (from 1) are its own.

    `take` says which of several pictures of the frame it is, from 1; 0 where a frame has only one.
    """

    text: str
    prompt: str
    negative: str
    seed: int
    number: int
    take: int = 0


@dataclass(frozen=True)
class Expansion:
    """A graph for ComfyUI, and for every connected input of Collect Frames the node that has all its values."""

    nodes: dict[str, dict[str, Any]]
    lists: dict[str, str]


def expand(graph: Graph, loop: Loop, frames: Sequence[FrameToRun], keep: str, files: str) -> Expansion:
    """One copy of the loop's body per frame.

    Args:
        graph: The workflow.
        loop: The loop in it.
        frames: In the order in which they are to run, all takes of a frame one after the other.
        keep: One of `KEEPS`.
        files: A digest of what the frames depend on besides the workflow, such as files of weights.
    """
    made: dict[str, dict[str, Any]] = {}
    results: dict[str, list[Any]] = {name: [] for name in loop.ends}
    times: dict[tuple[str, int], int] = {}
    for position, frame in enumerate(frames, start=1):
        which = frame.text, frame.take
        times[which] = times.get(which, 0) + 1
        progress = loop.collect, position, len(frames), _said(position, frame, frames)
        copies = _Copies(graph, loop, frame, times[which], keep, files, progress)
        made.update(copies.nodes())
        for name, link in loop.ends.items():
            results[name].append(copies.value(link))
    lists = {name: f"{MARK}~{loop.collect}~{name}" for name in loop.ends}
    for name, node_id in lists.items():
        numbered = [(f"{position:06}", value) for position, value in enumerate(results[name])]
        # ComfyUI turns to the input first that comes last, and the first frame is to be the first.
        made[node_id] = {"class_type": LIST, "inputs": dict(reversed(numbered)), "override_display_id": loop.collect}
    return Expansion(made, lists)


def _said(position: int, frame: FrameToRun, frames: Sequence[FrameToRun]) -> str:
    """How far the loop is, for a person."""
    takes = max(each.take for each in frames) or 1
    said = f"frame {(position + takes - 1) // takes} of {len(frames) // takes}"
    return f"{said}, take {frame.take} of {takes}" if frame.take else said


class _Copies:
    """The copies of one frame's nodes; their ids follow the frame's text, so that they are the same in every run."""

    def __init__(
        self,
        graph: Graph,
        loop: Loop,
        frame: FrameToRun,
        time: int,
        keep: str,
        files: str,
        progress: tuple[str, int, int, str],
    ) -> None:
        self._graph, self._loop, self._frame, self._keep = graph, loop, frame, keep
        self._files, self._progress = files, progress
        digest = hashlib.sha256(frame.text.encode()).hexdigest()[:16]
        take = f".{frame.take}" if frame.take > 1 else ""
        self._prefix = f"{MARK}~{loop.collect}~{digest}.{time}{take}~"
        self._results = {self._origin(link) for link in loop.ends.values()}

    def nodes(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every node by its id: the frame, the copies of the body, the values between them."""
        yield self._constant(), self._node(CONSTANT, {"frame": self._frame.text}, self._loop.each)
        wanted = set(self._results)
        for node_id in sorted(self._loop.body):
            inputs = self._graph.node(node_id)["inputs"]
            links = [(value[0], int(value[1])) for value in inputs.values() if is_link(value)]
            wanted |= {self._origin(link) for link in links}
            copied = {name: self._input(value) for name, value in inputs.items()}
            if self._graph.kind(node_id) == SAVE:
                own = {"number": self._frame.number, "take": self._frame.take}
                copied |= {name: value for name, value in own.items() if not inputs.get(name)}
            yield self._copy(node_id), self._node(self._graph.kind(node_id), copied, node_id)
        for origin, slot in sorted(wanted):
            if origin in self._loop.body:
                is_result = (origin, slot) in self._results
                inputs = {"value": [self._copy(origin), slot], "files": self._files}
                about = About(self._keep != KEEP_NOTHING, is_result and self._keep == KEEP_BOTH, *self._progress)
                node = self._node(VALUE, inputs, self._loop.collect)
                yield self._value((origin, slot)), {**node, ABOUT: about if is_result else about._replace(collect="")}

    def value(self, link: Link) -> Any:
        """What a consumer of a link gets in this frame: a link to the value, or a constant."""
        origin, slot = self._origin(link)
        if origin == self._loop.each:
            frame = self._frame
            constants = {PROMPT: frame.prompt, NEGATIVE: frame.negative, SEED: frame.seed, NUMBER: frame.number}
            return constants[slot] if slot in constants else [self._constant(), 0]
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
        return f"{self._prefix}{EACH}"

    def _copy(self, node_id: str) -> str:
        return f"{self._prefix}{node_id}"

    def _value(self, link: Link) -> str:
        return f"{self._prefix}{link[0]}~{link[1]}"

    @staticmethod
    def _node(kind: str, inputs: dict[str, Any], shown_on: str) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs, "override_display_id": shown_on}
