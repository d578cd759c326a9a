"""The workflows whose frames run one by one, as copies of the nodes between Each Frame and Collect Frames."""

from .graph import Group, graph, node
from .groups import AMBER, BLUE, GREY, SIDES, VIOLET, note
from .schemas import Json

PREFIX = "StoryIdentity/toy story"


def toy_world() -> Json:
    name = "toyworld_each_frame.json"
    about = """# Frame by frame, in the toy world
The nodes between **Each Frame** and **Collect Frames** run once per frame. Each frame is saved as soon as it is \
finished. Small networks that come with the pack: nothing to download, no GPU.

## What to try first
- Press Run. Then change one line of the **Story** and press Run again: only that frame is drawn.
- Insert a line, delete one, move one: the other pictures stay as they are.
- Interrupt, and press Run: it goes on where it was, even after a restart of ComfyUI.
- `seed 7 | Mira waving in the garden` gives a frame a seed of its own.

The networks know these words: man, woman, boy, girl, robot; black, brown, blond, red, white hair (a robot has a \
lamp); standing, waving, sitting, jumping; beach, forest, city, kitchen, garden, snow; dog, cat, ball, balloon, kite; \
at night."""
    text = {
        "characters": "Mira | woman | a woman with red hair\nPip | robot | a robot with a white lamp",
        "prompts": (
            "Mira waving and Pip in the garden with a balloon\n"
            "Mira sitting on the beach with a dog\n"
            "Pip jumping in the snow\n"
            "Mira and Pip jumping in the city at night"
        ),
        "negative": "",
    }
    sampled = "model=toy.model positive=encoded.positive negative=encoded.negative latent_image=empty.LATENT"
    guided = {"steps": 25, "cfg": 4.0, "scheduler": "simple"}
    loader = Group("The toy world", GREY, [[node("toy", "ToyWorldLoader", size=(360, 0))]])
    drawing = [
        [
            node("each", "EachFrame", "story=story.story", size=(320, 0), seed=1),
            node("encoded", "EncodeFrame", "clip=toy.clip frame=each.frame", size=(320, 0)),
            node("empty", "EmptyLatentImage", size=(320, 0), **SIDES),
        ],
        [
            node("drawn", "KSampler", f"{sampled} seed=each.seed", size=(320, 0), **guided),
            node("decoded", "VAEDecode", "samples=drawn.LATENT vae=toy.vae", size=(320, 0)),
            node("saved", "SaveFrame", "images=decoded.IMAGE", size=(320, 0), filename_prefix=PREFIX),
        ],
    ]
    shown = "images=collected.value_1 frames=collected.frames"
    collected = [
        node("collected", "CollectFrames", "value_1=saved.images", size=(480, 0)),
        node("sheet", "StorySheet", shown, size=(480, 0), columns=2, cell_width=256),
    ]
    return graph(
        name,
        [note(name, about, 520, wide=384), loader],
        [
            [
                Group("1 · The story", BLUE, [[node("story", "Story", size=(420, 620), **text)]]),
                Group("2 · Each frame", VIOLET, drawing),
                Group("3 · All frames", AMBER, [collected]),
            ]
        ],
    )


EACH_FRAME = {"toyworld_each_frame.json": toy_world}
