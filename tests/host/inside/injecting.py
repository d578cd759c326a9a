"""A small story, faces, adapters in the public layouts, and the ID injector with them on a tiny model."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import comfy.supported_models
import folder_paths
import setting
import torch
from frames import PEOPLE
from safetensors.torch import save_file
from story_identity.core.injector import ReferenceFeatures
from story_identity.core.story import Story
from story_identity.nodes.host.adapters import cross_attention_widths
from story_identity.nodes.host.folders import register_folders
from story_identity.nodes.injector import LoadIDAdapterNode, ShuffledIDInjectorNode
from story_identity.nodes.types import FaceFeatures

import nodes
from tests.closeness import largest_difference
from tests.stand_ins.ip_adapters import CLIP, CROSS, FACE, flat, image_side, layer_side, lora_side

register_folders()

SD15 = [("input", block, 0) for block in (1, 2, 4, 5, 7, 8)]
SD15 += [("output", block, 0) for block in range(3, 12)]
SD15 += [("middle", 0, 0)]
FILES = {
    "plus-face": "plus-face.safetensors",
    "FaceID": "faceid.bin",
    "FaceID-Plus": "faceid-plus.bin",
    "FaceID-Plus v2": "faceid-plusv2.safetensors",
}
STEPS, SIDE = 2, 8


def tiny(seed=1, shape=setting.SD15, family=comfy.supported_models.SD15, cross=CROSS):
    return setting._tiny(replace(shape, context=cross), family, seed)


@cache
def model():
    """One for all checks of this file; they clone it."""
    return tiny()


def write(name, content):
    path = Path(folder_paths.get_folder_paths("ipadapter")[0]) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(flat(content), path) if path.suffix == ".safetensors" else torch.save(content, path)
    return name


@cache
def adapter(kind="plus-face"):
    widths = list(cross_attention_widths(model()).values())
    layers = layer_side(widths) | (lora_side(widths) if kind.startswith("FaceID") else {})
    content = {"image_proj": image_side(kind.removesuffix(" v2")), "ip_adapter": layers}
    (loaded,) = LoadIDAdapterNode.execute(write(FILES[kind], content)).result
    assert loaded.file.config.kind == kind
    return loaded


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def features(references=3, seed=0):
    face = torch.nn.functional.normalize(random(references, FACE, seed=seed + 2), dim=-1)
    return ReferenceFeatures(random(references, 11, CLIP, seed=seed), random(1, 11, CLIP, seed=1), face)


MIRA = FaceFeatures("Mira", features())
BEN = FaceFeatures("Ben", features(2, seed=10))


def story(*frames):
    return Story.parse({"characters": PEOPLE, "frames": list(frames)})


THREE = story("Mira reads", "Mira sings", "Mira sleeps")
MIXED = story("Mira reads", "Mira and Ben dance", "an empty beach")


def injected(source=None, *, kind="plus-face", faces=(MIRA,), told=THREE, mode="shuffled", seed=5, weight=1.0, **more):
    """The MODELs that the node makes; every value in a list, as the host hands them over."""
    given = {"start_percent": 0.0, "end_percent": 1.0, "picture_weight": 1.0, "lora_strength": 1.0, **more}
    given |= {"model": source or model(), "faces": faces, "story": told, "mode": mode, "seed": seed, "weight": weight}
    given.setdefault("adapter", adapter(kind))
    lists = {key: value if isinstance(value, list) else [value] for key, value in given.items()}
    return ShuffledIDInjectorNode.execute(**lists).result[0]


def sample(patched, batch=3, cfg=4.0, rows=None, positive=None, steps=STEPS, width=SIDE):
    negative = setting.conditioning(patched, 2)
    latent = setting.empty_latent(SIDE, width, batch)
    if rows is not None:
        latent["batch_index"] = rows
    positive = positive or setting.conditioning(patched, 1)
    (out,) = nodes.KSampler().sample(patched, 3, steps, cfg, "euler", "normal", positive, negative, latent)
    return out["samples"]


def close(one, other):
    """Equal but for what the host's attention rounds; what is injected moves latents by half of the largest value."""
    return largest_difference(one, other) < 1e-4


def differ(one, other):
    return largest_difference(one, other) > 1e-3


def attention_of(source, layer):
    """The host's module for a layer of the table."""
    side, number, index = layer
    unet = source.model.diffusion_model
    block = unet.middle_block if side == "middle" else getattr(unet, f"{side}_blocks")[number]
    return block[1].transformer_blocks[index].attn2


def first_layer(patched, **more):
    """What the first cross-attention returns in the first call, before any other layer was injected."""
    seen = []
    projection = attention_of(model(), SD15[0]).to_out  # run also where another pack replaces the attention
    hook = projection.register_forward_hook(lambda _module, _args, out: seen.append(out.clone()))
    try:
        sample(patched, steps=1, **more)
    finally:
        hook.remove()
    return seen[0]


def left_and_right():
    masks = torch.zeros(2, 8 * SIDE, 8 * SIDE, dtype=torch.bool)
    masks[0, :, : 3 * SIDE], masks[1, :, 5 * SIDE :] = True, True
    return masks
