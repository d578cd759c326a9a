"""Story, Story Frames, Encode Story, Encode Frame."""

import hashlib
import logging
from typing import Any

from comfy_api.latest import io

from ..core.character_mentions import Character
from ..core.frame_numbers import frame_numbers, frame_ranges
from ..core.frame_seeds import BY_NUMBER, RULES, frame_seeds
from ..core.quoting import printable, quote, quote_all
from ..core.story import Frame, Story
from ..core.story_fields import LARGEST_FILE, check_text
from ..core.story_table import story_table
from ..core.story_warnings import story_warnings
from .host.folders import TYPED_IN, picture_digest, picture_path, story_files, story_path
from .host.graph_names import check_characters, check_typed_names, unused_characters
from .host.node_text import report
from .host.story_prompts import encode_frames
from .types import Characters, CharactersSocket, StoryFrameSocket, StorySocket

EXAMPLE_CHARACTERS = "Mira | woman | a young woman with short red hair, green eyes and freckles"
EXAMPLE_PROMPTS = """Mira opens a letter at the kitchen table, morning light
Mira waits at a bus stop in the rain, holding an umbrella
a small train station between mountains, nobody around
Mira looks out of the window of a train, smiling"""


class StoryNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityStory",
            display_name="Story",
            category="StoryIdentity/story",
            description="The story: its characters and one prompt per frame, typed in or from a JSON file.",
            search_aliases=["story", "storyboard", "comic", "consistent character", "IdentityStory", "script"],
            inputs=[
                io.Combo.Input(
                    "story_file",
                    options=story_files(),
                    default=TYPED_IN,
                    tooltip="A JSON story in ComfyUI's input folder, in this pack's or ConsiStory-Human's format; or "
                    "the text below. With a file, all fields below are ignored.",
                ),
                io.String.Input(
                    "characters",
                    multiline=True,
                    default=EXAMPLE_CHARACTERS,
                    placeholder="characters: name | class word | description\n"
                    "Leave this empty where a Characters node is connected.",
                    tooltip='One character per line: "name | class word | description". The class word (woman, boy, '
                    "robot ...) must be a word of the description.",
                ),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default=EXAMPLE_PROMPTS,
                    placeholder="prompts: one frame per line, with the names of who is in it",
                    tooltip="One frame per line. A name becomes the character's description the first time and "
                    '"the <class word>" after that. A line may begin with its own seed: "seed 5 | Mira waits".',
                ),
                io.String.Input(
                    "style", default="", tooltip="Put before every prompt typed in above, such as: cinematic photo."
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    default="noisy, blurry, soft, deformed, ugly",
                    tooltip="The negative prompt of every frame typed in above; a story file has its own.",
                ),
                CharactersSocket.Input(
                    "character_list",
                    optional=True,
                    tooltip="From the Characters node, in place of the field characters, which may then be empty.",
                ),
            ],
            outputs=[
                StorySocket.Output(
                    display_name="story",
                    tooltip="For Story Frames, Character Portraits, Encode Story and AMSA Model Patch.",
                )
            ],
            hidden=[io.Hidden.prompt],
            accept_all_inputs=True,  # for graph_fault of `validate_inputs`
        )

    @classmethod
    def execute(
        cls,
        story_file: str,
        characters: str,
        prompts: str,
        style: str,
        negative: str,
        character_list: Characters = (),
        **_: Any,
    ) -> io.NodeOutput:
        story = cls._read(story_file, characters, prompts, style, negative, character_list)
        graph = getattr(cls.hidden, "prompt", None) or {}
        check_typed_names(story, graph)
        check_characters(story, graph)
        for frame in story.frames:
            logging.info("Story: %s shows %s", frame.label, quote_all(each.name for each in frame.cast) or "nobody")
        warnings = [*unused_characters(graph), *story_warnings(story)]
        for sentence in warnings:
            logging.warning("Story: %s", sentence)
        return io.NodeOutput(story, ui=report(story_table(story, warnings)))

    @classmethod
    def _read(
        cls,
        story_file: str,
        characters: str,
        prompts: str,
        style: str,
        negative: str,
        character_list: Characters = (),
    ) -> Story:
        if story_file == TYPED_IN:
            return Story.from_lines(characters, prompts, style, negative, character_list)
        if character_list:
            raise ValueError(
                f"story_file: {quote(story_file)} has its own characters. Disconnect character_list, or choose "
                f"{quote(TYPED_IN)} and type the prompts in."
            )
        if not isinstance(story_file, str) or printable(story_file, 255) != story_file:
            raise ValueError(f"story_file: {quote(story_file)} is not the name of a file. Choose one of the list.")
        return Story.load(story_path(story_file))

    @classmethod
    def validate_inputs(
        cls,
        story_file: str | None,
        characters: str | None,
        prompts: str | None,
        style: str | None,
        negative: str | None,
        character_list: tuple[()] | None = (),
        graph_fault: str = "",
    ) -> bool | str:
        """Refuse a bad story before anything runs; what comes through a link, which is None, is checked on arrival.

        `graph_fault` is what `graph_names.with_fault` found elsewhere in the workflow.
        """
        if graph_fault:
            return graph_fault
        fields = {"characters": characters, "prompts": prompts, "style": style, "negative": negative}
        try:
            if story_file == TYPED_IN:
                for name, text in fields.items():
                    check_text(text or "", name, LARGEST_FILE)
            if story_file is None or characters is None or prompts is None:
                return True
            if character_list is None and not characters.strip():
                return True
            cls._read(story_file, characters, prompts, style or "", negative or "")
        except (ValueError, FileNotFoundError) as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, story_file: str, **_: str) -> str:
        """Run again when the content of the file, or of a picture that it names, changed."""
        if story_file == TYPED_IN:
            return TYPED_IN
        path = story_path(story_file)
        parts = [hashlib.sha256(path.read_bytes()).hexdigest()]
        try:
            people = Story.load(path).characters
        except ValueError:
            people = ()  # the node says what is wrong when it runs
        return " ".join(parts + [digest for each in people for digest in _picture_digests(each)])


