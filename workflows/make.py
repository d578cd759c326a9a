"""Writes the workflows of this folder, in the form in which ComfyUI's editor saves them: `python workflows/make.py`.

A graph is described by groups of nodes in columns; ids, slots and places follow from that, so that nothing overlaps.
"""

import json
import uuid
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
MODELS = json.loads((HERE.parent / "models.json").read_text(encoding="utf-8"))["files"]
VERSIONS = {"comfy-core": "0.31.0", "storyidentity": "0.1.0"}  # of the nodes as they are described here
FRONT_END = "1.48.7"

TITLE, SLOT, WIDGET, LINES, GAP, BETWEEN, PADDING, HEADER = 30, 20, 24, 54, 20, 50, 20, 40
BLUE, GREEN, VIOLET, AMBER, ROSE, GREY = "#3f789e", "#4a8a5c", "#6c5b9e", "#a1773b", "#a1475e", "#5b6270"

Json = dict[str, Any]


class Choice(str):
    """A value from a list."""


class Lines(str):
    """Text with several lines."""


class Upload(str):
    """The button under a picture."""


class Seed(int):
    """A number that the editor may change after a run; here it never does."""


class Kind(NamedTuple):
    """What a node looks like: `name:TYPE` for each socket (`?` if it is optional, `*` for a list), default values."""

    inputs: str
    widgets: Json
    outputs: str


