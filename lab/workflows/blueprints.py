"""The subgraphs that ComfyUI offers among its nodes: `subgraphs/`, one file each, named as the editor lists it.

The editor's search reads nothing else of a pack's subgraph than this name, and of the name the first 30 characters: the
host sends no aliases, and the editor puts what it sends in place of those in the file.
"""

from .drawing import INSIDE, drawing
from .graph import alone, fold, folded_node, node
from .groups import SDXL
from .kinds import Folded
from .schemas import Json
from .together import draw

SEARCHED = ["consistent character", "same person", "character sheet", "story", "comic"]
LISTED = {
    "Consistent story": "comic, characters",
    "Find identities": "character sheet",
    "Draw frames together": "same person",
}
"""What follows a subgraph's name where it is listed, so that it is found."""
SAVED = "StoryIdentity/frame"


def consistent_story() -> Folded:
    """From a story and its identities to finished frames."""
    last = [
        node("saved", "SaveFrame", "images=decoded.IMAGE", size=(320, 0), filename_prefix=SAVED),
        node(
            "collected",
            "CollectFrames",
            "value_1=saved.images value_2=template.IMAGE value_3=layout.layout",
            size=(320, 0),
        ),
    ]
    each = node("each", "EachFrame", "story=in.story", size=(320, 0), seed=1)
    return fold(
        "Consistent story",
        "Draws every frame of a Story with the same people: the base model draws a frame, then the identities are put "
        "in. An edited story draws only the frames that changed. Detector: Load Grounded-SAM.",
        [[each], *drawing(INSIDE, frame="each"), last],
        "model identity_model clip vae photomaker detector identities story",
        "frames=collected.frames images=collected.value_1 templates=collected.value_2 layouts=collected.value_3",
        "each.frames each.seed empty.width empty.height cache.steps cache.cfg layout.on_missing again.start "
        "saved.filename_prefix",
        "blueprint",
    )


def find_identities() -> Folded:
    """From lines of text to identities."""
    links = "model=in.model clip=in.clip vae=in.vae encoder=in.encoder characters=people.characters"
    people = node(
        "people", "Characters", size=(420, 200), characters="Mira | woman | a young woman with short red hair"
    )
    return fold(
        "Find identities",
        "Finds a face for each line of text: draws portraits, keeps those that agree, and saves the identity. One that "
        "was saved before is not drawn again. Connect characters to Story, identities to Consistent story.",
        [[people], [node("found", "FindIdentity", links, size=(360, 900), seed=1)]],
        "model clip vae encoder",
        "identities=found.identities portraits=found.portraits characters=people.characters report=found.report",
        "people.characters found.count found.seed found.steps found.cfg found.reuse",
        "blueprint",
    )


def frames_together() -> Folded:
    """A whole story as one batch whose frames see each other."""
    return draw(
        "Draw frames together",
        "Draws all frames of a Story in one batch, in which each frame sees the characters of the others (AMSA), so "
        "that they look alike, from prompts alone.",
        "blueprint",
        SDXL,
        shared=True,
    )


def blueprint(folded: Folded) -> Json:
    """The file of a subgraph."""
    found = alone(folded_node("whole", folded, "", size=(400, 300)))
    return {**found, "extra": {"BlueprintDescription": folded.about, "BlueprintSearchAliases": SEARCHED}}


BLUEPRINTS = {
    f"{each.name} ({LISTED[each.name]}).json": each
    for each in (consistent_story(), find_identities(), frames_together())
}
