"""What the loops over frames and over characters have in common.

These are the inputs and outputs of the nodes that end them, and the nodes that stand between the copies.
"""

from typing import Any

from comfy_api.latest import get_progress_state, io
from comfy_execution.utils import get_executing_context

from .host.expansion import ABOUT, KEEP_BOTH, KEEPS, LIST, MARK, VALUE, About, Expansion
from .host.loops import VALUES, workflow_of
from .host.node_text import show_text
from .host.result_cache import frame_results
from .host.result_keys import key_of

_FOUND = "found"
"""Where a Frame Value's node has a value that was kept, from the moment it is found until it is passed on."""


def matching_types() -> list[io.MatchType.Template]:
    """One type for each value that a loop ends in, the same for its input and its output."""
    return [io.MatchType.Template(name) for name in VALUES]


def collect_inputs(matching: list[io.MatchType.Template], first: str, others: str, keep: str) -> list[io.Input]:
    """The inputs of the node that ends a loop, with their tooltips."""
    options = {"lazy": True, "raw_link": True}
    return [
        io.MatchType.Input(VALUES[0], template=matching[0], tooltip=first, **options),
        *(
            io.MatchType.Input(name, template=template, optional=True, tooltip=others, **options)
            for name, template in zip(VALUES[1:], matching[1:], strict=True)
        ),
        io.Combo.Input("keep", options=list(KEEPS), default=KEEP_BOTH, optional=True, tooltip=keep),
    ]


def collect_outputs(matching: list[io.MatchType.Template], values: str) -> list[io.Output]:
    """The values' outputs of the node that ends a loop, with their tooltip."""
    return [
        io.MatchType.Output(template=template, display_name=name, is_output_list=True, tooltip=values)
        for name, template in zip(VALUES, matching, strict=True)
    ]


def waiting_node(dynprompt: Any, collect: str, run: str, outputs: int, keep: str) -> io.NodeOutput:
    """Check a loop, before anything else runs, and put a node in the place of its end that waits for what it needs.

    Args:
        dynprompt: ComfyUI's.
        collect: The node that ends the loop.
        run: The kind of the node that waits.
        outputs: How many outputs both have.
        keep: One of `KEEPS`, unless the node says it.
    """
    graph = workflow_of(dynprompt)
    loop = graph.loop(collect)
    node_id = f"{MARK}~{collect}~run"
    known = {f"known_{number}": list(link) for number, link in enumerate(dict.fromkeys(loop.known.values()))}
    # ComfyUI turns to the input first that comes last: to the story before identities, so that it is checked first.
    settings = {**known, "keep": keep, **graph.node(collect)["inputs"], **graph.node(loop.each)["inputs"]}
    node = {"class_type": run, "inputs": {**settings, "collect": collect}, "override_display_id": collect}
    return io.NodeOutput(*([node_id, slot] for slot in range(outputs)), expand={node_id: node})


def as_lists(expansion: Expansion) -> list[Any]:
    """What the outputs of the ending node give: a list of values, or nothing."""
    return [[expansion.lists[name], 0] if name in expansion.lists else [] for name in VALUES]


class FrameValueNode(io.ComfyNode):
    """A value between two copies; what makes it runs only if the value is not kept from an earlier run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=VALUE,
            display_name="Frame Value",
            category="StoryIdentity/story",
            inputs=[
                io.AnyType.Input("value", lazy=True),
                io.String.Input("files", optional=True),
            ],
            outputs=[io.AnyType.Output(is_output_list=True)],
            hidden=[io.Hidden.dynprompt],
            is_input_list=True,
            is_dev_only=True,
        )

    @classmethod
    def check_lazy_status(cls, **_: Any) -> list[str]:
        """Ask for the value if it is not kept; a kept one waits in the node of this run."""
        node, key = cls._node()
        kept = frame_results().get(key, node[ABOUT].on_disk) if key and node[ABOUT].keep else None
        if kept is None:
            return ["value"]
        node[_FOUND] = kept
        return []

    @classmethod
    def execute(cls, value: list[Any], files: list[str] | None = None) -> io.NodeOutput:
        """Pass the value on, and keep it."""
        node, key = cls._node()
        about: About = node[ABOUT]
        if about.collect:
            _show_progress(about)
        if _FOUND in node:
            return io.NodeOutput(node.pop(_FOUND))
        if key and about.keep:
            frame_results().put(key, value, about.on_disk)
        return io.NodeOutput(value)

    @classmethod
    def _node(cls) -> tuple[dict[str, Any], str | None]:
        """The node that is running, and the key of its result."""
        context = get_executing_context()
        assert context is not None
        node = cls.hidden.dynprompt.get_node(context.node_id)
        return node, key_of(workflow_of(cls.hidden.dynprompt), context.node_id, node[ABOUT].name_free)


class FrameListNode(io.ComfyNode):
    """The values of all frames as one list, which is one value."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=LIST,
            display_name="Frame List",
            category="StoryIdentity/story",
            inputs=[],
            outputs=[io.AnyType.Output()],
            hidden=[io.Hidden.dynprompt],
            is_input_list=True,
            accept_all_inputs=True,
            is_dev_only=True,
        )

    @classmethod
    def execute(cls, **values: list[Any]) -> io.NodeOutput:
        """Join the values, and say that the loop is at its end, whichever of the frames ran in it."""
        context = get_executing_context()
        assert context is not None
        _show_progress(cls.hidden.dynprompt.get_node(context.node_id)[ABOUT])
        return io.NodeOutput([value for name in sorted(values) for value in values[name]])


def _show_progress(about: About) -> None:
    """Say on Collect Frames how far it is."""
    get_progress_state().update_progress(about.collect, about.number, about.turns)
    show_text(about.said, about.collect)
