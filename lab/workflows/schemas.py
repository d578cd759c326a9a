"""What a running ComfyUI says of the nodes: `python -m story_identity.lab.workflows.schemas [--server URL]`.

It writes `node_schemas.json`, which has the pack's nodes and those of ComfyUI that the workflows use. From this file
come the workflows' sockets, widgets and defaults, and the tables of the help pages and of docs/architecture.md. The
file holds nothing that depends on the machine: lists of files are left out.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

Json = dict[str, Any]

FILE = Path(__file__).with_name("node_schemas.json")
PREFIX = "StoryIdentity"
"""The ids of the pack's nodes begin with this."""
STOCK = (
    *("BatchImagesNode", "CLIPLoader", "CLIPVisionLoader", "CheckpointLoaderSimple"),
    *("ControlNetApplyAdvanced", "ControlNetLoader", "DualCLIPLoader", "EmptyFlux2LatentImage", "EmptyLatentImage"),
    *("EmptySD3LatentImage", "FluxGuidance", "FreeU", "KSampler", "LoraLoaderModelOnly"),
    *(
        "ModelSamplingAuraFlow",
        "PreviewImage",
        "RebatchImages",
        "SaveImage",
        "UNETLoader",
        "VAEDecode",
        "VAELoader",
    ),
)
"""ComfyUI's own nodes that the workflows use."""
VARYING = {
    *("adapter_name", "caption_encoder", "ckpt_name", "clip_name", "clip_name1", "clip_name2", "control_net_name"),
    *(
        "device",
        "face_models",
        "grounding_dino_name",
        "identity_file",
        "lora_name",
        "photomaker_name",
        "sam_name",
    ),
    *("sampler_name", "scheduler", "story_file", "type", "unet_name", "vae_name", "weight_dtype"),
}
"""Inputs whose options are the files of a machine, or grow with ComfyUI."""
GROWS = "COMFY_AUTOGROW_V3"
"""ComfyUI's type of an input that becomes as many sockets as are connected."""
MATCHES = "COMFY_MATCHTYPE_V3"
"""ComfyUI's type of an input that takes anything, and of the output that then gives the same."""
ANY = "*"


def read_schemas() -> Json:
    """The stored file: `nodes` by id, and the versions of ComfyUI and its editor that they come from."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def as_text(schemas: Json) -> str:
    """The text of the file."""
    return json.dumps(schemas, indent=1, ensure_ascii=False) + "\n"


def trim(object_info: Json, system: Json) -> Json:
    """Keep what the workflows and pages need.

    Args:
        object_info: ComfyUI's answer to `GET /object_info`.
        system: The part `system` of its answer to `GET /system_stats`.

    Raises:
        ValueError: If a node is missing, such as those of a pack that is not installed there.
    """
    ours = sorted(name for name in object_info if name.startswith(PREFIX) and not object_info[name].get("dev_only"))
    missing = [name for name in STOCK if name not in object_info] + ([] if ours else [f"{PREFIX}..."])
    if missing:
        raise ValueError(f"This ComfyUI lacks the nodes {', '.join(missing)}. It needs this pack, and version 0.31.")
    return {
        "comfyui": system["comfyui_version"],
        "editor": system["required_frontend_version"],
        "nodes": {name: _node(object_info[name], name in ours) for name in [*ours, *STOCK]},
    }


def _node(info: Json, ours: bool) -> Json:
    about = {key: info[key] for key in ("display_name", "category", "description")} if ours else {}
    return {**about, "inputs": list(_inputs(info, ours)), "outputs": list(_outputs(info, ours))}


def _inputs(info: Json, ours: bool) -> Iterator[Json]:
    for part in ("required", "optional"):
        for name, (kind, *more) in info["input"].get(part, {}).items():
            given = more[0] if more else {}
            optional = {"optional": True} if part == "optional" else {}
            yield {"name": name, **_kind(kind, given), **optional, **_settings(name, kind, given, ours)}


def _kind(kind: Any, given: Json) -> Json:
    if isinstance(kind, list):  # the older way to write a list of choices
        return {"type": "COMBO"}
    if kind != GROWS:
        return {"type": ANY if kind == MATCHES else kind}
    template = given["template"]
    ((grown, *_),) = template["input"]["required"].values()
    return {"type": grown, "grows": {key: template[key] for key in ("prefix", "min", "max")}}


def _settings(name: str, kind: Any, given: Json, ours: bool) -> Json:
    kept = {key: given[key] for key in ("default", "min", "max", "step") if key in given}
    kept |= {key: True for key in ("multiline", "advanced", "control_after_generate") if given.get(key)}
    if given.get("forceInput"):
        kept["socket"] = True
    options = kind if isinstance(kind, list) else given.get("options")
    if options and name not in VARYING:
        kept["options"] = options
    if ours:
        kept["tooltip"] = given.get("tooltip", "")
    return kept


def _outputs(info: Json, ours: bool) -> Iterator[Json]:
    tooltips = (info.get("output_tooltips") or [None] * len(info["output"]))[: len(info["output"])]
    columns = info["output_name"], info["output"], info["output_is_list"], tooltips
    for name, kind, is_list, tooltip in zip(*columns, strict=True):
        lists = {"list": True} if is_list else {}
        shown = ANY if kind == MATCHES else kind
        yield {"name": name, "type": shown, **lists, **({"tooltip": tooltip or ""} if ours else {})}


def _get(server: str, path: str) -> Json:
    with urllib.request.urlopen(f"{server.rstrip('/')}{path}", timeout=60) as answer:
        return json.load(answer)


def main(
    server: Annotated[str, typer.Option(metavar="URL", help="Where ComfyUI runs.")] = "http://127.0.0.1:8188",
) -> None:
    """Write node_schemas.json as a running ComfyUI with this pack describes the nodes."""
    try:
        schemas = trim(_get(server, "/object_info"), _get(server, "/system_stats")["system"])
    except (urllib.error.URLError, ValueError) as error:
        typer.echo(
            f"{server}: {error}\nStart a ComfyUI that has this pack, or name another one with --server.", err=True
        )
        raise typer.Exit(1) from None
    FILE.write_text(as_text(schemas), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    typer.run(main)
