"""The workflows in which the frames see each other (Storynizor)."""

from .graph import Group, folded_node, graph, node
from .groups import AMBER, BLUE, GREY, GUIDED, ROSE, SDXL, TOY, VIOLET, World, note
from .kinds import Node
from .schemas import Json
from .together import amsa, draw

DDIM = {"KSampler": {"sampler_name": "ddim", "scheduler": "ddim_uniform"}, "StorySheet": {"columns": 2}}
BATCH_XL = SDXL._replace(values=DDIM)
BATCH = SDXL._replace(
    model="checkpoint.MODEL",
    clip="checkpoint.CLIP",
    vae="checkpoint.VAE",
    values={**DDIM, "EmptyLatentImage": {"width": 512, "height": 512}},
)
BATCH_TOY = TOY._replace(
    values={**TOY.values, "KSampler": {"steps": 25, **GUIDED}, "StorySheet": {"columns": 4, "cell_width": 256}}
)

SD15 = "v1-5-pruned-emaonly-fp16.safetensors"
MORE = """- People change from frame to frame: look at **Preview Attention Masks**; what glows there is what the \
frames share. Poses become alike: lower `end_percent` or `strength` in **AMSA Model Patch**."""
SIZES_SD15 = """- Many frames, little memory: `anchors` 4 in **AMSA Model Patch** samples four at a time (5.6 GiB of \
main memory at 768 x 768).
- 512 x 512 in **Empty Latent Image** is what plain SD1.5 was trained at. The paper has 768 x 768: set it for \
fine-tunes that know it."""
MORE_SD15 = f"{MORE}\n{SIZES_SD15}"
MORE_SDXL = f"""{MORE}
- Many frames: `anchors` 2 in **AMSA Model Patch** samples two at a time, with about 12 GiB of main memory; 4 takes \
about 23 GiB, 17 without the largest layers."""
NORA = {
    "characters": "Nora | woman | a young woman with short black hair, freckles and a green jacket",
    "prompts": (
        "Nora reads a map on a mountain trail\n"
        "Nora paddles a canoe across a lake\n"
        "Nora cooks soup over a campfire at night\n"
        "Nora rests in a hammock between birch trees"
    ),
    "style": "cinematic photo",
}

LENA_AND_BRUNO = {
    "characters": (
        "Lena | girl | a girl with red pigtails and a blue dress\n"
        "Bruno | man | an old man with a white beard and a brown hat"
    ),
    "prompts": (
        "Lena and Bruno plant a tree in a garden\n"
        "Lena flies a kite on a windy hill\n"
        "Bruno repairs a clock in his workshop\n"
        "Lena and Bruno eat pancakes in a kitchen"
    ),
    "style": "storybook illustration",
}


def checkpoint(world: World, wide: int = 376, **file: str) -> Group:
    return Group("Model", GREY, [[node(world.model.split(".")[0], "CheckpointLoaderSimple", size=(wide, 0), **file)]])


def batch(world: World, **texts: str) -> Group:
    """The story, all of its prompts in one conditioning, and an empty latent for each."""
    return Group(
        "1 · The story",
        BLUE,
        [
            [
                node("story", "Story", size=(390, 430), **texts),
                node("encoded", "EncodeStory", f"clip={world.clip} story=story.story", size=(390, 0)),
                world.node("empty", "EmptyLatentImage", "batch_size=encoded.frames", size=(390, 0)),
            ]
        ],
    )


def sampling(world: World, model: str) -> list[Node]:
    """All frames at once."""
    links = f"model={model} positive=encoded.positive negative=encoded.negative latent_image=empty.LATENT"
    return [
        world.node("sampler", "KSampler", links, size=(340, 0)),
        node("decoded", "VAEDecode", f"samples=sampler.LATENT vae={world.vae}", size=(340, 0)),
    ]


def one_row(name: str, about: str, world: World, loader: Group, text: dict[str, str]) -> Json:
    """A workflow of one batch, with its nodes in sight."""
    options = {"title": "Story Frames, for the captions", "size": (340, 0)}
    captions = node("captions", "StoryFrames", "story=story.story", **options)
    seen = glow(world.model, "encoded.positive", "sampler.LATENT", "decoded.IMAGE")
    return graph(
        name,
        [note(name, about, 560, wide=400), loader],
        [
            [
                batch(world, **text),
                Group("2 · Draw all frames together", VIOLET, [[amsa(world.model), *sampling(world, "amsa.model")]]),
                Group("3 · The frames, and what they share", ROSE, [[frames("decoded.IMAGE"), seen]]),
                Group("4 · The sheet", AMBER, [[captions, sheet(world, "decoded.IMAGE", "captions.frame")]]),
            ]
        ],
    )


def frames(images: str, width: int = 384) -> Node:
    """Where the finished frames are saved."""
    saved = {"filename_prefix": "StoryIdentity/frame", "size": (width, 0)}
    return node("finished", "SaveImage", f"images={images}", title="Finished frames", **saved)


def sheet(world: World, images: str, captions: str, width: int = 384, more: str = "") -> Node:
    """The sheet of the frames, saved; `more` is what else it shows."""
    links = f"images={images} frames={captions} {more}"
    return world.node("sheet", "StorySheet", links, size=(width, 0), filename_prefix="StoryIdentity/sheet")


def glow(model: str, positive: str, samples: str, images: str, width: int = 384) -> Node:
    """Where the model looks for whom."""
    links = f"model={model} positive={positive} samples={samples} images={images}"
    return node("glow", "PreviewAttentionMasks", links, size=(width, 0))


