"""What draws all frames of a story as one batch (Storynizor), as a subgraph."""

from .graph import fold, node
from .groups import World
from .kinds import Folded, Node
from .schemas import Json

ENTERING = "model clip vae story"
SAMPLED = "positive=encoded.positive negative=encoded.negative latent_image=empty.LATENT"
SHOWN = "empty.width empty.height sampler.seed sampler.steps sampler.cfg"
SHARED = "amsa.strength amsa.anchors"
FACED = "faces.name injector.weight"


def first(values: dict[str, Json]) -> list[Node]:
    """All prompts of a story in one conditioning, and an empty latent for each."""
    return [
        node("encoded", "EncodeStory", "clip=in.clip story=in.story", size=(320, 0)),
        node(
            "empty",
            "EmptyLatentImage",
            "batch_size=encoded.frames",
            size=(320, 0),
            **values.get("EmptyLatentImage", {}),
        ),
    ]


def sample(values: dict[str, Json], model: str, name: str = "", title: str = "") -> list[Node]:
    """All frames at once, from the same noise whatever the MODEL."""
    settings = {"title": title, "size": (320, 0), **values.get("KSampler", {})}
    return [
        node(f"sampler{name}", "KSampler", f"model={model} {SAMPLED}", **settings),
        node(f"decoded{name}", "VAEDecode", f"samples=sampler{name}.LATENT vae=in.vae", size=(320, 0)),
    ]


def amsa(model: str, story: str = "story.story") -> Node:
    return node("amsa", "AMSA", f"model={model} story={story}", size=(340, 0))


def injector(model: str, where: str = "") -> Node:
    links = f"model={model} adapter=in.adapter faces=faces.faces story=in.story{where}"
    return node("injector", "ShuffledIDInjector", links, size=(340, 0))


def draw(
    name: str,
    about: str,
    place: str,
    world: World,
    *,
    shared: bool,
    reading: list[Node] | None = None,
    faces: str = "",
    captions: bool = False,
) -> Folded:
    """The subgraph that draws a story as one batch.

    Args:
        name: What it is called.
        about: What it does.
        place: The workflow.
        world: Its values.
        shared: Whether the frames see each other.
        reading: The nodes that read faces from pictures, if faces are injected; the last one is "faces".
        faces: What enters for these.
        captions: Whether it gives the frames, for a sheet.
    """
    model, patches, takes, shows = "in.model", [], ENTERING, SHOWN
    if reading:
        patches, model = [injector(model)], "injector.model"
        takes, shows = f"{takes} adapter {faces}", f"{shows} {FACED}"
    if shared:
        patches, shows, model = [*patches, amsa(model, "in.story")], f"{shows} {SHARED}", "amsa.model"
    if captions:
        patches = [*patches, node("frames", "StoryFrames", "story=in.story", size=(320, 0))]
    columns = [first(world.values), reading or [], patches, sample(world.values, model)]
    gives = "images=decoded.IMAGE positive=encoded.positive samples=sampler.LATENT"
    gives = f"{gives} frames=frames.frame" if captions else gives
    return fold(name, about, [column for column in columns if column], takes, gives, shows, place)
