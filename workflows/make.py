"""Writes the workflows of this folder: `python workflows/make.py [FOLDER]`."""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from graph import Group, Json, Node, graph, node, stored

HERE = Path(__file__).parent
MODELS = json.loads((HERE.parent / "models.json").read_text(encoding="utf-8"))["files"]
BLUE, GREEN, VIOLET, AMBER, ROSE, GREY = "#5fa8d9", "#6cc486", "#a593ec", "#e0a94e", "#e07a92", "#9aa3b2"

DOWNLOAD = "Or in this pack's folder `python core/weights.py download ID`, then R in ComfyUI. The ids:"
TRY_QUICKLY = """- **Quick try**: Character Portraits `count` 16, `steps` 25; Identity Discovery \
`rank_too_large` "lower it". The values set here are the paper's."""
POSE = "control_net=controlnet.CONTROL_NET image=pose.IMAGE"


class World(NamedTuple):
    """Where a workflow's models come from, and the values that differ from the nodes' own, by kind of node."""

    model: str
    portraits: str
    clip: str
    vae: str
    photomaker: str
    generator: str
    detector: str
    identity: str
    values: dict[str, Json]

    def node(self, key: str, kind: str, links: str = "", **settings: Any) -> Node:
        return node(key, kind, links, **{**self.values.get(kind, {}), **settings})


SDXL = World(
    model="sdxl.MODEL",
    portraits="freeu.MODEL",
    clip="sdxl.CLIP",
    vae="sdxl.VAE",
    photomaker="photomaker.photomaker",
    generator="photomaker.model",
    detector="detector.detector",
    identity="saved",
    values={},
)
GUIDED = {"cfg": 4.0, "scheduler": "simple"}
TOY = World(
    model="toy.model",
    portraits="toy.model",
    clip="toy.clip",
    vae="toy.vae",
    photomaker="toy.photomaker",
    generator="toy.identity_model",
    detector="toy.detector",
    identity="identity",
    values={
        "CharacterPortraits": {
            **{"batch_size": 32, "steps": 20, **GUIDED, "width": 64, "height": 64, "negative": ""},
        },
        "EmptyLatentImage": {"width": 64, "height": 64},
        "NoisyLatentCache": {"steps": 25, **GUIDED, "keep_from_step": 5},
        "IdentityDiscovery": {"rank": 3},
        "GroundedSAMLayout": {"box_threshold": 0.0, "text_threshold": 0.0, "dilate_px": 1},
        "Redenoise": {"start": 5, "cfg": 4.0},
        "StorySheet": {"columns": 4, "cell_width": 256},
    },
)


def note(name: str, text: str, height: int) -> Group:
    """What the workflow does, the files it needs and where they belong."""
    needed = [file for file in MODELS if name in file["used_by"]]
    lines = [f"- `{file['folder']}/` [{file['name']}]({file['url']}){_size(file)}{_renamed(file)}" for file in needed]
    ids = ", ".join(f"`{file['id']}`" for file in needed)
    files = ["", "## Files", "Into the folders of `ComfyUI/models`:", "", *lines, "", DOWNLOAD, ids] if needed else []
    written = "\n".join([text, *files])
    return Group("", "", [[node("note", "MarkdownNote", title="Read me", size=(460, height), text=written)]])


def _size(file: Json) -> str:
    size = file["size"] or 0
    text = f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB" if size >= 1e6 else file["size_about"]
    return f", {text}" if text else ""


def _renamed(file: Json) -> str:
    return "" if file["url"].endswith(f"/{file['name']}") else ", saved under this name"


def models() -> Group:
    return Group(
        "Models",
        GREY,
        [
            [
                node("sdxl", "CheckpointLoaderSimple", size=(420, 0)),
                node("freeu", "FreeU", "model=sdxl.MODEL", size=(420, 0)),
                node("photomaker", "PhotoMakerLoader", "model=sdxl.MODEL", size=(420, 0)),
            ]
        ],
    )


