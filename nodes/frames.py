"""Each Frame and Collect Frames: what stands between them runs once per frame; and the nodes that this is made of."""

from typing import Any

from comfy_api.latest import get_progress_state, io
from comfy_execution.graph import ExecutionBlocker
from comfy_execution.utils import get_executing_context

from ..core.frame_numbers import frame_numbers, frame_ranges
from ..core.frame_seeds import BY_WORDS, RULES, frame_seeds, take_seed
from ..core.frame_text import frame_as_text, frame_from_text
from ..core.quoting import quote
from ..core.story import Frame, Story
from .host.expansion import ABOUT, CONSTANT, KEEP_BOTH, KEEP_MEMORY, KEEPS, LIST, MARK, VALUE, About, FrameToRun, expand
from .host.loops import VALUES, workflow_of
from .host.node_text import show_text
from .host.result_cache import frame_results
from .host.result_keys import key_of
from .host.sources import sources_digest
from .types import StoryFrameSocket, StorySocket

RUN = "StoryIdentityRunFrames"
"""The id of the node that Collect Frames becomes, which waits for the story."""

MOST_TAKES = 64
"""How many pictures of one frame may be asked for."""

_FOUND = "found"
"""Where a Frame Value's node has a value that was kept, from the moment it is found until it is passed on."""


class EachFrameNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityEachFrame",
            display_name="Each Frame",
            category="StoryIdentity/story",
            description="One frame of the story. All nodes between this one and Collect Frames run once per frame, one "
            "frame after the other; an edited story runs only the frames that changed.",
            search_aliases=["loop", "for each", "frames", "batch prompts", "prompt list", "story", "comic", "iterate"],
            inputs=[
                StorySocket.Input("story", tooltip="From the Story node."),
                io.String.Input(
                    "frames",
                    default="all",
                    tooltip='Which frames to make: "all", or numbers and ranges such as "1-3, 7".',
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Where the seeds of the frames come from. Another value gives all frames other seeds.",
                ),
                io.Combo.Input(
                    "seeds",
                    options=list(RULES),
                    default=BY_WORDS,
                    tooltip='"by words": a frame keeps its seed when others come, go or move. "by number": seed plus '
                    'n - 1, as in Story Frames. "seed 5 | Mira waits" in the story comes before all.',
                ),
                io.Int.Input(
                    "takes",
                    default=1,
                    min=1,
                    max=MOST_TAKES,
                    optional=True,
                    tooltip="How many pictures to draw of each frame, each with a seed of its own. The first is that "
                    "of 1. Choose Takes keeps one per frame.",
                ),
            ],
            outputs=[
                StoryFrameSocket.Output(
                    display_name="frame",
                    tooltip="The frame with its cast, for Encode Frame, Identity Conditioning and the layout nodes.",
                ),
                io.String.Output(display_name="prompt", tooltip="The finished prompt; connect it to CLIP Text Encode."),
                io.String.Output(display_name="negative", tooltip="The frame's negative prompt."),
                io.Int.Output(display_name="seed", tooltip="The frame's seed; connect it to a sampler node."),
                io.Int.Output(
                    display_name="number",
                    tooltip="The frame's number in the story. A node that takes it runs again when the frame moves.",
                ),
            ],
            hidden=[io.Hidden.dynprompt, io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, frames: str | None) -> bool | str:
        """Refuse what is no list of numbers before anything runs; the story says later how many frames there are."""
        try:
            frame_ranges(frames or "")
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, story: Story, frames: str, seed: int, seeds: str, takes: int = 1) -> io.NodeOutput:
        """Run by itself it gives nothing: what comes after it runs in copies, which Collect Frames makes."""
        workflow_of(cls.hidden.dynprompt).require_end(cls.hidden.unique_id)
        return io.NodeOutput(*[ExecutionBlocker(None)] * 5)


class CollectFramesNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        matching = [io.MatchType.Template(name) for name in VALUES]
        return io.Schema(
            node_id="StoryIdentityCollectFrames",
            display_name="Collect Frames",
            category="StoryIdentity/story",
            description="The end of what runs once per frame: everything that the nodes since Each Frame made, as "
            "lists in the order of the story.",
            search_aliases=["loop end", "gather", "for each", "frames", "list", "story", "comic"],
            inputs=[
                io.MatchType.Input(
                    VALUES[0],
                    template=matching[0],
                    lazy=True,
                    raw_link=True,
                    tooltip="What a frame comes to, such as the IMAGE of VAE Decode.",
                ),
                *(
                    io.MatchType.Input(
                        name,
                        template=template,
                        optional=True,
                        lazy=True,
                        raw_link=True,
                        tooltip="More of the same frames: latents, layouts, masks, anything.",
                    )
                    for name, template in zip(VALUES[1:], matching[1:], strict=True)
                ),
                io.Combo.Input(
                    "keep",
                    options=list(KEEPS),
                    default=KEEP_BOTH,
                    optional=True,
                    tooltip="Where finished frames are kept, so that an edited story runs only what changed. On the "
                    "disk are only the values that arrive here.",
                ),
            ],
            outputs=[
                StoryFrameSocket.Output(
                    display_name="frames",
                    is_output_list=True,
                    tooltip="The frames themselves, for the captions of Story Sheet; one per take, where frames have "
                    "several.",
                ),
                *(
                    io.MatchType.Output(
                        template=template,
                        display_name=name,
                        is_output_list=True,
                        tooltip="The values of the input of the same name, one or more per frame.",
                    )
                    for name, template in zip(VALUES, matching, strict=True)
                ),
            ],
            hidden=[io.Hidden.dynprompt, io.Hidden.unique_id],
            enable_expand=True,
            is_output_node=True,
        )

    @classmethod
    def check_lazy_status(cls, **_: Any) -> list[str]:
        """Nothing is asked for: the nodes before this one run as copies."""
        return []

    @classmethod
    def execute(cls, keep: str = KEEP_BOTH, **_: Any) -> io.NodeOutput:
        """Check the loop, before anything else runs, and put in its place a node that waits for the story."""
        collect = cls.hidden.unique_id
        graph = workflow_of(cls.hidden.dynprompt)
        loop = graph.loop(collect)
        run = f"{MARK}~{collect}~frames"
        settings = {"keep": keep, **graph.node(collect)["inputs"], **graph.node(loop.each)["inputs"]}
        settings["collect"] = collect
        node = {"class_type": RUN, "inputs": settings, "override_display_id": collect}
        return io.NodeOutput(*([run, slot] for slot in range(1 + len(VALUES))), expand={run: node})


class RunFramesNode(io.ComfyNode):
    """What Collect Frames becomes: it knows the story and expands into the copies of all frames.

    It has the inputs of both, so that ComfyUI's key of its result covers the loop's nodes.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=RUN,
            display_name="Run Frames",
            category="StoryIdentity/story",
            inputs=[
                io.String.Input("collect"),
                io.String.Input("keep"),
                StorySocket.Input("story"),
                io.String.Input("frames"),
                io.Int.Input("seed"),
                io.String.Input("seeds"),
                io.Int.Input("takes", default=1, optional=True),
                *(io.AnyType.Input(name, optional=True, lazy=True, raw_link=True) for name in VALUES),
            ],
            outputs=[StoryFrameSocket.Output(), *(io.AnyType.Output(name) for name in VALUES)],
            hidden=[io.Hidden.dynprompt],
            enable_expand=True,
            is_dev_only=True,
        )

    @classmethod
    def check_lazy_status(cls, **_: Any) -> list[str]:
        return []

    @classmethod
    def execute(
        cls, collect: str, keep: str, story: Story, frames: str, seed: int, seeds: str, takes: int = 1, **_: Any
    ) -> io.NodeOutput:
        graph = workflow_of(cls.hidden.dynprompt)
        loop = graph.loop(collect)
        chosen = [story.frames[index] for index in frame_numbers(frames, len(story.frames))]
        own = frame_seeds(story.frames, seed, seeds)
        if not 1 <= takes <= MOST_TAKES:
            raise ValueError(f"Each Frame: takes is {quote(takes)}; it must be a number from 1 to {MOST_TAKES}.")
        drawn = [(f, take) for f in chosen for take in range(1, takes + 1)]
        to_run = [_frame_to_run(f, own[f.index], take, takes) for f, take in drawn]
        files, steady = sources_digest(graph, loop)
        expansion = expand(graph, loop, to_run, keep if steady or keep != KEEP_BOTH else KEEP_MEMORY, files)
        lists = [[expansion.lists[name], 0] if name in expansion.lists else [] for name in VALUES]
        return io.NodeOutput([f for f, _ in drawn], *lists, expand=expansion.nodes)


class FrameConstantNode(io.ComfyNode):
    """A frame of its own text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=CONSTANT,
            display_name="Frame",
            category="StoryIdentity/story",
            inputs=[io.String.Input("frame")],
            outputs=[StoryFrameSocket.Output()],
            is_dev_only=True,
        )

    @classmethod
    def execute(cls, frame: str) -> io.NodeOutput:
        return io.NodeOutput(frame_from_text(frame))


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
        dynprompt = cls.hidden.dynprompt
        return dynprompt.get_node(context.node_id), key_of(workflow_of(dynprompt), context.node_id)


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
            is_input_list=True,
            accept_all_inputs=True,
            is_dev_only=True,
        )

    @classmethod
    def execute(cls, **values: list[Any]) -> io.NodeOutput:
        return io.NodeOutput([value for name in sorted(values) for value in values[name]])


def _frame_to_run(frame: Frame, seed: int, take: int, takes: int) -> FrameToRun:
    own = take_seed(seed, take)
    return FrameToRun(
        frame_as_text(frame), frame.prompt, frame.negative, own, frame.index + 1, take if takes > 1 else 0
    )


def _show_progress(about: About) -> None:
    """Say on Collect Frames how far it is."""
    get_progress_state().update_progress(about.collect, about.frame, about.frames)
    show_text(about.said, about.collect)
