"""The workflows of a whole story with any number of characters: a node finds all identities, a loop draws the frames.

What runs once per frame is a subgraph between Each Frame and Collect Frames.
"""

from typing import Any, NamedTuple

from .graph import Group, folded_node, graph, node, written_in
from .groups import AMBER, BLUE, GREEN, GREY, VIOLET, note
from .kinds import Folded, Node
from .schemas import Json

FRAMES, SHEET = "StoryIdentity/frame", "StoryIdentity/sheet"
SHOWN = ("SaveFrame", "StorySheet")
"""What App mode shows."""


class Way(NamedTuple):
    """How the people of a workflow are found, and how their frames are drawn.

    Args:
        find: Find Identity.
        drawn: The subgraph that draws a frame.
        ties: What enters it, apart from identities, frame and seed.
        prefix: Where Save Frame saves.
        sheet: The sheet's values.
        posed: Whether it takes the picture of a pose.
    """

    find: Node
    drawn: Folded
    ties: str
    prefix: str = FRAMES
    sheet: Json = {}
    posed: bool = False


def whole_story(name: str, about: str, text: dict[str, str], loaders: list[Node], way: Way, *, high: int = 480) -> Json:
    """A workflow from the text of a story to its sheet.

    Args:
        name: Its file.
        about: What its note says.
        text: The texts of Characters and Story.
        loaders: The nodes that load models.
        way: How people are found and frames are drawn.
        high: The note's height.
    """
    people, texts = text["characters"], {key: value for key, value in text.items() if key != "characters"}
    made = graph(
        name,
        [note(name, about, high, wide=384), Group("Models", GREY, [loaders])],
        [
            [
                Group("1 · The story", BLUE, [written(people, texts, posed=way.posed)]),
                Group("2 · Who they are", GREEN, [[way.find]]),
                Group("3 · Each frame", VIOLET, [loop(way)]),
                Group("4 · All frames", AMBER, [together(way.sheet)]),
            ]
        ],
    )
    return with_app(made)


def written(people: str, texts: dict[str, str], posed: bool) -> list[Node]:
    """The nodes that hold the text; `posed`: a Story with its characters, and the picture of the pose."""
    if posed:
        options: Json = {"title": "Pose: replace by Load Image with your own picture", "size": (400, 360)}
        pose = node("pose", "ExamplePicture", picture="pose with one arm up", **options)
        return [node("story", "Story", size=(400, 620), characters=people, **texts), pose]
    return [
        node("people", "Characters", size=(400, 220), characters=people),
        node("story", "Story", "character_list=people.characters", size=(400, 780), characters="", **texts),
    ]


def found(models: str, characters: str = "people.characters", **values: Any) -> Node:
    return node("found", "FindIdentity", f"{models} characters={characters}", size=(340, 900), **{"seed": 1, **values})


def loop(way: Way) -> list[Node]:
    """From Each Frame to Save Frame."""
    ties = f"{way.ties} identities=found.identities frame=each.frame seed=each.seed"
    return [
        node("each", "EachFrame", "story=story.story", size=(320, 0), seed=1),
        folded_node("drawn", way.drawn, ties, size=(320, 0)),
        node("saved", "SaveFrame", "images=drawn.image", size=(320, 0), filename_prefix=way.prefix),
    ]


def together(values: Json) -> list[Node]:
    """Collect Frames, and the sheet with templates and masks.

    Portraits are on Find Identity. Tied to the sheet too, it would run before the Story has been checked.
    """
    collected = "value_1=saved.images value_2=drawn.template value_3=drawn.layout"
    shown = "images=collected.value_1 frames=collected.frames templates=collected.value_2 layouts=collected.value_3"
    return [
        node("collected", "CollectFrames", collected, size=(440, 0)),
        node("sheet", "StorySheet", shown, size=(440, 0), filename_prefix=SHEET, **values),
    ]


def with_app(made: Json) -> Json:
    """The workflow with what App mode shows: the text that a user writes, the frames and the sheet."""
    ids = {each["type"].removeprefix("StoryIdentity"): each["id"] for each in made["nodes"]}
    inputs = [list(each) for each in written_in(made["nodes"])]
    made["extra"]["linearData"] = {"inputs": inputs, "outputs": [ids[kind] for kind in SHOWN]}
    return made