def story(**texts: str) -> Group:
    written = node("story", "Story", size=(420, 430), **texts)
    return Group("1 · The story", BLUE, [[written, node("frames", "StoryFrames", "story=story.story", size=(420, 0))]])


def discovery(name: str = "", seed: int = 1, world: World = SDXL) -> list[list[Node]]:
    """From the base model to one character's identity."""
    drawn, found = f"portraits{name}", f"identity{name}"
    links = f"portraits={drawn}.portraits photomaker={world.photomaker} name={drawn}.name"
    saved = node(f"saved{name}", "SaveIdentity", f"identity={found}.identity", size=(320, 0))
    return [
        [
            world.node(
                drawn,
                "CharacterPortraits",
                f"model={world.portraits} clip={world.clip} vae={world.vae} story=story.story",
                size=(340, 0),
                character=name,
                seed=seed,
            )
        ],
        [
            world.node(found, "IdentityDiscovery", f"{links} description={drawn}.description", size=(320, 0)),
            *([saved] if world.identity == "saved" else []),
            node(f"report{name}", "PreviewAny", f"source={found}.report", title="Report", size=(320, 180)),
        ],
        [node(f"kept{name}", "PreviewImage", f"images={found}.kept", title="Kept portraits", size=(380, 0))],
    ]


def template(posed: bool = False, world: World = SDXL) -> Group:
    """The frame as the base model draws it."""
    positive, negative = "prompt.CONDITIONING", "negative.CONDITIONING"
    pose = f"positive={positive} negative={negative} {POSE}"
    passed = node("posed", "ControlNetApplyAdvanced", pose, title="Pose, first pass")
    positive, negative = ("posed.positive", "posed.negative") if posed else (positive, negative)
    links = f"model={world.model} positive={positive} negative={negative} latent_image=empty.LATENT seed=frames.seed"
    return Group(
        "3 · Draw the template",
        VIOLET,
        [
            [
                node("prompt", "CLIPTextEncode", f"clip={world.clip} text=frames.prompt", title="Frame's prompt"),
                node("negative", "CLIPTextEncode", f"clip={world.clip} text=frames.negative", title="Frame's negative"),
                *([passed] if posed else []),
                world.node("empty", "EmptyLatentImage"),
            ],
            [
                world.node("cache", "NoisyLatentCache", links, size=(380, 0)),
                node("template", "VAEDecode", f"samples=cache.latent vae={world.vae}", size=(380, 0)),
                node("template_shown", "PreviewImage", "images=template.IMAGE", title="Templates", size=(380, 0)),
            ],
        ],
    )


def who_is_where(world: World = SDXL) -> Group:
    loader = node("detector", "GroundedSAMLoader", size=(340, 0))
    return Group(
        "4 · Find who is where",
        AMBER,
        [
            [
                *([loader] if world.detector == "detector.detector" else []),
                world.node(
                    "layout",
                    "GroundedSAMLayout",
                    f"image=template.IMAGE detector={world.detector} frame=frames.frame",
                    size=(340, 0),
                ),
                node("layout_shown", "PreviewImage", "images=layout.preview", title="Layouts", size=(340, 0)),
            ]
        ],
    )


