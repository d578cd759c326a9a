"""The workflows in which frames see each other, and the faces of reference pictures."""

from .graph import Group, fold, folded_node, graph, node
from .groups import BLUE, GREY, ROSE, VIOLET, note
from .kinds import Folded, Node
from .schemas import Json
from .storynizor import BATCH, MORE_SD15, NORA, SD15, SIZES_SD15, frames, glow, sheet
from .together import amsa, draw, first, injector, sample

EXAMPLES = {"Nora": "woman", "Otto": "man"}
"""Who looks like them, of the pictures that come with the pack."""


def pictures_of(name: str) -> list[Node]:
    """Three pictures of one person."""
    options: Json = {"title": "Replace by Load Image", "size": (236, 320)}
    return [
        node(f"{name.lower()}_{n}", "ExamplePicture", picture=f"{EXAMPLES[name]} {n}", **options) for n in (1, 2, 3)
    ]


def entering(pictures: list[Node]) -> str:
    """The pictures under the names by which they enter a subgraph."""
    return " ".join(f"{each.key}={each.key}.image" for each in pictures)


def read_faces(pictures: list[Node], name: str, key: str = "faces", others: str = "") -> list[Node]:
    """The pictures of one person, as the adapter's image encoder sees them; with those of others."""
    batched = " ".join(f"images.image{n}=in.{picture.key}" for n, picture in enumerate(pictures))
    seen = f"images=batched_{key}.IMAGE clip_vision=in.clip_vision{others}"
    return [
        node(f"batched_{key}", "BatchImagesNode", batched, size=(340, 106)),
        node(key, "FaceFeatures", seen, size=(340, 0), name=name),
    ]


def loaders(*more: Node) -> list[Node]:
    return [
        node("checkpoint", "CheckpointLoaderSimple", size=(360, 0), ckpt_name=SD15),
        node("adapter", "LoadIDAdapter", size=(360, 0)),
        node("vision", "CLIPVisionLoader", size=(360, 0)),
        *more,
    ]


def told(text: dict[str, str]) -> Group:
    return Group("1 · The story", BLUE, [[node("story", "Story", size=(340, 520), **text)]])


def one_face() -> Json:
    name = "storynizor_sd15_reference.json"
    about = f"""# Reference faces, shuffled
As the workflow without references, and each frame also sees one of Nora's pictures, \
assigned at random, so that the face is taken over and the pose is not. plus-face needs no face recogniser.

## What to change first
- **Her face**: drawn examples. Put Load Image in the place of each, with three or more close-ups of one person, about \
square, with different poses, light and clothes.
- The **Story**, and `name` in **Draw all together, with her face**: who the pictures show.
- `weight` in the same node: 0.6 if the prompts are not followed.
- A second character: the workflow for two. Where both are in one frame, the injector needs a `layout`.
- AMSA Model Patch and Empty Latent Image are in that node: the symbol at the right of its title opens it.
{MORE_SD15}"""
    pictures = pictures_of("Nora")
    ties = "model=checkpoint.MODEL clip=checkpoint.CLIP vae=checkpoint.VAE story=story.story"
    ties = f"{ties} adapter=adapter.adapter clip_vision=vision.CLIP_VISION {entering(pictures)}"
    body = draw(
        "Draw all together, with her face",
        "Draws a story as one batch whose frames see each other, and each of them one of the pictures.",
        name,
        BATCH,
        shared=True,
        reading=read_faces(pictures, "Nora"),
        faces=" ".join(["clip_vision", *(each.key for each in pictures)]),
        captions=True,
    )
    seen = glow("checkpoint.MODEL", "drawn.positive", "drawn.samples", "drawn.images", 500)
    drawn = [folded_node("drawn", body, ties, size=(340, 0)), frames("drawn.images", 340)]
    shown = [sheet(BATCH, "drawn.images", "drawn.frames", 500), seen]
    return graph(
        name,
        [note(name, about, 620, wide=400), Group("Models", GREY, [loaders()])],
        [
            [
                told(NORA),
                Group("2 · Her face", GREY, [pictures]),
                Group("3 · Draw", VIOLET, [drawn]),
                Group("4 · The frames, and what they share", ROSE, [shown]),
            ]
        ],
    )


