"""The groups of nodes that the workflows are put together from, and the note next to them."""

from typing import Any, NamedTuple

from .graph import MODELS, Group, Node, node
from .schemas import Json

BLUE, GREEN, VIOLET, AMBER, ROSE, GREY = "#5fa8d9", "#6cc486", "#a593ec", "#e0a94e", "#e07a92", "#9aa3b2"

DOWNLOAD = "Or in this pack's folder `python core/weights.py download ID`, then R in ComfyUI. The ids:"
TRY_QUICKLY = """- **Quick try**: Character Portraits `count` 16, `steps` 25; Identity Discovery \
`rank_too_large` "lower it". The values set here are the paper's."""
FIND = "4 · Find who is where"
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
    values={
        "NoisyLatentCache": {"keep_from_step": 10.0},
        "Redenoise": {"start": 10.0},
        "StorySheet": {"columns": 3},
    },
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
        "NoisyLatentCache": {"steps": 25, **GUIDED, "keep_from_step": 5.0},
        "IdentityDiscovery": {"rank": 3},
        "GroundedSAMLayout": {"box_threshold": 0.0, "text_threshold": 0.0, "dilate_px": 1},
        "Redenoise": {"start": 5.0, "cfg": 4.0},
        "StorySheet": {"columns": 4, "cell_width": 256},
    },
)


def note(name: str, text: str, height: int) -> Group:
    """What the workflow does, the files it needs and where they belong."""
    needed = [file for file in MODELS if name in file["used_by"]]
    lines = [f"- `{file['folder']}/` [{file['name']}]({file['url']}){_about(file)}" for file in needed]
    ids = ", ".join(f"`{file['id']}`" for file in needed)
    files = ["", "## Files", "Into the folders of `ComfyUI/models`:", "", *lines, "", DOWNLOAD, ids] if needed else []
    written = "\n".join([text, *files])
    return Group("", "", [[node("note", "MarkdownNote", title="Read me", size=(460, height), text=written)]])


def _about(file: Json) -> str:
    licence = f", **{file['licence']}**" if file["non_commercial"] else ""
    return f"{_size(file)}{_renamed(file)}{licence}"


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


def template(posed: bool = False, world: World = SDXL, maps: bool = False) -> Group:
    """The frame as the base model draws it, on request with the attention maps that say who is where."""
    texts = [
        node("prompt", "CLIPTextEncode", f"clip={world.clip} text=frames.prompt", title="Frame's prompt"),
        node("negative", "CLIPTextEncode", f"clip={world.clip} text=frames.negative", title="Frame's negative"),
    ]
    positive, negative = "prompt.CONDITIONING", "negative.CONDITIONING"
    if maps:
        texts = [node("encoded", "EncodeFrame", f"clip={world.clip} frame=frames.frame")]
        positive, negative = "encoded.positive", "encoded.negative"
    pose = f"positive={positive} negative={negative} {POSE}"
    passed = node("posed", "ControlNetApplyAdvanced", pose, title="Pose, first pass")
    positive, negative = ("posed.positive", "posed.negative") if posed else (positive, negative)
    links = f"model={world.model} positive={positive} negative={negative} latent_image=empty.LATENT seed=frames.seed"
    return Group(
        "3 · Draw the template",
        VIOLET,
        [
            [
                *texts,
                *([passed] if posed else []),
                world.node("empty", "EmptyLatentImage"),
            ],
            [
                world.node("cache", "NoisyLatentCache", links, size=(380, 0), keep_attention_maps=maps),
                node("template", "VAEDecode", f"samples=cache.latent vae={world.vae}", size=(380, 0)),
                node("template_shown", "PreviewImage", "images=template.IMAGE", title="Templates", size=(380, 0)),
            ],
        ],
    )


def who_is_where(world: World = SDXL) -> Group:
    loader = node("detector", "GroundedSAMLoader", size=(340, 0))
    return Group(
        FIND,
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


def from_attention() -> Group:
    """Who is where, from the maps that the template's pass kept."""
    links = "cache=cache.cache image=template.IMAGE frame=frames.frame"
    found = node("layout", "LayoutFromAttention", links, size=(340, 0))
    shown = node("layout_shown", "PreviewImage", "images=layout.preview", title="Layouts", size=(340, 0))
    return Group(FIND, AMBER, [[found, shown]])


def put_in(*names: str, posed: bool = False, world: World = SDXL, negative: str = "negative.CONDITIONING") -> Group:
    """The second pass: one Identity Conditioning and one Cast for each character."""
    prompts, poses, cast, before = [], [], [], ""
    for name in names:
        who = f"identity={world.identity}{name}.identity"
        links = f"clip={world.clip} photomaker={world.photomaker} {who} frame=frames.frame"
        prompts.append(node(f"fused{name}", "IdentityConditioning", links))
        tied = f"positive=fused{name}.positive negative={negative}"
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