def put_in(*names: str, posed: bool = False, world: World = SDXL) -> Group:
    """The second pass: one Identity Conditioning and one Cast for each character."""
    prompts, poses, cast, before = [], [], [], ""
    for name in names:
        who = f"identity={world.identity}{name}.identity"
        links = f"clip={world.clip} photomaker={world.photomaker} {who} frame=frames.frame"
        prompts.append(node(f"fused{name}", "IdentityConditioning", links))
        tied = f"positive=fused{name}.positive negative=negative.CONDITIONING"
        if posed:
            again = f"posed{name}_again"
            poses.append(node(again, "ControlNetApplyAdvanced", f"{tied} {POSE}", title="Pose, second pass"))
            tied = f"positive={again}.positive negative={again}.negative"
        cast.append(node(f"cast{name}", "Cast", f"{who} {tied}{before}"))
        before = f" cast=cast{name}.cast"
    links = f"model={world.generator} cache=cache.cache layout=layout.layout{before}"
    again = world.node("again", "Redenoise", links)
    decoded = node("frame", "VAEDecode", f"samples=again.latent vae={world.vae}")
    done = "StoryIdentity/frame", "StoryIdentity/sheet"
    saved = node(
        "finished", "SaveImage", "images=frame.IMAGE", title="Finished frames", filename_prefix=done[0], size=(420, 0)
    )
    sheet = world.node("sheet", "StorySheet", "images=frame.IMAGE frames=frames.frame", size=(420, 0))
    saved_sheet = node(
        "saved_sheet", "SaveImage", "images=sheet.sheet", title="Save the sheet", filename_prefix=done[1], size=(420, 0)
    )
    columns = [[*prompts, *poses], [*cast, again, decoded], [saved], [sheet, saved_sheet]]
    return Group("5 · Put the identity in", ROSE, columns)


def finding(columns: list[list[Node]], whom: str = "") -> Group:
    return Group("2 · Find the identity" + (f" of {whom}" if whom else ""), GREEN, columns)


def one_character() -> Json:
    name = "identitystory_sdxl.json"
    about = f"""# One character, one story
IdentityStory with SDXL: a face is found from text alone, then put into every frame; the rest of each picture stays \
as the base model drew it.

## What to change first
- The **Story**: one character line, one prompt per line. A frame may show nobody.
- **Story Frames** `frames`: "2" makes frame 2 alone; its seed stays.
{TRY_QUICKLY}
- The identity is saved in `models/identities`. For the next story, put Load Identity in place of group 2.
- Someone is not found: lower `box_threshold`, or set `on_missing` to "skip"."""
    text = {
        "characters": "Ines | woman | a woman with curly grey hair, freckles and a yellow raincoat",
        "prompts": (
            "Ines climbs the spiral stairs of a lighthouse, carrying an oil lamp\n"
            "a lighthouse on a cliff in a storm, high waves, nobody around\n"
            "Ines looks through a brass telescope, rain on the window\n"
            "Ines rows a small wooden boat between the waves at dusk\n"
            "Ines wraps a wet puppy in a blanket, in the warm light of a stove\n"
            "Ines drinks tea on the steps of the lighthouse, a puppy beside her, calm sea at sunrise"
        ),
        "style": "cinematic photo",
    }
    return graph(
        name,
        [note(name, about, 640), models()],
        [
            [story(**text), finding(discovery())],
            [template(), who_is_where(), put_in("")],
        ],
    )


def two_characters() -> Json:
    name = "identitystory_sdxl_two_characters.json"
    about = f"""# Two characters
As the workflow for one character, with a second group 2, a second Identity Conditioning and a chain of two Cast \
nodes. Frames may show both, one of them, or nobody.

## What to change first
- The **Story**: one line per character, `name | class word | description`.
- The names again in `character` of both **Character Portraits**.
{TRY_QUICKLY}
- A third character: one more group 2, Identity Conditioning and Cast."""
    text = {
        "characters": (
            "Ada | woman | a young woman with black braids and a red coat\n"
            "Otto | man | an old man with a white beard and a blue cap"
        ),
        "prompts": (
            "Ada and Otto repair a bicycle in a cluttered workshop\n"
            "Ada rides a bicycle down a steep cobbled street, laughing\n"
            "a bicycle leaning against a fountain in an empty square at noon\n"
            "Otto searches behind a market stall, puzzled\n"
            "Ada and Otto share ice cream on a bench in the evening sun"
        ),
        "style": "cinematic photo",
    }
    return graph(
        name,
        [note(name, about, 640), models()],
        [
            [
                story(**text),
                finding(discovery("Ada", 1), "Ada"),
                finding(discovery("Otto", 1001), "Otto"),
            ],
            [template(), who_is_where(), put_in("Ada", "Otto")],
        ],
    )