def _picture_digests(character: Character) -> list[str]:
    """Digests of a character's pictures; empty ones of those that cannot be read."""
    digests = []
    for name in character.reference_images:
        try:
            digests.append(picture_digest(picture_path(name, character.name)))
        except (ValueError, FileNotFoundError):
            digests.append("")
    return digests


class StoryFramesNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityStoryFrames",
            display_name="Story Frames",
            category="StoryIdentity/story",
            description="Gives the story's frames as lists: every node after this one runs once per frame.",
            search_aliases=["frames", "prompts", "batch prompts", "prompt list", "IdentityStory"],
            inputs=[
                StorySocket.Input("story", tooltip="From the Story node."),
                io.String.Input(
                    "frames",
                    default="all",
                    tooltip='Which frames to make: "all", or numbers and ranges such as "1-3, 7". To redo one frame, '
                    "name it here; its seed stays.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Frame n gets this seed plus n - 1, unless seeds or the story say otherwise.",
                ),
                io.Combo.Input(
                    "seeds",
                    options=list(RULES),
                    default=BY_NUMBER,
                    optional=True,
                    tooltip='"by number": seed plus n - 1. "by words": a frame keeps its seed when others come, go or '
                    "move. A seed that the story gives a frame comes before all.",
                ),
            ],
            outputs=[
                StoryFrameSocket.Output(
                    display_name="frame",
                    is_output_list=True,
                    tooltip="The frame with its cast, for Encode Frame, Identity Conditioning, Shuffled ID Injector, "
                    "the layout nodes and Story Sheet.",
                ),
                io.String.Output(
                    display_name="prompt",
                    is_output_list=True,
                    tooltip="The finished prompt; connect it to CLIP Text Encode.",
                ),
                io.String.Output(display_name="negative", is_output_list=True, tooltip="The frame's negative prompt."),
                io.Int.Output(
                    display_name="seed",
                    is_output_list=True,
                    tooltip="The frame's seed; connect it to Noisy Latent Cache.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, frames: str | None) -> bool | str:
        """Refuse a text that is not a list of numbers before anything runs; the number of frames is checked later."""
        try:
            frame_ranges(frames or "")
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, story: Story, frames: str, seed: int, seeds: str = BY_NUMBER) -> io.NodeOutput:
        chosen = [story.frames[index] for index in frame_numbers(frames, len(story.frames))]
        own = frame_seeds(story.frames, seed, seeds)
        return io.NodeOutput(
            chosen, [f.prompt for f in chosen], [f.negative for f in chosen], [own[f.index] for f in chosen]
        )


class EncodeStoryNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityEncodeStory",
            display_name="Encode Story",
            category="StoryIdentity/story",
            description="Encodes all prompts of the story as one conditioning, for sampling all frames as one batch "
            "with AMSA. It also records where each prompt names each character.",
            search_aliases=["clip text encode", "batch prompts", "prompt", "Storynizor"],
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip="The text encoder of the checkpoint: of SD1.5, SDXL, the toy world or a transformer.",
                ),
                StorySocket.Input("story", tooltip="From the Story node; connect the same one to AMSA Model Patch."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The prompts of all frames, in order."),
                io.Conditioning.Output(
                    display_name="negative", tooltip="The negative prompts of all frames, in order."
                ),
                io.Int.Output(
                    display_name="frames",
                    tooltip="The number of frames. Connect it to batch_size of Empty Latent Image.",
                ),
            ],
        )

    @classmethod
    def execute(cls, clip: Any, story: Story) -> io.NodeOutput:
        if any(frame.seed is not None for frame in story.frames):
            logging.warning("Encode Story: the story has seeds of single frames, which a batch does not use.")
        names = [character.name for character in story.characters]
        return io.NodeOutput(*encode_frames(clip, story.frames, names), len(story.frames))


class EncodeFrameNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityEncodeFrame",
            display_name="Encode Frame",
            category="StoryIdentity/story",
            description="Encodes a frame's prompts as CLIP Text Encode does. The positive conditioning also records "
            "where it names each character, so that Noisy Latent Cache can keep attention maps.",
            search_aliases=["clip text encode", "prompt", "IdentityStory"],
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip="The text encoder of the checkpoint: of SD1.5, SDXL, the toy world or a transformer.",
                ),
                StoryFrameSocket.Input(
                    "frame", tooltip="From Each Frame or Story Frames; the node runs once per frame."
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The frame's prompt."),
                io.Conditioning.Output(display_name="negative", tooltip="The frame's negative prompt."),
            ],
        )

    @classmethod
    def execute(cls, clip: Any, frame: Frame) -> io.NodeOutput:
        return io.NodeOutput(*encode_frames(clip, [frame], [character.name for character in frame.cast]))
