"""The workflows in which the frames see each other (Storynizor)."""

from .graph import Group, graph, node
from .groups import AMBER, BLUE, GREEN, GREY, GUIDED, ROSE, SDXL, TOY, VIOLET, World, note, who_is_where
from .kinds import Node
from .schemas import Json

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


def checkpoint(world: World, wide: int = 420, **file: str) -> Group:
    return Group("Model", GREY, [[node(world.model.split(".")[0], "CheckpointLoaderSimple", size=(wide, 0), **file)]])


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


def amsa(model: str, name: str = "") -> Node:
    return node(f"amsa{name}", "AMSA", f"model={model} story=story.story", size=(340, 0))


def injector(model: str, adapter: str, where: str = "") -> Node:
    links = f"model={model} adapter={adapter} faces=faces.faces story=story.story{where}"
    return node("injector", "ShuffledIDInjector", links, size=(340, 0))


def sampling(world: World, model: str, name: str = "") -> list[Node]:
    """All frames at once, from the same noise whatever the MODEL."""
    links = f"model={model} positive=encoded.positive negative=encoded.negative latent_image=empty.LATENT"
    return [
        world.node(f"sampler{name}", "KSampler", links, size=(340, 0)),
        node(f"decoded{name}", "VAEDecode", f"samples=sampler{name}.LATENT vae={world.vae}", size=(340, 0)),
    ]


def together(columns: list[list[Node]]) -> Group:
    return Group("2 · Draw all frames together", VIOLET, columns)


def frames(width: int = 420) -> Node:
    saved = {"filename_prefix": "StoryIdentity/frame", "size": (width, 0)}
    return node("finished", "SaveImage", "images=decoded.IMAGE", title="Finished frames", **saved)


def finished(width: int = 420) -> Group:
    return Group("3 · The frames", ROSE, [[frames(width)]])


def looked_at(world: World, width: int = 420) -> list[Group]:
    """The maps behind the masks, and the sheet."""
    options = {"title": "Story Frames, for the captions", "size": (340, 0)}
    captions = node("captions", "StoryFrames", "story=story.story", **options)
    return [glow(world, width), Group("5 · The sheet", AMBER, [[captions], [sheet(world, "captions")]])]


def one_row(name: str, about: str, world: World, loader: Group, text: dict[str, str]) -> Json:
    """A workflow of one batch, small enough for one window."""
    (captions, shown), (seen,) = sum(looked_at(world)[1].columns, []), glow(world, 420).columns[0]
    return graph(
        name,
        [note(name, about, 560, wide=400), loader],
        [
            [
                batch(world, **text),
                together([[amsa(world.model), *sampling(world, "amsa.model")]]),
                Group("3 · The frames, and what they share", ROSE, [[frames(), seen]]),
                Group("4 · The sheet", AMBER, [[captions, shown]]),
            ]
        ],
    )


def sheet(world: World, captions: str) -> Node:
    links, kept = f"images=decoded.IMAGE frames={captions}.frame", {"filename_prefix": "StoryIdentity/sheet"}
    return world.node("sheet", "StorySheet", links, size=(420, 0), **kept)


def glow(world: World, width: int, number: int = 4) -> Group:
    links = f"model={world.model} positive=encoded.positive samples=sampler.LATENT images=decoded.IMAGE"
    seen = node("glow", "PreviewAttentionMasks", links, size=(width, 0))
    return Group(f"{number} · Where the model looks for whom", GREEN, [[seen]])


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


def pictures_of(name: str) -> list[Node]:
    files = [f"{name.lower()}_{n}" for n in (1, 2, 3)]
    return [node(file, "LoadImage", image=f"{file}.png", size=(300, 330)) for file in files]


def read_from(pictures: list[Node], name: str, key: str = "faces", others: str = "") -> list[Node]:
    """The pictures of one person, as the adapter's image encoder sees them; with those of others."""
    batched = " ".join(f"images.image{n}={picture.key}.IMAGE" for n, picture in enumerate(pictures))
    seen = f"images=batched{name}.IMAGE clip_vision=encoder.CLIP_VISION{others}"
    return [
        node(f"batched{name}", "BatchImagesNode", batched, size=(340, 106)),
        node(key, "FaceFeatures", seen, size=(340, 0), name=name),
    ]


def loaders() -> list[Node]:
    return [node("adapter", "LoadIDAdapter", size=(340, 0)), node("encoder", "CLIPVisionLoader", size=(340, 0))]


def faces() -> Group:
    """Three pictures of one person."""
    pictures = pictures_of("Nora")
    return Group("The faces", GREY, [pictures[:2], [pictures[2], *loaders()], read_from(pictures, "Nora")])


def two_faces() -> list[Group]:
    """Three pictures of each of two people."""
    nora, otto = pictures_of("Nora"), pictures_of("Otto")
    of_nora = [nora[:2], [nora[2], *read_from(nora, "Nora", "faces_nora")]]
    of_otto = [otto[:2], [otto[2], *read_from(otto, "Otto", "faces", " faces=faces_nora.faces")]]
    return [Group("Nora's face", GREY, of_nora), Group("Otto's face", GREY, of_otto)]


def references() -> Json:
    name = "storynizor_sd15_reference.json"
    about = f"""# Reference faces, shuffled
As the workflow without references, and each frame also sees one of Nora's pictures, \
assigned at random, so that the face is taken over and the pose is not. plus-face needs no face recogniser.

## What to change first
- **Load Image**: three or more close-ups of one person, about square, with different poses, light and clothes.
- The **Story**, and the name in **Face Features**.
- `weight` in **Shuffled ID Injector**: 0.6 if the prompts are not followed.
- A second character: the workflow for two. Where both are in one frame, the injector needs a `layout`.
{MORE_SD15}"""
    patched = [injector(BATCH.model, "adapter.adapter"), amsa("injector.model")]
    return graph(
        name,
        [note(name, about, 640), checkpoint(BATCH, ckpt_name=SD15)],
        [
            [batch(BATCH, **NORA), faces(), together([patched, sampling(BATCH, "amsa.model")])],
            [finished(700), *looked_at(BATCH, 700)],
        ],
    )