def with_a_pose() -> Json:
    name = "identitystory_controlnet_pose.json"
    about = f"""# A pose, in both passes
The same ControlNet on the template's prompts and on the identity's, so that the second pass keeps the pose of the \
first. Any ControlNet fits here, and any number of them.

## What to change first
- **Pose**: a picture of an OpenPose skeleton, black behind it, at the size of the frames.
- The **Story**. The pose holds for all frames of a run, so every frame here shows one person; for a pose of its own \
set **Story Frames** `frames` to "1", "2" ... and change the picture.
{TRY_QUICKLY}"""
    text = {
        "characters": "Leo | man | a tall man with short blond hair, a moustache and a grey suit",
        "prompts": (
            "Leo stands on a stage under a spotlight, full body\n"
            "Leo stands in deep snow among fir trees, full body\n"
            "Leo stands on the deck of a sailing ship, full body\n"
            "Leo stands on the moon, the earth in the black sky, full body"
        ),
        "style": "cinematic photo",
    }
    picture = [node("controlnet", "ControlNetLoader", size=(420, 0)), node("pose", "LoadImage", size=(420, 560))]
    pose = Group("The pose", GREY, [picture])
    return graph(
        name,
        [],
        [
            [note(name, about, 640), models(), story(**text), finding(discovery())],
            [pose, template(posed=True), who_is_where(), put_in("", posed=True)],
        ],
    )


def identity_only() -> Json:
    name = "identity_from_text.json"
    about = """# A face from a sentence
Draws 64 portraits, keeps those that agree on one face, and saves it as an identity: a few kilobytes that any of the \
other workflows can load.

## What to change first
- The **Story**: the character line. The prompt is not used here, but a story has at least one.
- `seed` in **Character Portraits**: other portraits, another face.
- **Quick try**: `count` 16 and `steps` 25, and `rank_too_large` "lower it" in Identity Discovery.
- Your own pictures: Load Image in place of Character Portraits, and the name typed in."""
    text = {
        "characters": "Mira | woman | a young woman with short red hair, green eyes and freckles",
        "prompts": "Mira looks into the camera",
    }
    found = finding(discovery())
    return graph(
        name,
        [],
        [
            [
                note(name, about, 480),
                models(),
                Group("1 · The story", BLUE, [[node("story", "Story", size=(420, 0), **text)]]),
                found,
            ]
        ],
    )


def toy_world() -> Json:
    name = "toyworld_quickstart.json"
    about = """# The whole path in the toy world
Small networks that come with the pack and draw 64-pixel people: nothing to download, no GPU, done in about a minute. \
The nodes are those of the SDXL workflows; only the loader and the sizes differ.

## What to change first
- The **Story**, in the words the networks know: man, woman, boy, girl, robot; black, brown, blond, red, white hair \
(a robot has a lamp); standing, waving, sitting, jumping; beach, forest, city, kitchen, garden, snow; dog, cat, ball, \
balloon, kite; at night.
- `seed` in **Story Frames**: other pictures. `seed` in **Character Portraits**: other faces.
- `start` in **Progressive-Mask Re-denoise**: lower, the identity is stronger; higher, the frame stays closer to its \
template."""
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
    loader = Group("The toy world", GREY, [[node("toy", "ToyWorldLoader", size=(420, 0))]])
    return graph(
        name,
        [note(name, about, 520), loader],
        [
            [
                story(**text),
                finding(discovery("Mira", 1, TOY), "Mira"),
                finding(discovery("Pip", 1001, TOY), "Pip"),
            ],
            [template(world=TOY), who_is_where(TOY), put_in("Mira", "Pip", world=TOY)],
        ],
    )


MAKERS = {
    "identitystory_sdxl.json": one_character,
    "identitystory_sdxl_two_characters.json": two_characters,
    "identitystory_controlnet_pose.json": with_a_pose,
    "identity_from_text.json": identity_only,
    "toyworld_quickstart.json": toy_world,
}

if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    for file_name, make in MAKERS.items():
        (folder / file_name).write_text(stored(make()), encoding="utf-8", newline="\n")
