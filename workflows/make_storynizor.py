"""The workflows in which the frames see each other (Storynizor)."""

from graph import Group, Node, graph, node
from groups import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    GUIDED,
    ROSE,
    SDXL,
    TOY,
    VIOLET,
    World,
    note,
)
from kinds import Choice, Json

DDIM = {"KSampler": {"sampler_name": "ddim", "scheduler": "ddim_uniform"}, "StorySheet": {"columns": 2}}
BATCH_XL = SDXL._replace(values=DDIM)
BATCH = SDXL._replace(
    model="checkpoint.MODEL",
    clip="checkpoint.CLIP",
    vae="checkpoint.VAE",
    values={**DDIM, "EmptyLatentImage": {"width": 768, "height": 768}},
)
BATCH_TOY = TOY._replace(
    values={**TOY.values, "KSampler": {"steps": 25, **GUIDED}, "StorySheet": {"columns": 2, "cell_width": 256}}
)

SD15 = Choice("v1-5-pruned-emaonly-fp16.safetensors")
MORE = """- People change from frame to frame: look at **Preview Attention Masks**; what glows there is what the \
frames share. Poses become alike: lower `end_percent` or `strength` in **AMSA Model Patch**."""
MORE_SD15 = f"""{MORE}
- Many frames, little memory: `anchors` 4 in **AMSA Model Patch** samples four at a time (5.6 GiB of main memory at \
768 x 768).
- 768 x 768 in **Empty Latent Image** is the paper's size, but plain SD1.5 was trained at 512: for it set `width` and \
`height` to 512. Keep 768 for fine-tunes that know it."""
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


def checkpoint(world: World, **file: Choice) -> Group:
    return Group("Model", GREY, [[node(world.model.split(".")[0], "CheckpointLoaderSimple", size=(420, 0), **file)]])


def batch(world: World, **texts: str) -> Group:
    """The story, all of its prompts in one conditioning, and an empty latent for each."""
    return Group(
        "1 · The story",
        BLUE,
        [
            [
                node("story", "Story", size=(420, 430), **texts),
                node("encoded", "EncodeStory", f"clip={world.clip} story=story.story", size=(420, 0)),
                world.node("empty", "EmptyLatentImage", "batch_size=encoded.frames", size=(420, 0)),
            ]
        ],
    )


def amsa(model: str) -> Node:
    return node("amsa", "AMSA", f"model={model} story=story.story", size=(340, 0))


def sampling(world: World, model: str, name: str = "") -> list[Node]:
    """All frames at once, from the same noise whatever the MODEL."""
    links = f"model={model} positive=encoded.positive negative=encoded.negative latent_image=empty.LATENT"
    return [
        world.node(f"sampler{name}", "KSampler", links, size=(340, 0)),
        node(f"decoded{name}", "VAEDecode", f"samples=sampler{name}.LATENT vae={world.vae}", size=(340, 0)),
    ]


def together(columns: list[list[Node]]) -> Group:
    return Group("2 · Draw all frames together", VIOLET, columns)


def frames(name: str = "", prefix: str = "frame", width: int = 420) -> Node:
    saved = {"filename_prefix": f"StoryIdentity/{prefix}", "size": (width, 0)}
    return node(f"finished{name}", "SaveImage", f"images=decoded{name}.IMAGE", title="Finished frames", **saved)


def captions(width: int) -> Node:
    return node("captions", "StoryFrames", "story=story.story", title="Story Frames, for the captions", size=(width, 0))


def sheet(world: World, name: str = "", width: int = 340) -> Node:
    links = f"images=decoded{name}.IMAGE frames=captions.frame"
    return world.node(f"sheet{name}", "StorySheet", links, size=(width, 0))


def finished(width: int = 420) -> Group:
    return Group("3 · The frames", ROSE, [[frames(width=width)]])


def looked_at(world: World, width: int = 420) -> list[Group]:
    """The maps behind the masks, and the sheet."""
    kept = {"title": "Save the sheet", "filename_prefix": "StoryIdentity/sheet", "size": (420, 0)}
    saved = node("saved_sheet", "SaveImage", "images=sheet.sheet", **kept)
    return [glow(world, width), Group("5 · The sheet", AMBER, [[captions(340), sheet(world)], [saved]])]


