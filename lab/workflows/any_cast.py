"""The workflows of a whole story with any number of characters: a node finds all identities, a loop draws the frames.

What runs once per frame is a subgraph between Each Frame and Collect Frames.
"""

from typing import Any, NamedTuple

from .drawing import ENTERING, draw_frame
from .graph import Group, folded_node, graph, node
from .groups import AMBER, BLUE, GREEN, GREY, VIOLET, World, note
from .kinds import Node
from .schemas import Json

FRAMES, SHEET = "StoryIdentity/frame", "StoryIdentity/sheet"
WRITTEN = {"Characters": ["characters"], "Story": ["prompts", "style", "negative"], "EachFrame": ["frames", "seed"]}
"""What a user writes, by kind of node: favourites in the editor's side panel, inputs in App mode."""
SHOWN = ("SaveFrame", "StorySheet")
"""What App mode shows."""


class Drawn(NamedTuple):
    """How the frames of a workflow are drawn.

    Args:
        world: Where models come from, and values.
        loads: Whether the subgraph loads its detector.
        posed: Whether a ControlNet holds a pose.
        maps: Whether the model's own attention says who is where.
        finding: What differs in Find Identity.
    """

    world: World
    loads: bool = True
    posed: bool = False
    maps: bool = False
    finding: Json = {}


def whole_story(
    name: str, about: str, text: dict[str, str], loaders: list[Node], drawn: Drawn, *, high: int = 480, columns: int = 3
) -> Json:
    """A workflow from the text of a story to its sheet.

    Args:
        name: Its file.
        about: What its note says.
        text: The texts of Characters and Story.
        loaders: The nodes that load models.
        drawn: How frames are drawn.
        high: The note's height.
        columns: Pictures per row of the sheet.
    """
    world = drawn.world
    people, texts = text["characters"], {key: value for key, value in text.items() if key != "characters"}
    find = found(world, "story.story" if drawn.posed else "people.characters", **drawn.finding)
    made = graph(
        name,
        [note(name, about, high, wide=400), Group("Models", GREY, [loaders])],
        [
            [
                Group("1 · The story", BLUE, [written(people, texts, posed=drawn.posed)]),
                Group("2 · Who they are", GREEN, [[find]]),
                Group("3 · Each frame", VIOLET, [loop(name, drawn)]),
                Group("4 · All frames", AMBER, [together(columns, world)]),
            ]
        ],
    )
    return with_app(made)


def written(people: str, texts: dict[str, str], posed: bool) -> list[Node]:
    """The nodes that hold the text; `posed`: a Story with its characters, and the picture of the pose."""
    if posed:
        pose = node("pose", "LoadImage", image="pose.png", size=(400, 360), title="Pose")
        return [node("story", "Story", size=(400, 620), characters=people, **texts), pose]
    return [
        node("people", "Characters", size=(400, 160), characters=people),
        node("story", "Story", "character_list=people.characters", size=(400, 480), characters="", **texts),
    ]


def found(world: World, characters: str, **values: Any) -> Node:
    models = f"model={world.portraits} clip={world.clip} vae={world.vae} encoder={world.photomaker}"
    links = f"{models} characters={characters}"
    return world.node("found", "FindIdentity", links, size=(340, 900), **{"seed": 1, **values})


def loop(name: str, drawn: Drawn) -> list[Node]:
    """From Each Frame to Save Frame."""
    world = drawn.world
    body = draw_frame(name, world, loads=drawn.loads, posed=drawn.posed, maps=drawn.maps)
    origins = (world.model, world.generator, world.clip, world.vae, world.photomaker)
    ties = [f"{entry}={origin}" for entry, origin in zip(ENTERING.split(), origins, strict=True)]
    ties += ["identities=found.identities frame=each.frame seed=each.seed"]
    ties += [f"detector={world.detector}"] if "detector" in body.takes else []
    ties += ["pose=pose.IMAGE"] if drawn.posed else []
    saved = node("saved", "SaveFrame", "images=drawn.image", size=(320, 0), filename_prefix=FRAMES)
    return [
        node("each", "EachFrame", "story=story.story", size=(320, 0), seed=1),
        folded_node("drawn", body, " ".join(ties), size=(320, 0)),
        saved,
    ]


def together(columns: int, world: World) -> list[Node]:
    """Collect Frames, and the sheet with templates and masks.

    Portraits are on Find Identity. Tied to the sheet too, it would run before the Story has been checked.
    """
    values = "value_1=saved.images value_2=drawn.template value_3=drawn.layout"
    shown = "images=collected.value_1 frames=collected.frames templates=collected.value_2 layouts=collected.value_3"
    return [
        node("collected", "CollectFrames", values, size=(500, 0)),
        world.node(
            "sheet",
            "StorySheet",
            shown,
            size=(500, 0),
            columns=columns,
            filename_prefix=SHEET,
        ),
    ]


def with_app(made: Json) -> Json:
    """The workflow with what App mode shows, and its text among the favourites."""
    ids = {each["type"].removeprefix("StoryIdentity"): each["id"] for each in made["nodes"]}
    inputs = [[ids[kind], widget] for kind, widgets in WRITTEN.items() if kind in ids for widget in widgets]
    if "Characters" not in ids:
        inputs.insert(0, [ids["Story"], "characters"])
    made["extra"]["linearData"] = {"inputs": inputs, "outputs": [ids[kind] for kind in SHOWN]}
    favourites = [{"nodeLocatorId": str(key), "widgetName": widget} for key, widget in inputs]
    made["extra"]["favoritedWidgets"] = {"favorites": favourites}
    return made