def two_characters() -> Json:
    name = "storynizor_sd15_reference_two_characters.json"
    about = f"""# Two reference faces
As the workflow with one face, drawn twice from the same noise: first without faces, to find who is where, and then \
with each face in its own character's mask.

## What to change first
- **Load Image**: three or more close-ups of each person, about square, with different poses, light and clothes.
- The **Story**: one line per character, descriptions as unlike as you can make them; the names again in both \
**Face Features**.
- `seed` in both **KSampler** nodes: the same in both, as everything else there, or the masks do not fit.
- Someone is not found: lower `box_threshold`, or set `on_missing` to "skip".
- Poses become alike: lower `end_percent` or `strength` in **AMSA Model Patch**.
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
    first = [amsa(BATCH.model), *sampling(BATCH, "amsa.model", "_first")]
    one_by_one = {"title": "Frames one by one", "size": (340, 0)}
    parted = [
        node("frames", "StoryFrames", "story=story.story", size=(340, 0)),
        node("template", "RebatchImages", "images=decoded_first.IMAGE", **one_by_one),
    ]
    again = [injector("amsa.model", "adapter.adapter", " layout=layout.layout"), *sampling(BATCH, "injector.model")]
    nora, otto = two_faces()
    models = checkpoint(BATCH, ckpt_name=SD15)
    return graph(
        name,
        [note(name, about, 720), models._replace(title="Models", columns=[[*models.columns[0], *loaders()]])],
        [
            [batch(BATCH, **text), nora, otto, Group("2 · Draw without faces", VIOLET, [first])],
            [
                Group("3 · Part the batch", VIOLET, [parted]),
                who_is_where(BATCH),
                Group("5 · Draw with faces", VIOLET, [again]),
                Group("6 · The frames", ROSE, [[frames()], [sheet(BATCH, "frames")]]),
            ],
        ],
    )


def one_face(world: World) -> Group:
    """A portrait of the character, and the story with this face in all frames."""
    drawn = f"model={world.portraits} clip={world.clip} vae={world.vae} story=story.story"
    seen = "images=portrait.portraits clip_vision=toy.clip_vision"
    known = {"face_models": "toy world", "crop": "found face", "size": (340, 0)}
    columns = [
        [world.node("portrait", "CharacterPortraits", drawn, title="A portrait", size=(340, 0), count=1, seed=16)],
        [node("faces", "FaceFeatures", seen, **known), injector(world.model, "toy.adapter")],
        [amsa("injector.model"), *sampling(world, "amsa.model")],
    ]
    return Group("4 · Together, with one face", ROSE, columns)


def compared(world: World) -> Group:
    """The three ways below each other, and the portrait next to them."""
    ways = "_alone", "_together", ""
    batched = " ".join(f"images.image{n}=decoded{way}.IMAGE" for n, way in enumerate(ways))
    rows = {"title": "Rows: by itself, together, with one face", "size": (940, 620), "captions": False}
    portrait = {"title": "The portrait, larger", "size": (340, 0), "columns": 1, "captions": False}
    columns = [
        [node("ways", "BatchImagesNode", batched, size=(340, 106)), frames(340)],
        [world.node("sheet", "StorySheet", "images=ways.IMAGE", **rows)],
        [world.node("larger", "StorySheet", "images=portrait.portraits", **portrait)],
    ]
    return Group("5 · Compare", AMBER, columns)


def toy_world() -> Json:
    name = "toyworld_storynizor.json"
    about = """# Frames that see each other, in the toy world
One story in three ways from the same noise, below each other in **5 · Compare**: each frame by itself; all frames \
together with AMSA, a small change; together and with the face of a portrait, which the Shuffled ID Injector puts into \
all of them. Small networks that come with the pack: nothing to download, no GPU, done in under a minute.

## What to change first
- `seed` in **A portrait**: somebody else, in all frames of the last row.
- The **Story**, in the words the networks know: man, woman, boy, girl, robot; black, brown, blond, red, white hair \
(a robot has a lamp); standing, waving, sitting, jumping; beach, forest, city, kitchen, garden, snow; dog, cat, ball, \
balloon, kite; at night.
- `seed` in the three **KSampler** nodes: the same in all, to compare.
- `weight` in **Shuffled ID Injector**; `strength` and `end_percent` in **AMSA Model Patch**.
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
    world = BATCH_TOY
    shared = [amsa(world.model, "_together"), *sampling(world, "amsa_together.model", "_together")]
    loader = Group("The toy world", GREY, [[node("toy", "ToyWorldLoader", size=(420, 0))]])
    return graph(
        name,
        [note(name, about, 480), loader],
        [
            [
                batch(world, **text),
                Group("2 · Each frame by itself", GREY, [sampling(world, world.model, "_alone")]),
                Group("3 · Together", VIOLET, [shared]),
                one_face(world),
            ],
            [compared(world), glow(world, 420, 6)],
        ],
    )


STORYNIZOR = {
    "storynizor_sd15.json": prompt_only,
    "storynizor_sd15_reference.json": references,
    "storynizor_sd15_reference_two_characters.json": two_characters,
    "storynizor_sdxl.json": large,
    "toyworld_storynizor.json": toy_world,
}