def glow(world: World, width: int) -> Group:
    links = f"model={world.model} positive=encoded.positive samples=sampler.LATENT images=decoded.IMAGE"
    seen = node("glow", "PreviewAttentionMasks", links, size=(width, 0))
    return Group("4 · Where the model looks for whom", GREEN, [[seen]])


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
    return graph(
        name,
        [note(name, about, 560), checkpoint(BATCH, ckpt_name=SD15)],
        [
            [batch(BATCH, **NORA), together([[amsa(BATCH.model), *sampling(BATCH, "amsa.model")]]), finished()],
            looked_at(BATCH, 640),
        ],
    )


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
    text = {
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
    return graph(
        name,
        [note(name, about, 560), checkpoint(BATCH_XL)],
        [
            [
                batch(BATCH_XL, **text),
                together([[amsa(BATCH_XL.model), *sampling(BATCH_XL, "amsa.model")]]),
                finished(),
            ],
            looked_at(BATCH_XL, 640),
        ],
    )


def faces() -> Group:
    """Three pictures of one person, as the adapter's image encoder sees them."""
    pictures = [node(f"picture{n}", "LoadImage", image=Choice(f"nora_{n}.png"), size=(300, 330)) for n in (1, 2, 3)]
    batched = " ".join(f"images.image{n - 1}=picture{n}.IMAGE" for n in (1, 2, 3))
    seen = "images=batched.IMAGE clip_vision=encoder.CLIP_VISION"
    read = [
        node("adapter", "LoadIDAdapter", size=(340, 0)),
        node("encoder", "CLIPVisionLoader", size=(340, 0)),
        node("batched", "BatchImagesNode", batched, size=(340, 106)),
        node("faces", "FaceFeatures", seen, size=(340, 0), name="Nora"),
    ]
    columns = [pictures[:2], [pictures[2], *read[:2]], read[2:]]
    return Group("The faces", GREY, columns)


def references() -> Json:
    name = "storynizor_sd15_reference.json"
    about = f"""# Reference faces, shuffled
As the workflow without references, and each frame also sees one of Nora's pictures, \
dealt at random, so that the face is taken over and the pose is not. plus-face needs no face recogniser.

## What to change first
- **Load Image**: three or more close-ups of one person, about square, with different poses, light and clothes.
- The **Story**, and the name in **Face Features**.
- `weight` in **Shuffled ID Injector**: 0.6 if the prompts are not followed.
- A second character: Load Image, Batch Images and Face Features again, its `faces` tied to the first. Where both are \
in one frame, each needs a `layout` (see the injector's help page).
{MORE_SD15}"""
    links = f"model={BATCH.model} adapter=adapter.adapter faces=faces.faces story=story.story"
    injector = node("injector", "ShuffledIDInjector", links, size=(340, 0))
    patched = [injector, amsa("injector.model")]
    return graph(
        name,
        [note(name, about, 640), checkpoint(BATCH, ckpt_name=SD15)],
        [
            [batch(BATCH, **NORA), faces(), together([patched, sampling(BATCH, "amsa.model")])],
            [finished(700), *looked_at(BATCH, 700)],
        ],
    )


def toy_world() -> Json:
    name = "toyworld_storynizor.json"
    about = """# Frames that see each other, in the toy world
The same story twice from the same noise, left without AMSA, right with it. Small networks that come with the pack: \
nothing to download, no GPU, done in under a minute. The difference is small: compare hat and coat.

## What to change first
- The **Story**, in the words the networks know: man, woman, boy, girl, robot; black, brown, blond, red, white hair \
(a robot has a lamp); standing, waving, sitting, jumping; beach, forest, city, kitchen, garden, snow; dog, cat, ball, \
balloon, kite; at night.
- `seed` in both **KSampler** nodes: the same in both, to compare.
- `strength` and `end_percent` in **AMSA Model Patch**."""
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
    world = BATCH_TOY
    without = [[*sampling(world, world.model, "_plain"), captions(340)]]
    shared = [[amsa(world.model), *sampling(world, "amsa.model")]]
    loader = Group("The toy world", GREY, [[node("toy", "ToyWorldLoader", size=(420, 0))]])
    return graph(
        name,
        [note(name, about, 360), loader, glow(world, 420)],
        [
            [
                batch(world, **text),
                Group("2 · Without AMSA", GREY, [*without, [frames("_plain", "without"), sheet(world, "_plain", 420)]]),
                Group("3 · With AMSA", VIOLET, [*shared, [frames("", "with"), sheet(world, "", 420)]]),
            ]
        ],
    )


STORYNIZOR = {
    "storynizor_sd15.json": prompt_only,
    "storynizor_sd15_reference.json": references,
    "storynizor_sdxl.json": large,
    "toyworld_storynizor.json": toy_world,
}
