"""Characters, Each Character, Collect Characters: people by themselves, and what runs once for each of them."""

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io, ui
from comfy_execution.graph import ExecutionBlocker

from ..core.character_mentions import Character
from ..core.character_text import character_as_text, character_from_text, character_without_name
from ..core.frame_seeds import character_seeds, described_alike
from ..core.quoting import printable, quote
from ..core.story import Story
from ..core.story_characters import typed_characters
from .host.expansion import KEEP_BOTH, KEEP_MEMORY, Turn, expand
from .host.folders import picture_digest, picture_path
from .host.loops import VALUES, Graph, Loop, workflow_of
from .host.sources import sources_digest
from .loop_values import as_lists, collect_inputs, collect_outputs, matching_types, waiting_node
from .story import EXAMPLE_CHARACTERS
from .types import Characters, CharactersSocket, StorySocket, characters_of

RUN, CONSTANT = "StoryIdentityRunCharacters", "StoryIdentityCharacterConstant"
"""The ids of the node that Collect Characters becomes, and of a character in the copies."""

_SEED = 4
"""Each Character's output of a character's seed."""

_SEEDS = frozenset({"seed", "noise_seed"})
"""What samplers call theirs."""


class CharactersNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityCharacters",
            display_name="Characters",
            category="StoryIdentity/story",
            description="The people of the story, one line each, apart from the words of its frames: an edited frame "
            "leaves their identities alone, and a new line costs one identity.",
            search_aliases=["consistent character", "same person", "character sheet", "cast", "people", "story"],
            inputs=[
                io.String.Input(
                    "characters",
                    multiline=True,
                    default=EXAMPLE_CHARACTERS,
                    placeholder="characters: name | class word | description",
                    tooltip='One character per line: "name | class word | description". A fourth part may name '
                    "pictures of them in ComfyUI's input folder, comma between.",
                )
            ],
            outputs=[
                CharactersSocket.Output(
                    display_name="characters", tooltip="For character_list of Story, Find Identity and Each Character."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, characters: str | None) -> bool | str:
        """Refuse bad lines, and pictures that are not there, before anything runs."""
        try:
            if characters is not None:
                cls._read(characters)
        except (ValueError, FileNotFoundError) as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, characters: str | None) -> str:
        """Run again when a picture has another content."""
        try:
            people = cls._read(characters or "")
        except (ValueError, FileNotFoundError):
            return ""
        return " ".join(digest for each in people for digest in digests_of(each))

    @classmethod
    def execute(cls, characters: str) -> io.NodeOutput:
        people = cls._read(characters)
        lines = [f"{printable(each.name, 60)} · {printable(each.description, 200)}{_pictures(each)}" for each in people]
        return io.NodeOutput(people, ui=ui.PreviewText("\n".join(lines)))

    @classmethod
    def _read(cls, characters: str) -> Characters:
        people = typed_characters(characters, with_pictures=True)
        for each in people:
            for name in each.reference_images:
                picture_path(name, each.name)
        return people


def _pictures(character: Character) -> str:
    number = len(character.reference_images)
    return "" if not number else f" · {number} picture{'s' if number > 1 else ''}"


def digests_of(character: Character) -> list[str]:
    """The digests of a character's reference pictures."""
    return [picture_digest(picture_path(name, character.name)) for name in character.reference_images]


class EachCharacterNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityEachCharacter",
            display_name="Each Character",
            category="StoryIdentity/identity",
            description="One character. All nodes between this one and Collect Characters run once per character, one "
            "after the other; a new line in Characters runs them for that character alone.",
            search_aliases=["loop", "for each", "characters", "consistent character", "same person", "iterate"],
            inputs=[
                io.MultiType.Input(
                    "characters", [CharactersSocket, StorySocket], tooltip="From Characters, or from Story."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Where the seeds of the characters come from. Another value gives everybody another face.",
                ),
            ],
            outputs=[
                CharactersSocket.Output(
                    display_name="character", tooltip="This character alone, for Character Portraits and Find Identity."
                ),
                io.String.Output(display_name="name", tooltip="The character's name, for Identity Discovery."),
                io.String.Output(display_name="description", tooltip="The character's description."),
                io.String.Output(display_name="class_word", tooltip="The character's class word."),
                io.Int.Output(
                    display_name="seed",
                    tooltip="The character's seed, which follows from the class word and the description: neither the "
                    "name nor the place in the list changes it.",
                ),
            ],
            hidden=[io.Hidden.dynprompt, io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, characters: Characters | Story, seed: int) -> io.NodeOutput:
        """Run by itself it gives nothing: what comes after it runs in copies, which Collect Characters makes."""
        workflow_of(cls.hidden.dynprompt).require_end(cls.hidden.unique_id)
        return io.NodeOutput(*[ExecutionBlocker(None)] * 5)


class CollectCharactersNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        matching = matching_types()
        return io.Schema(
            node_id="StoryIdentityCollectCharacters",
            display_name="Collect Characters",
            category="StoryIdentity/identity",
            description="The end of what runs once per character: everything that the nodes since Each Character made, "
            "as lists in the order of the characters.",
            search_aliases=["loop end", "gather", "for each", "characters", "list", "identities"],
            inputs=collect_inputs(
                matching,
                "What a character comes to, such as the IDENTITY of Identity Discovery.",
                "More of the same characters: portraits, reports, anything.",
                "Where finished characters are kept, so that a new line runs only that character. On the disk are only "
                "the values that arrive here.",
            ),
            outputs=[
                io.String.Output(display_name="names", is_output_list=True, tooltip="The names of the characters."),
                *collect_outputs(matching, "The values of the input of the same name, one or more per character."),
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
        """Check the loop, before anything else runs, and put in its place a node that waits for the characters."""
        return waiting_node(cls.hidden.dynprompt, cls.hidden.unique_id, RUN, 1 + len(VALUES), keep)


class RunCharactersNode(io.ComfyNode):
    """What Collect Characters becomes: it knows the characters and expands into the copies of all of them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=RUN,
            display_name="Run Characters",
            category="StoryIdentity/identity",
            inputs=[
                io.String.Input("collect"),
                io.String.Input("keep"),
                io.MultiType.Input("characters", [CharactersSocket, StorySocket]),
                io.Int.Input("seed"),
                *(io.AnyType.Input(name, optional=True, lazy=True, raw_link=True) for name in VALUES),
            ],
            outputs=[io.String.Output(), *(io.AnyType.Output(name) for name in VALUES)],
            hidden=[io.Hidden.dynprompt],
            enable_expand=True,
            is_dev_only=True,
        )

    @classmethod
    def check_lazy_status(cls, **_: Any) -> list[str]:
        return []

    @classmethod
    def execute(cls, collect: str, keep: str, characters: Characters | Story, seed: int, **_: Any) -> io.NodeOutput:
        graph, people = workflow_of(cls.hidden.dynprompt), characters_of(characters)
        loop = graph.loop(collect)
        if _has_one_seed(graph, loop):
            _refuse_equals(people)
        files, steady = sources_digest(graph, loop)
        kept = keep if steady or keep != KEEP_BOTH else KEEP_MEMORY
        expansion = expand(graph, loop, _turns(people, seed), kept, files)
        return io.NodeOutput([each.name for each in people], *as_lists(expansion), expand=expansion.nodes)


def _has_one_seed(graph: Graph, loop: Loop) -> bool:
    """Whether a node of the loop has a seed of its own, for everybody the same, and none takes Each Character's."""
    taken = any((loop.each, _SEED) in graph.links(one).values() for one in loop.body)
    return not taken and any(_SEEDS & set(graph.node(one)["inputs"]) for one in loop.body)


def _refuse_equals(people: Sequence[Character]) -> None:
    """Refuse characters who would get the same face, since the loop draws them from the same words and seed.

    Raises:
        ValueError: Naming the two, and what to connect.
    """
    for each, before in zip(people, described_alike(people), strict=True):
        if before and not each.reference_images:
            raise ValueError(
                f"{quote(before[0], 60)} and {quote(each.name, 60)} have the same class word and description, and no "
                "node of the loop takes seed of Each Character, so that they would get the same face. Connect seed of "
                "Each Character to the node that draws, or let their descriptions differ."
            )


def _turns(people: Sequence[Character], seed: int) -> list[Turn]:
    """What the copies of each character are made of."""
    seeds, pictures = character_seeds(people, seed), [digests_of(each) for each in people]
    return [
        Turn(
            text=character_as_text(each, own),
            without_names=character_without_name(each, own),
            constant=CONSTANT,
            constants={1: each.name, 2: each.description, 3: each.word, _SEED: own_seed},
        )
        for each, own_seed, own in zip(people, seeds, pictures, strict=True)
    ]


class CharacterConstantNode(io.ComfyNode):
    """A character of their own text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=CONSTANT,
            display_name="Character",
            category="StoryIdentity/identity",
            inputs=[io.String.Input("text")],
            outputs=[CharactersSocket.Output()],
            is_dev_only=True,
        )

    @classmethod
    def execute(cls, text: str) -> io.NodeOutput:
        return io.NodeOutput((character_from_text(text),))