def draw_twice(place: str, nora: list[Node], otto: list[Node]) -> Folded:
    """Once without faces, to find who is where, and once with each face in its own character's mask."""
    found = "image=template.IMAGE detector=in.detector frame=frames.frame"
    parted = [
        node("frames", "StoryFrames", "story=in.story", size=(340, 0)),
        node("template", "RebatchImages", "images=decoded_first.IMAGE", title="Frames one by one", size=(340, 0)),
        node("layout", "GroundedSAMLayout", found, size=(340, 0)),
    ]
    faces = [*read_faces(nora, "Nora", "faces_nora"), *read_faces(otto, "Otto", others=" faces=faces_nora.faces")]
    again = [
        injector("amsa.model", " layout=layout.layout"),
        *sample(BATCH.values, "injector.model", title="With faces"),
    ]
    return fold(
        "Draw twice, with both faces",
        "Draws a story as one batch, finds who is where, and draws it again from the same noise, with each face in its "
        "own character's mask.",
        [
            first(BATCH.values),
            [amsa("in.model", "in.story"), *sample(BATCH.values, "amsa.model", "_first", "Without faces")],
            parted,
            faces,
            again,
        ],
        " ".join(("model clip vae story adapter clip_vision detector", *(each.key for each in (*nora, *otto)))),
        "images=decoded.IMAGE frames=frames.frame templates=template.IMAGE layouts=layout.layout",
        "empty.width empty.height sampler_first.seed sampler.seed faces_nora.name faces.name injector.weight "
        "amsa.strength layout.box_threshold layout.on_missing",
        place,
    )


def two_faces() -> Json:
    name = "storynizor_sd15_reference_two_characters.json"
    about = f"""# Two reference faces
As the workflow with one face, drawn twice from the same noise: first without faces, to find who is where, and then \
with each face in its own character's mask.

## What to change first
- **Her face**, **His face**: drawn examples. Put Load Image in the place of each, with three or more close-ups of \
each person, about square, with different poses, light and clothes.
- The **Story**: one line per character, descriptions as unlike as you can make them. In **Draw twice** the names \
again: `name` is Nora's, `name_1` Otto's.
- `seed` and `seed_1` there: the same in both, as everything else of the two KSamplers, or the masks do not fit.
- Someone is not found: lower `box_threshold`, or set `on_missing` to "skip".
- Poses become alike: lower `strength`, or `end_percent` of AMSA Model Patch, which is in that node, as Empty Latent \
Image is: the symbol at the right of its title opens it.
{SIZES_SD15}"""
    text = {
        "characters": (
            "Nora | woman | a young woman with short black hair, freckles and a green jacket\n"
            "Otto | man | an old man with a white beard and a red cap"
        ),
        "prompts": (
            "Nora and Otto read a map on a mountain trail\n"
            "Nora paddles a canoe across a lake\n"
            "Otto chops wood beside a cabin\n"
            "Nora and Otto cook soup over a campfire at night"
        ),
        "style": "cinematic photo",
    }
    nora, otto = pictures_of("Nora"), pictures_of("Otto")
    given = "model clip vae adapter clip_vision detector".split()
    ties = " ".join([*(f"{each}=models.{each}" for each in given), "story=story.story", entering([*nora, *otto])])
    drawn = folded_node("drawn", draw_twice(name, nora, otto), ties, size=(340, 0))
    before = "templates=drawn.templates layouts=drawn.layouts"
    shown = [frames("drawn.images", 340), sheet(BATCH, "drawn.images", "drawn.frames", 340, before)]
    return graph(
        name,
        [note(name, about, 620, wide=364), Group("Models", GREY, [[models(name)]])],
        [
            [
                told(text),
                Group("2 · Her face", GREY, [nora]),
                Group("3 · His face", GREY, [otto]),
                Group("4 · Draw", VIOLET, [[drawn]]),
                Group("5 · The frames", ROSE, [shown]),
            ]
        ],
    )


def models(place: str) -> Node:
    """All loaders as one node."""
    gives = "model=checkpoint.MODEL clip=checkpoint.CLIP vae=checkpoint.VAE adapter=adapter.adapter"
    body = fold(
        "Load all models",
        "Loads the checkpoint, the ID adapter with its image encoder, and the detector.",
        [loaders(node("detector", "GroundedSAMLoader", size=(360, 0)))],
        "",
        f"{gives} clip_vision=vision.CLIP_VISION detector=detector.detector",
        "checkpoint.ckpt_name adapter.adapter_name",
        place,
    )
    return folded_node("models", body, "", size=(340, 0))


REFERENCES = {
    "storynizor_sd15_reference.json": one_face,
    "storynizor_sd15_reference_two_characters.json": two_faces,
}