SAMPLER = {"sampler_name": Choice("euler"), "scheduler": Choice("normal")}
CORE = {
    "CheckpointLoaderSimple": Kind("", {"ckpt_name": Choice("sd_xl_base_1.0.safetensors")}, "MODEL CLIP VAE"),
    "FreeU": Kind("model:MODEL", {"b1": 1.1, "b2": 1.2, "s1": 0.6, "s2": 0.4}, "MODEL"),
    "CLIPTextEncode": Kind("clip:CLIP", {"text": Lines()}, "CONDITIONING"),
    "EmptyLatentImage": Kind("", {"width": 1024, "height": 1024, "batch_size": 1}, "LATENT"),
    "VAEDecode": Kind("samples:LATENT vae:VAE", {}, "IMAGE"),
    "SaveImage": Kind("images:IMAGE", {"filename_prefix": ""}, "images:IMAGE"),
    "PreviewImage": Kind("images:IMAGE", {}, "images:IMAGE"),
    "PreviewAny": Kind("source:*", {}, "STRING"),
    "LoadImage": Kind("", {"image": Choice("pose.png"), "upload": Upload("image")}, "IMAGE MASK"),
    "ControlNetLoader": Kind(
        "", {"control_net_name": Choice("controlnet-openpose-sdxl-1.0.safetensors")}, "CONTROL_NET"
    ),
    "ControlNetApplyAdvanced": Kind(
        "positive:CONDITIONING negative:CONDITIONING control_net:CONTROL_NET image:IMAGE vae:VAE?",
        {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0},
        "positive:CONDITIONING negative:CONDITIONING",
    ),
    "MarkdownNote": Kind("", {"text": Lines()}, ""),
}
OURS = {
    "Story": Kind(
        "",
        {
            **{"story_file": Choice("(typed in below)"), "characters": Lines(), "prompts": Lines(), "style": ""},
            **{"negative": Lines("noisy, blurry, soft, deformed, ugly")},
        },
        "story:STORY",
    ),
    "StoryFrames": Kind(
        "story:STORY",
        {"frames": "all", "seed": Seed(1)},
        "frame:STORY_FRAME* prompt:STRING* negative:STRING* seed:INT*",
    ),
    "CharacterPortraits": Kind(
        "model:MODEL clip:CLIP vae:VAE story:STORY",
        {
            **{"character": "", "count": 64, "batch_size": 4, "seed": Seed(1), "steps": 50, "cfg": 5.0, **SAMPLER},
            **{"width": 1024, "height": 1024, "template": "a close-up photo of {character}"},
            **{"negative": Lines("3d, cartoon, anime, sketches, illustration, painting")},
        },
        "portraits:IMAGE name:STRING description:STRING",
    ),
    "PhotoMakerLoader": Kind(
        "model:MODEL",
        {"photomaker_name": Choice("photomaker-v1.bin"), "lora_strength": 1.0},
        "model:MODEL photomaker:PHOTOMAKER",
    ),
    "IdentityDiscovery": Kind(
        "portraits:IMAGE photomaker:PHOTOMAKER",
        {
            **{"name": "", "description": "", "rank": 10, "keep_ratio": 0.6, "iterations": 3},
            **{"rank_too_large": Choice("error")},
        },
        "identity:IDENTITY kept:IMAGE report:STRING",
    ),
    "SaveIdentity": Kind("identity:IDENTITY", {"filename": "", "overwrite": False}, "identity:IDENTITY path:STRING"),
    "IdentityConditioning": Kind(
        "clip:CLIP photomaker:PHOTOMAKER identity:IDENTITY frame:STORY_FRAME?",
        {"text?": Lines(), "class_word?": ""},
        "positive:CONDITIONING",
    ),
    "NoisyLatentCache": Kind(
        "model:MODEL positive:CONDITIONING negative:CONDITIONING latent_image:LATENT "
        "noise:NOISE? sampler:SAMPLER? sigmas:SIGMAS?",
        {
            **{"seed": Seed(0), "steps": 50, "cfg": 7.0, **SAMPLER, "denoise": 1.0, "keep_from_step": 10},
            **{"precision": Choice("float32")},
        },
        "latent:LATENT cache:NOISY_LATENT_CACHE",
    ),
    "GroundedSAMLoader": Kind(
        "",
        {
            "grounding_dino_name": Choice("groundingdino_swinb_cogcoor.pth"),
            **{"sam_name": Choice("sam_vit_h_4b8939.pth"), "engine": Choice("transformers")},
        },
        "detector:STORY_DETECTOR",
    ),
    "GroundedSAMLayout": Kind(
        "image:IMAGE detector:STORY_DETECTOR frame:STORY_FRAME?",
        {
            **{"box_threshold": 0.3, "text_threshold": 0.25, "dilate_px": 10, "on_missing": Choice("error")},
            **{"words?": ""},
        },
        "layout:STORY_LAYOUT masks:MASK preview:IMAGE",
    ),
    "Cast": Kind("identity:IDENTITY positive:CONDITIONING negative:CONDITIONING cast:CAST?", {}, "cast:CAST"),
    "Redenoise": Kind(
        "model:MODEL cast:CAST cache:NOISY_LATENT_CACHE layout:STORY_LAYOUT",
        {"start": 10, "max_kernel": 50, "cfg": 7.0, "mask_edge": Choice("hard")},
        "latent:LATENT",
    ),
    "StorySheet": Kind(
        "images:IMAGE frames:STORY_FRAME?", {"columns": 3, "cell_width": 512, "captions": True}, "sheet:IMAGE"
    ),
}


class Node(NamedTuple):
    """A node of a graph; `links` has, for each input tied to something, the key and the output it comes from."""

    key: str
    kind: str
    links: dict[str, str]
    widgets: Json
    title: str
    width: int
    height: int


class Group(NamedTuple):
    """Columns of nodes, from left to right, in a box; without a title there is no box."""

    title: str
    colour: str
    columns: list[list[Node]]


def node(
    key: str, kind: str, links: str = "", *, title: str = "", size: tuple[int, int] = (300, 0), **widgets: Any
) -> Node:
    """A node as it is written below: links such as `model=freeu.MODEL`, and the values that differ from the default."""
    known = _kind(kind)
    defaults = {name.rstrip("?"): value for name, value in known.widgets.items()}
    if unknown := widgets.keys() - defaults:
        raise ValueError(f"{key}: {kind} has no {', '.join(sorted(unknown))}")
    values = {name: type(default)(widgets.get(name, default)) for name, default in defaults.items()}
    slots = max(len(known.inputs.split()), len(known.outputs.split())) * SLOT
    rows = sum({Lines: LINES, Seed: 2 * WIDGET}.get(type(value), WIDGET) for value in values.values())
    least = slots + (rows + 14 if values else 6)
    tied = dict(pair.split("=") for pair in links.split())
    return Node(key, kind, tied, values, title, size[0], max(size[1], least))