def prompt_only() -> Json:
    name = "storynizor_sd15.json"
    about = f"""# Four frames that see each other
Storynizor's auto-mask attention with SD1.5: the stock KSampler draws all frames as one batch, and the person in each \
frame sees the same person in the others, and becomes somewhat more alike. No training, no reference picture, no \
detector.

## What to change first
- The **Story**: one character per line, one prompt per line. Encode Story counts the frames.
- `seed` in **KSampler**.
{MORE_SD15}"""
    return one_row(name, about, BATCH, checkpoint(BATCH, 360, ckpt_name=SD15), NORA)


def large() -> Json:
    name = "storynizor_sdxl.json"
    about = f"""# Two characters, with SDXL
The frames are drawn as one batch and see each other's people: each character only themselves, which is meant to keep \
two people apart; the background then sees nobody.

## What to change first
- The **Story**: descriptions as unlike as you can make them. Frames may show both, one of them, or nobody.
- `seed` in **KSampler**.
- A smaller `width` and `height` in **Empty Latent Image** for a quick try, or for less memory.
{MORE_SDXL}"""
    return one_row(name, about, BATCH_XL, checkpoint(BATCH_XL, 360), LENA_AND_BRUNO)


def toy_world() -> Json:
    name = "toyworld_storynizor.json"
    about = """# Frames that see each other, in the toy world
One story in three ways from the same noise, below each other in **3 · Compare**: each frame by itself; all frames \
together with AMSA, a small change; together and with the face of a portrait, which the Shuffled ID Injector puts into \
all of them. Small networks that come with the pack: nothing to download, no GPU, done in under a minute.

## What to change first
- `seed` in **A portrait**: somebody else, in all frames of the last row.
- The **Story**, in the words the networks know: man, woman, boy, girl, robot; black, brown, blond, red, white hair \
(a robot has a lamp); standing, waving, sitting, jumping; beach, forest, city, kitchen, garden, snow; dog, cat, ball, \
balloon, kite; at night.
- `seed` in the three nodes that draw: the same in all, to compare. Open one to see what is in it.
- `weight`, how much of the face is put in; `strength` of AMSA, how much the frames see of each other.
- Why one portrait: drawn from text alone, several would be of several people. Of pictures of one person take three \
or more; each frame then sees another."""
    text = {
        "characters": "Mira | woman | a woman with red hair",
        "prompts": (
            "Mira waving in the garden with a balloon\n"
            "Mira sitting on the beach with a dog\n"
            "Mira standing in the snow\n"
            "Mira jumping in the city at night"
        ),
        "negative": "",
    }
    story = node("story", "Story", size=(380, 424), **text)
    loader = Group("The toy world", GREY, [[node("toy", "ToyWorldLoader", size=(376, 0))]])
    return graph(
        name,
        [note(name, about, 620, wide=400), loader],
        [
            [
                Group("1 · The story, and a face", BLUE, [[story, portrait()]]),
                Group("2 · Draw it in three ways", VIOLET, [three_ways(name)]),
                compared(),
            ]
        ],
    )


def portrait() -> Node:
    """A portrait of the character, whose face is put in."""
    drawn = "model=toy.model clip=toy.clip vae=toy.vae story=story.story"
    return TOY.node("portrait", "CharacterPortraits", drawn, title="A portrait", size=(380, 0), count=1, seed=16)


def three_ways(place: str) -> list[Node]:
    """Each frame by itself, together, and together with one face: from the same noise."""
    ties = "model=toy.model clip=toy.clip vae=toy.vae story=story.story"
    seen = "images=in.portraits clip_vision=in.clip_vision"
    reading = [node("faces", "FaceFeatures", seen, size=(340, 0), face_models="toy world", crop="found face")]
    alone = draw("Each frame by itself", "Draws every frame without the others.", place, BATCH_TOY, shared=False)
    shared = draw(
        "All together",
        "Draws the frames as one batch, in which they see each other's characters.",
        place,
        BATCH_TOY,
        shared=True,
    )
    faced = draw(
        "Together, with one face",
        "Draws them together, with the portrait's face put into all of them.",
        place,
        BATCH_TOY,
        shared=True,
        reading=reading,
        faces="portraits clip_vision",
    )
    face = "adapter=toy.adapter clip_vision=toy.clip_vision portraits=portrait.portraits"
    return [
        folded_node("alone", alone, ties, size=(340, 0)),
        folded_node("together", shared, ties, size=(340, 0)),
        folded_node("faced", faced, f"{ties} {face}", size=(340, 0)),
    ]


def compared() -> Group:
    """The three ways below each other, the portrait, and where the model looks."""
    batched = " ".join(f"images.image{n}={way}.images" for n, way in enumerate(("alone", "together", "faced")))
    rows = {"title": "Rows: by itself, together, with one face", "size": (480, 0), "captions": False}
    larger = {"title": "The portrait, larger", "size": (320, 300), "columns": 1, "captions": False}
    columns = [
        [
            node("ways", "BatchImagesNode", batched, size=(320, 106)),
            frames("faced.images", 320),
            BATCH_TOY.node("larger", "StorySheet", "images=portrait.portraits", **larger),
        ],
        [
            BATCH_TOY.node("sheet", "StorySheet", "images=ways.IMAGE", **rows),
            glow("toy.model", "faced.positive", "faced.samples", "faced.images", 480),
        ],
    ]
    return Group("3 · Compare", AMBER, columns)


STORYNIZOR = {
    "storynizor_sd15.json": prompt_only,
    "storynizor_sdxl.json": large,
    "toyworld_storynizor.json": toy_world,
}
