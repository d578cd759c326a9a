"""The groups of nodes that the workflows are put together from, and the note next to them."""

from typing import Any, NamedTuple

from ...core.toyworld.sizes import TOY_WORLD
from .graph import Group, node
from .kinds import Node
from .schemas import Json
from .wiring import MODELS

BLUE, GREEN, VIOLET, AMBER, ROSE, GREY = "#5fa8d9", "#6cc486", "#a593ec", "#e0a94e", "#e07a92", "#9aa3b2"

DOWNLOAD = "Or in this pack's folder `python core/weights.py download ID`, then R in ComfyUI. The ids:"


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
SIDES: dict[str, Any] = {"width": TOY_WORLD.picture_side, "height": TOY_WORLD.picture_side}
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
            **{"batch_size": 32, "steps": 20, **GUIDED, **SIDES, "negative": ""},
        },
        "EmptyLatentImage": SIDES,
        "NoisyLatentCache": {"steps": 25, **GUIDED, "keep_from_step": 5.0},
        "GroundedSAMLayout": {"box_threshold": 0.0, "text_threshold": 0.0, "dilate_px": 1},
        "Redenoise": {"start": 5.0, "cfg": 4.0},
        "StorySheet": {"columns": 4, "cell_width": 256},
    },
)


def note(name: str, text: str, height: int, wide: int = 460) -> Group:
    """What the workflow does, the files it needs and where they belong."""
    needed = [file for file in MODELS if name in file["used_by"]]
    lines = [f"- `{file['folder']}/` [{file['name']}]({file['url']}){_about(file)}" for file in needed]
    ids = ", ".join(f"`{file['id']}`" for file in needed)
    files = ["", "## Files", "Into the folders of `ComfyUI/models`:", "", *lines, "", DOWNLOAD, ids] if needed else []
    written = "\n".join([text, *files])
    return Group("", "", [[node("note", "MarkdownNote", title="Read me", size=(wide, height), text=written)]])


def _about(file: Json) -> str:
    licence = f", **{file['licence']}**" if file["non_commercial"] else ""
    return f"{_size(file)}{_renamed(file)}{licence}"


def _size(file: Json) -> str:
    size = file["size"] or 0
    text = f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB" if size >= 1e6 else file["size_about"]
    return f", {text}" if text else ""


def _renamed(file: Json) -> str:
    return "" if file["url"].endswith(f"/{file['name']}") else ", saved under this name"