def graph(name: str, left: list[Group], rows: list[list[Group]]) -> Json:
    """A whole workflow: groups below each other on the left, rows of groups beside them."""
    boxes: list[Json] = []
    nodes: list[tuple[Node, int, int]] = []
    y = widest = 0
    for group in left:
        width, height = _extent(group)
        nodes += _placed(group, 0, y)
        boxes += _box(group, 0, y, max(width, _extent(left[0])[0]), height)
        y, widest = y + height + BETWEEN, max(widest, width)
    y, right = 0, 0
    for row in rows:
        x, tallest = widest + BETWEEN, max(_extent(group)[1] for group in row)
        for group in row:
            width = _extent(group)[0]
            nodes += _placed(group, x, y)
            boxes += _box(group, x, y, width, tallest)
            x += width + BETWEEN
        y, right = y + tallest + BETWEEN, max(right, x)
    scale = round(min(1800 / right, 900 / y), 2)
    return {
        **{"id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"storyidentity/{name}")), "revision": 0},
        **_wired(nodes),
        "groups": [{"id": number, **box} for number, box in enumerate(boxes, start=1)],
        "config": {},
        "extra": {"ds": {"scale": scale, "offset": [60, 80]}, "frontendVersion": FRONT_END},
        "version": 0.4,
    }


def _kind(name: str) -> Kind:
    return OURS[name] if name in OURS else CORE[name]


def _extent(group: Group) -> tuple[int, int]:
    widths = [max(each.width for each in column) for column in group.columns]
    heights = [sum(TITLE + each.height + GAP for each in column) - GAP for column in group.columns]
    around = 2 * PADDING if group.title else 0
    return sum(widths) + BETWEEN * (len(widths) - 1) + around, max(heights) + around + (HEADER if group.title else 0)


def _placed(group: Group, x: int, y: int) -> list[tuple[Node, int, int]]:
    inside = PADDING if group.title else 0
    placed, left = [], x + inside
    for column in group.columns:
        top = y + inside + (HEADER if group.title else 0)
        for each in column:
            placed.append((each, left, top + TITLE))
            top += TITLE + each.height + GAP
        left += max(each.width for each in column) + BETWEEN
    return placed


def _box(group: Group, x: int, y: int, width: int, height: int) -> list[Json]:
    if not group.title:
        return []
    return [
        {"title": group.title, "bounding": [x, y, width, height], "color": group.colour, "font_size": 24, "flags": {}}
    ]


def _wired(placed: list[tuple[Node, int, int]]) -> Json:
    """The nodes with their slots and the links between them."""
    ids = {each.key: number for number, (each, _, _) in enumerate(placed, start=1)}
    if len(ids) != len(placed):
        raise ValueError("two nodes have the same key")
    outputs = {each.key: _outputs(each) for each, _, _ in placed}
    order = _order([each for each, _, _ in placed])
    links: list[list[Any]] = []
    nodes = []
    for each, x, y in placed:
        inputs = _inputs(each)
        for name, origin in each.links.items():
            slot = next(i for i, one in enumerate(inputs) if one["name"] == name)
            key, output = origin.split(".")
            start = next(i for i, one in enumerate(outputs[key]) if one["name"] == output)
            kind = outputs[key][start]["type"]
            if kind != inputs[slot]["type"] and inputs[slot]["type"] != "*":
                raise ValueError(f"{each.key}: {name} takes {inputs[slot]['type']}, {origin} gives {kind}")
            links.append([len(links) + 1, ids[key], start, ids[each.key], slot, kind])
            inputs[slot]["link"] = len(links)
            outputs[key][start]["links"] = [*(outputs[key][start]["links"] or []), len(links)]
        body = {"id": ids[each.key], "type": _type(each.kind), "pos": [x, y], "size": [each.width, each.height]}
        state = {"flags": {}, "order": order[each.key], "mode": 0, "inputs": inputs, "outputs": outputs[each.key]}
        title = {"title": each.title} if each.title else {}
        nodes.append({**body, **state, **title, "properties": _properties(each), "widgets_values": _values(each)})
        if each.kind == "MarkdownNote":
            nodes[-1] |= {"color": "#432", "bgcolor": "#653"}
    return {"last_node_id": len(nodes), "last_link_id": len(links), "nodes": nodes, "links": links}


def _type(kind: str) -> str:
    return f"StoryIdentity{kind}" if kind in OURS else kind


def _inputs(each: Node) -> list[Json]:
    kind = _kind(each.kind)
    inputs = []
    for socket in kind.inputs.split():
        name, type_ = socket.split(":")
        shape = {"shape": 7} if type_.endswith("?") else {}
        inputs.append({"name": name, **shape, "type": type_.rstrip("?"), "link": None})
    if each.kind == "MarkdownNote":
        return inputs
    names = {Choice: "COMBO", Upload: "IMAGEUPLOAD", bool: "BOOLEAN", int: "INT", Seed: "INT", float: "FLOAT"}
    for (listed, default), name in zip(kind.widgets.items(), each.widgets, strict=True):
        shape = {"shape": 7} if listed.endswith("?") else {}
        type_ = names.get(type(default), "STRING")
        inputs.append({"name": name, **shape, "type": type_, "widget": {"name": name}, "link": None})
    return inputs


def _outputs(each: Node) -> list[Json]:
    outputs = []
    for socket in _kind(each.kind).outputs.split():
        name, type_ = socket.split(":") if ":" in socket else (socket, socket)
        shape = {"shape": 6} if type_.endswith("*") else {}
        outputs.append({"name": name, **shape, "type": type_.rstrip("*"), "links": None})
    return outputs


def _properties(each: Node) -> Json:
    if each.kind == "MarkdownNote":
        return {}
    pack = "storyidentity" if each.kind in OURS else "comfy-core"
    chosen = [value for value in each.widgets.values() if isinstance(value, Choice)]
    models = [
        {"name": file["name"], "url": file["url"], "directory": file["folder"]}
        for file in MODELS
        if file["name"] in chosen
    ]
    known = {"cnr_id": pack, "ver": VERSIONS[pack], "Node name for S&R": _type(each.kind)}
    return {**known, "models": models} if models else known


def _values(each: Node) -> list[Any]:
    values: list[Any] = []
    for value in each.widgets.values():
        values += [value, "fixed"] if isinstance(value, Seed) else [value]
    return values


def _order(nodes: list[Node]) -> dict[str, int]:
    """The order in which they can run, each after all that it is tied to."""
    order: dict[str, int] = {}
    while len(order) < len(nodes):
        ready = [
            each
            for each in nodes
            if each.key not in order and all(origin.split(".")[0] in order for origin in each.links.values())
        ]
        if not ready:
            raise ValueError("the links go in a circle")
        order |= {each.key: len(order) + number for number, each in enumerate(ready)}
    return order


# ---------------------------------------------------------------------------------------------------------------------


def note(name: str, text: str, size: tuple[int, int]) -> Group:
    """What the workflow does, the files it needs and where they belong."""
    files = []
    for file in MODELS:
        if name in file["used_by"]:
            size_text = f"{file['size'] / 1e9:.2f} GB" if file["size"] else file["size_about"]
            folder = f"`{file['folder']}/`" + (f" ({size_text})" if size_text and file["size"] != 0 else "")
            files.append(f"- [{file['name']}]({file['url']}) → {folder}, id `{file['id']}`")
    text = f"""{text}

## Files
Folders of `ComfyUI/models`:
{chr(10).join(files)}

Or, in this pack's folder, for each id:
`python core/weights.py download ID`
Then press R in ComfyUI."""
    return Group("", "", [[node("note", "MarkdownNote", title="Read me", size=size, text=text)]])


TRY_QUICKLY = """- **Quick try**: in Character Portraits `count` 16 and `steps` 25, in Identity Discovery `rank_too_large` "lower it". \
Then back to the paper's values, which are the ones set here."""


def models(*more: Node) -> Group:
    return Group(
        "Models",
        GREY,
        [
            [
                node("sdxl", "CheckpointLoaderSimple"),
                node("freeu", "FreeU", "model=sdxl.MODEL"),
                node("photomaker", "PhotoMakerLoader", "model=sdxl.MODEL"),
                *more,
            ]
        ],
    )


def story(size: tuple[int, int], **texts: str) -> list[Node]:
    return [
        node("story", "Story", size=size, **texts),
        node("frames", "StoryFrames", "story=story.story", size=(size[0], 0)),
    ]


def discovery(name: str = "", seed: int = 1, report: bool = False) -> list[list[Node]]:
    """From the base model to one character's saved identity."""
    drawn, found = f"portraits{name}", f"identity{name}"
    links = f"portraits={drawn}.portraits photomaker=photomaker.photomaker name={drawn}.name"
    show = [node(f"report{name}", "PreviewAny", f"source={found}.report", title="Report", size=(320, 180))]
    return [
        [
            node(
                drawn,
                "CharacterPortraits",
                "model=freeu.MODEL clip=sdxl.CLIP vae=sdxl.VAE story=story.story",
                size=(340, 690),
                character=name,
                seed=seed,
            )
        ],
        [
            node(found, "IdentityDiscovery", f"{links} description={drawn}.description", size=(320, 0)),
            node(f"saved{name}", "SaveIdentity", f"identity={found}.identity", size=(320, 0)),
            *(show if report else []),
        ],
        [node(f"kept{name}", "PreviewImage", f"images={found}.kept", title="Kept portraits", size=(380, 420))],
    ]


def template(posed: bool = False) -> Group:
    """The frame as the base model draws it."""
    positive, negative = "prompt.CONDITIONING", "negative.CONDITIONING"
    if posed:
        positive, negative = "posed.positive", "posed.negative"
    links = f"model=freeu.MODEL positive={positive} negative={negative} latent_image=empty.LATENT seed=frames.seed"
    pose = node(
        "posed",
        "ControlNetApplyAdvanced",
        "positive=prompt.CONDITIONING negative=negative.CONDITIONING control_net=controlnet.CONTROL_NET image=pose.IMAGE",
        title="Pose for the template",
    )
    return Group(
        "3 · Draw the template",
        VIOLET,
        [
            [
                node("prompt", "CLIPTextEncode", "clip=sdxl.CLIP text=frames.prompt", title="Prompt of the frame"),
                node(
                    "negative", "CLIPTextEncode", "clip=sdxl.CLIP text=frames.negative", title="Negative of the frame"
                ),
                node("empty", "EmptyLatentImage"),
                *([pose] if posed else []),
            ],
            [
                node("cache", "NoisyLatentCache", links),
                node("template", "VAEDecode", "samples=cache.latent vae=sdxl.VAE"),
            ],
            [node("template_shown", "PreviewImage", "images=template.IMAGE", title="Templates", size=(380, 420))],
        ],
    )


def who_is_where() -> Group:
    return Group(
        "4 · Find who is where",
        AMBER,
        [
            [
                node("detector", "GroundedSAMLoader", size=(340, 0)),
                node(
                    "layout",
                    "GroundedSAMLayout",
                    "image=template.IMAGE detector=detector.detector frame=frames.frame",
                    size=(340, 0),
                ),
                node("layout_shown", "PreviewImage", "images=layout.preview", title="Layouts", size=(340, 300)),
            ]
        ],
    )


def put_in(prefix: str, *names: str, posed: bool = False) -> Group:
    """The second pass: one Identity Conditioning and one Cast for each character."""
    prompts, cast, before = [], [], ""
    for name in names:
        links = f"clip=sdxl.CLIP photomaker=photomaker.photomaker identity=saved{name}.identity frame=frames.frame"
        prompts.append(node(f"fused{name}", "IdentityConditioning", links))
        positive, negative = f"fused{name}.positive", "negative.CONDITIONING"
        if posed:
            apply = f"positive={positive} negative={negative} control_net=controlnet.CONTROL_NET image=pose.IMAGE"
            prompts.append(
                node(f"posed{name or '_again'}", "ControlNetApplyAdvanced", apply, title="Pose for the identity")
            )
            positive, negative = f"posed{name or '_again'}.positive", f"posed{name or '_again'}.negative"
        links = f"identity=saved{name}.identity positive={positive} negative={negative}"
        cast.append(node(f"cast{name}", "Cast", links + before))
        before = f" cast=cast{name}.cast"
    links = "model=photomaker.model cache=cache.cache layout=layout.layout"
    again = node("again", "Redenoise", links + before)
    return Group(
        "5 · Put the identity in",
        ROSE,
        [
            prompts,
            [*cast, again, node("frame", "VAEDecode", "samples=again.latent vae=sdxl.VAE")],
            [
                node(
                    "saved_frames",
                    "SaveImage",
                    "images=frame.IMAGE",
                    title="Finished frames",
                    size=(380, 600),
                    filename_prefix=f"{prefix}/frame",
                )
            ],
            [
                node("sheet", "StorySheet", "images=frame.IMAGE frames=frames.frame", size=(380, 430)),
                node(
                    "saved_sheet",
                    "SaveImage",
                    "images=sheet.sheet",
                    title="Save the sheet",
                    filename_prefix=f"{prefix}/sheet",
                ),
            ],
        ],
    )


def one_character() -> Json:
    name = "identitystory_sdxl.json"
    about = f"""# One character, one story
IdentityStory with SDXL: a face is found from text alone, then put into every frame; the rest of each picture stays \
exactly as the base model drew it.

## What to change first
- The **Story**: one character line, one prompt per line. A frame may show nobody.
- **Story Frames** `frames`: "2" makes frame 2 alone; its seed stays.
{TRY_QUICKLY}
- The identity is saved in `models/identities`. For the next story, put Load Identity in place of group 2.
- Someone is not found: lower `box_threshold`, or set `on_missing` to "skip"."""
    text = {
        "characters": "Ines | woman | a woman with curly grey hair, freckles and a yellow raincoat",
        "prompts": Lines(
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
        [note(name, about, (440, 1000))],
        [
            [models(), Group("1 · The story", BLUE, [story((420, 430), **text)]), finding(discovery())],
            [template(), who_is_where(), put_in("StoryIdentity", "")],
        ],
    )


def finding(columns: list[list[Node]], whom: str = "") -> Group:
    return Group("2 · Find the identity" + (f" of {whom}" if whom else ""), GREEN, columns)


def two_characters() -> Json:
    name = "identitystory_sdxl_two_characters.json"
    about = f"""# Two characters
As the workflow for one character, with a second group 2, a second Identity Conditioning and a chain of two Cast nodes. \
Frames may show both, one of them, or nobody.

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
        [note(name, about, (440, 900)), models()],
        [
            [
                Group("1 · The story", BLUE, [story((420, 430), **text)]),
                finding(discovery("Ada", 1), "Ada"),
                finding(discovery("Otto", 1001), "Otto"),
            ],
            [template(), who_is_where(), put_in("StoryIdentity", "Ada", "Otto")],
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
    return graph(
        name,
        [note(name, about, (440, 1000))],
        [
            [
                models(),
                Group("1 · The story", BLUE, [story((420, 430), **text)]),
                finding(discovery()),
                Group(
                    "The pose",
                    GREY,
                    [
                        [
                            node("controlnet", "ControlNetLoader", size=(340, 0)),
                            node("pose", "LoadImage", size=(340, 420)),
                        ]
                    ],
                ),
            ],
            [template(posed=True), who_is_where(), put_in("StoryIdentity", "", posed=True)],
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
    return graph(
        name,
        [note(name, about, (440, 660))],
        [[models(), Group("1 · The story", BLUE, [story((420, 0), **text)[:1]]), finding(discovery(report=True))]],
    )


def stored(workflow: Json) -> str:
    return json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"


MAKERS = {
    "identitystory_sdxl.json": one_character,
    "identitystory_sdxl_two_characters.json": two_characters,
    "identitystory_controlnet_pose.json": with_a_pose,
    "identity_from_text.json": identity_only,
}

if __name__ == "__main__":
    for file_name, make in MAKERS.items():
        (HERE / file_name).write_text(stored(make()), encoding="utf-8", newline="\n")
        print(f"wrote {file_name}")
