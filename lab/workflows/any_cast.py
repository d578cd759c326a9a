"""The workflow of the whole path for any number of characters: one node finds all identities, one makes every cast."""

from .graph import Group, graph, node
from .groups import AMBER, BLUE, GREEN, GREY, TOY, VIOLET, note
from .schemas import Json

PREFIX = "StoryIdentity/toy cast"


def toy_world() -> Json:
    name = "toyworld_story.json"
    about = """# A story of any cast, in the toy world
**Find Identity** finds everybody of **Characters**, **Story Cast** chooses who is in a frame: a fourth character is \
one more line. Small networks that come with the pack: nothing to download, no GPU.

## What to try first
- Press Run. Then change one line of the **Story** and press Run again: only that frame is drawn.
- Add a line to **Characters**: only that identity is found. Rename somebody, in Characters and in the Story: nothing \
is drawn.
- Restart ComfyUI and press Run: identities are read from `models/identities`, frames from the disk.
- `seed` in **Find Identity**: other faces. `seed` in **Each Frame**: other pictures.

The networks know these words: man, woman, boy, girl, robot; black, brown, blond, red, white hair (a robot has a \
lamp); standing, waving, sitting, jumping; beach, forest, city, kitchen, garden, snow; dog, cat, ball, balloon, kite; \
at night."""
    people = (
        "Mira | woman | a woman with red hair",
        "Pip | robot | a robot with a white lamp",
        "Ben | boy | a boy with black hair",
    )
    prompts = (
        "Mira waving and Pip in the garden with a balloon\n"
        "Ben sitting on the beach with a dog\n"
        "Pip jumping in the snow\n"
        "Mira and Ben jumping in the city at night"
    )
    models = "model=toy.model clip=toy.clip vae=toy.vae encoder=toy.photomaker characters=people.characters"
    sampled = "model=toy.model positive=encoded.positive negative=encoded.negative latent_image=empty.LATENT"
    given = "identities=found.identities frame=each.frame clip=toy.clip negative=encoded.negative"
    seen = "image=template.IMAGE detector=toy.detector frame=each.frame"
    again = "model=toy.identity_model cast=cast.cast cache=cache.cache layout=layout.layout"
    finding = {**TOY.values["CharacterPortraits"], **TOY.values["IdentityDiscovery"], "seed": 1}
    typed = {"characters": "", "prompts": prompts, "negative": ""}
    story = node("story", "Story", "character_list=people.characters", size=(420, 400), **typed)
    drawing = [
        [
            node("each", "EachFrame", "story=story.story", size=(320, 0), seed=1),
            node("encoded", "EncodeFrame", "clip=toy.clip frame=each.frame", size=(320, 0)),
            TOY.node("empty", "EmptyLatentImage", size=(320, 0)),
        ],
        [
            TOY.node("cache", "NoisyLatentCache", f"{sampled} seed=each.seed", size=(340, 0)),
            node("template", "VAEDecode", "samples=cache.latent vae=toy.vae", size=(340, 0)),
        ],
        [
            TOY.node("layout", "GroundedSAMLayout", seen, size=(340, 0)),
            node("cast", "StoryCast", f"{given} photomaker=toy.photomaker", size=(340, 0)),
        ],
        [
            TOY.node("again", "Redenoise", again, size=(320, 0)),
            node("decoded", "VAEDecode", "samples=again.latent vae=toy.vae", size=(320, 0)),
        ],
        [
            node("saved", "SaveFrame", "images=decoded.IMAGE", size=(320, 0), filename_prefix=PREFIX),
            node("collected", "CollectFrames", "value_1=saved.images", size=(320, 230)),
        ],
    ]
    sheet = TOY.node(
        "sheet", "StorySheet", "images=collected.value_1 frames=collected.frames", size=(640, 0), columns=2
    )
    return graph(
        name,
        [
            note(name, about, 560),
            Group("The toy world", GREY, [[node("toy", "ToyWorldLoader", size=(420, 0))]]),
        ],
        [
            [
                Group(
                    "1 · The story",
                    BLUE,
                    [[node("people", "Characters", size=(420, 130), characters="\n".join(people)), story]],
                ),
                Group("2 · Who they are", GREEN, [[node("found", "FindIdentity", models, size=(420, 900), **finding)]]),
                Group("4 · All frames", AMBER, [[sheet]]),
            ],
            [Group("3 · Each frame", VIOLET, drawing)],
        ],
    )


ANY_CAST = {"toyworld_story.json": toy_world}
