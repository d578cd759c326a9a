"""Each Frame and Collect Frames: what stands between them runs once per frame; and the nodes that this is made of."""

from collections.abc import Mapping, Sequence
from typing import Any

from comfy_api.latest import io
from comfy_execution.graph import ExecutionBlocker

from ..core.frame_numbers import frame_numbers, frame_ranges
from ..core.frame_seeds import BY_WORDS, RULES, frame_seeds, take_seed
from ..core.frame_text import frame_as_text, frame_from_text, frame_without_names
from ..core.identity import Identity
from ..core.known_identities import identities_of, identity_digest
from ..core.quoting import quote
from ..core.story import Frame, Story
from .host.expansion import KEEP_BOTH, KEEP_MEMORY, Turn, expand
from .host.loops import VALUES, Link, workflow_of
from .host.sources import sources_digest
from .loop_values import as_lists, collect_inputs, collect_outputs, matching_types, waiting_node
from .types import StoryFrameSocket, StorySocket

RUN, CONSTANT = "StoryIdentityRunFrames", "StoryIdentityFrameConstant"
"""The ids of the node that Collect Frames becomes, which waits for the story, and of a frame in the copies."""

MOST_TAKES = 64
"""How many pictures of one frame may be asked for."""


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
        matching = matching_types()
        return io.Schema(
            node_id="StoryIdentityCollectFrames",
            display_name="Collect Frames",
            category="StoryIdentity/story",
            description="The end of what runs once per frame: everything that the nodes since Each Frame made, as "
            "lists in the order of the story.",
            search_aliases=["loop end", "gather", "for each", "frames", "list", "story", "comic"],
            inputs=collect_inputs(
                matching,
                "The result of a frame, such as the IMAGE of VAE Decode.",
                "More of the same frames: latents, layouts, masks, anything.",
                "Where finished frames are kept, so that an edited story runs only what changed. On the disk are only "
                "the values that arrive here.",
            ),
            outputs=[
                StoryFrameSocket.Output(
                    display_name="frames",
                    is_output_list=True,
                    tooltip="The frames themselves, for the captions of Story Sheet; one per take, where frames have "
                    "several.",
                ),
                *collect_outputs(matching, "The values of the input of the same name, one or more per frame."),
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
        return waiting_node(cls.hidden.dynprompt, cls.hidden.unique_id, RUN, 1 + len(VALUES), keep)


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
            is_input_list=True,
            accept_all_inputs=True,
            enable_expand=True,
            is_dev_only=True,
        )

    @classmethod
    def check_lazy_status(cls, **_: Any) -> list[str]:
        return []

    @classmethod
    def execute(
        cls,
        collect: list[str],
        keep: list[str],
        story: list[Story],
        frames: list[str],
        seed: list[int],
        seeds: list[str],
        takes: Sequence[int] = (1,),
        **more: list[Any],
    ) -> io.NodeOutput:
        graph = workflow_of(cls.hidden.dynprompt)
        loop = graph.loop(collect[0])
        all_frames = story[0].frames
        chosen = [all_frames[index] for index in frame_numbers(frames[0], len(all_frames))]
        own = frame_seeds(all_frames, seed[0], seeds[0])
        identities = {link: more[f"known_{number}"] for number, link in enumerate(dict.fromkeys(loop.known.values()))}
        digests = {id(each): identity_digest(each) for all_of_them in identities.values() for each in all_of_them}
        if not 1 <= takes[0] <= MOST_TAKES:
            raise ValueError(f"Each Frame: takes is {quote(takes[0])}; it must be a number from 1 to {MOST_TAKES}.")
        drawn = [(frame, take) for frame in chosen for take in range(1, takes[0] + 1)]
        turns = [
            _turn(frame, own[frame.index], take if takes[0] > 1 else 0, identities, digests) for frame, take in drawn
        ]
        files, steady = sources_digest(graph, loop)
        kept = keep[0] if steady or keep[0] != KEEP_BOTH else KEEP_MEMORY
        expansion = expand(graph, loop, turns, kept, files)
        return io.NodeOutput([frame for frame, _ in drawn], *as_lists(expansion), expand=expansion.nodes)


def _turn(
    frame: Frame, seed: int, take: int, identities: Mapping[Link, list[Identity]], digests: Mapping[int, str]
) -> Turn:
    """What a frame's copies are made of.

    Args:
        frame: The frame.
        seed: Its seed.
        take: Which of several pictures of it, from 1; 0 where there is only one.
        identities: Everybody's, per link that they come by.
        digests: Those of the identities, by the identity of the object.

    Raises:
        ValueError: If somebody who is in it has no identity.
    """
    known = {}
    for link, all_of_them in identities.items():
        own = [(each.name, digests[id(each)]) for each in identities_of(frame, all_of_them)]
        known[link] = repr(own), repr([digest for _, digest in own])
    return Turn(
        text=frame_as_text(frame),
        without_names=frame_without_names(frame),
        constant=CONSTANT,
        constants={1: frame.prompt, 2: frame.negative, 3: take_seed(seed, take or 1), 4: frame.index + 1},
        number=frame.index + 1,
        take=take,
        known=known,
    )


class FrameConstantNode(io.ComfyNode):
    """A frame of its own text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=CONSTANT,
            display_name="Frame",
            category="StoryIdentity/story",
            inputs=[io.String.Input("text")],
            outputs=[StoryFrameSocket.Output()],
            is_dev_only=True,
        )

    @classmethod
    def execute(cls, text: str) -> io.NodeOutput:
        return io.NodeOutput(frame_from_text(text))
