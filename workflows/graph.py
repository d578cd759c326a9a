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


