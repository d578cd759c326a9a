"""What runs once per frame, and what finds identities: subgraphs of the workflows, and blueprints by themselves."""

from .graph import fold, node
from .groups import SDXL, World
from .kinds import Folded, Node

INSIDE = World(
    model="in.model",
    portraits="in.model",
    clip="in.clip",
    vae="in.vae",
    photomaker="in.photomaker",
    generator="in.identity_model",
    detector="in.detector",
    identity="",
    values=SDXL.values,
)
ENTERING = "model identity_model clip vae photomaker"
POSE = "control_net=controlnet.CONTROL_NET image=in.pose"
SIZE = "empty.width empty.height"
STEPS = "cache.steps cache.cfg"


def inside(values: World) -> World:
    """The same values where the models enter a subgraph."""
    return INSIDE._replace(values=values.values)


def draw_frame(place: str, world: World, *, loads: bool = True, posed: bool = False, maps: bool = False) -> Folded:
    """The subgraph that draws one frame of Each Frame.

    Args:
        place: The workflow.
        world: Its values.
        loads: Whether the detector is loaded in the subgraph, and does not enter it.
        posed: Whether a ControlNet holds a pose in both passes.
        maps: Whether the model's own attention says who is where, and not a detector.
    """
    given = "" if loads or maps else " detector"
    takes = f"{ENTERING}{given} identities frame seed{' pose' if posed else ''}"
    found = "layout.on_missing" if maps else "layout.box_threshold layout.on_missing"
    return fold(
        "Draw the frame",
        "Draws one frame with its characters: the base model draws it, then the identities are put in where they are.",
        drawing(inside(world), loads=loads, posed=posed, maps=maps),
        takes,
        "image=decoded.IMAGE template=template.IMAGE layout=layout.layout",
        f"{SIZE} {STEPS} {found} again.start",
        place,
    )


def drawing(
    world: World, *, loads: bool = False, posed: bool = False, maps: bool = False, frame: str = "in", wide: int = 320
) -> list[list[Node]]:
    """The nodes of one frame, in columns: template, layout, cast, second pass; `frame` is the node that gives it."""
    size = (wide, 0)
    positive, negative = "encoded.positive", "encoded.negative"
    first = [node("encoded", "EncodeFrame", f"clip={world.clip} frame={frame}.frame", size=size)]
    if posed:
        first.append(node("controlnet", "ControlNetLoader", size=(wide + 80, 0)))
        held = f"positive={positive} negative={negative} {POSE}"
        first.append(node("posed", "ControlNetApplyAdvanced", held, title="Pose, first pass", size=size))
        positive, negative = "posed.positive", "posed.negative"
    first.append(world.node("empty", "EmptyLatentImage", size=size))
    sampled = f"model={world.model} positive={positive} negative={negative} latent_image=empty.LATENT"
    second = [
        world.node(
            "cache", "NoisyLatentCache", f"{sampled} seed={frame}.seed", size=(380, 0), keep_attention_maps=maps
        ),
        node("template", "VAEDecode", f"samples=cache.latent vae={world.vae}", size=(380, 0), title="The template"),
    ]
    cast = f"clip={world.clip} negative=encoded.negative photomaker={world.photomaker} frame={frame}.frame"
    everybody = node("cast", "StoryCast", f"identities=in.identities {cast}", size=(380, 0))
    third = [*where(world, frame, loads=loads, maps=maps), *(posed_cast(world, frame) if posed else [everybody])]
    tied = f"model={world.generator} cast=cast.cast cache=cache.cache layout=layout.layout"
    return [
        first,
        second,
        third,
        [
            world.node("again", "Redenoise", tied, size=size),
            node("decoded", "VAEDecode", f"samples=again.latent vae={world.vae}", size=size, title="The frame"),
        ],
    ]


def where(world: World, frame: str, *, loads: bool, maps: bool) -> list[Node]:
    """Who is where: found by a detector, or by the maps that the template's pass kept."""
    if maps:
        links = f"cache=cache.cache image=template.IMAGE frame={frame}.frame"
        return [node("layout", "LayoutFromAttention", links, size=(380, 0))]
    detector = [node("detector", "GroundedSAMLoader", size=(380, 0))] if loads else []
    found = "detector.detector" if loads else world.detector
    links = f"image=template.IMAGE detector={found} frame={frame}.frame"
    return [*detector, world.node("layout", "GroundedSAMLayout", links, size=(380, 0))]


def posed_cast(world: World, frame: str) -> list[Node]:
    """One character with a pose: Story Cast makes conditionings that no ControlNet can be put on."""
    who = f"identity=in.identities frame={frame}.frame"
    fused = f"clip={world.clip} photomaker={world.photomaker} {who}"
    held = f"positive=fused.positive negative=encoded.negative {POSE}"
    return [
        node("fused", "IdentityConditioning", fused, size=(380, 0)),
        node("posed_again", "ControlNetApplyAdvanced", held, title="Pose, second pass", size=(380, 0)),
        node("cast", "Cast", f"{who} positive=posed_again.positive negative=posed_again.negative", size=(380, 0)),
    ]
