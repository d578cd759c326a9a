"""A whole story with this pack's nodes and the stand-in weights, in a real server."""

from pathlib import Path

import pytest
from PIL import Image

from .server import Host, RunError

SDXL = "sd_xl_base_1.0.safetensors"
SAMPLER = {"cfg": 5.0, "sampler_name": "euler", "scheduler": "normal"}
CHARACTERS = "Mira | woman | a young woman with red hair\nTom | boy | a small boy with a yellow raincoat"
PROMPTS = "Mira and Tom wait at a bus stop\nMira reads to Tom, rain at the window"


def node(kind: str, **inputs: object) -> dict:
    return {"class_type": kind, "inputs": inputs}


def story(kind: str, **inputs: object) -> dict:
    return node(f"StoryIdentity{kind}", **inputs)


def character(name: str, portraits_seed: int) -> dict:
    """The nodes that find one character's identity and give its two prompts for every frame."""
    portraits = {
        **{"model": ["sdxl", 0], "clip": ["sdxl", 1], "vae": ["sdxl", 2], "story": ["story", 0], "character": name},
        **{"count": 5, "batch_size": 2, "seed": portraits_seed, "steps": 2, "width": 64, "height": 64},
        **{"template": "a close-up photo of {character}", "negative": "cartoon"},
    }
    found = {"name": [f"{name} portraits", 1], "description": [f"{name} portraits", 2]}
    settings = {"rank": 2, "keep_ratio": 0.6, "iterations": 2, "rank_too_large": "error"}
    fused = {"clip": ["sdxl", 1], "photomaker": ["photomaker", 1], "identity": [name, 0], "frame": ["frames", 0]}
    return {
        f"{name} portraits": story("CharacterPortraits", **portraits, **SAMPLER),
        name: story(
            "IdentityDiscovery",
            portraits=[f"{name} portraits", 0],
            photomaker=["photomaker", 1],
            **found,
            **settings,
        ),
        f"{name} prompt": story("IdentityConditioning", **fused),
    }


def whole_story(prefix: str, prompts: str = PROMPTS, start: int = 2) -> dict:
    """Two frames with two characters in both; Mira is the left half of the picture, Tom the right one."""
    first, last = {"model": ["sdxl", 0]}, {"photomaker_name": "photomaker-v1.bin", "lora_strength": 1.0}
    halves = {
        "left": node("SolidMask", value=1.0, width=64, height=64),
        "right": node("SolidMask", value=0.0, width=128, height=64),
        "one": node("MaskComposite", destination=["right", 0], source=["left", 0], x=0, y=0, operation="add"),
        "other": node("InvertMask", mask=["one", 0]),
        "images": node("ImageBatch", image1=["one image", 0], image2=["other image", 0]),
        "one image": node("MaskToImage", mask=["one", 0]),
        "other image": node("MaskToImage", mask=["other", 0]),
        "masks": node("ImageToMask", image=["images", 0], channel="red"),
    }
    passes = {
        "cache": story(
            "NoisyLatentCache",
            **first,
            **{"positive": ["prompt", 0], "negative": ["negative", 0], "latent_image": ["empty", 0]},
            **{"seed": ["frames", 3], "steps": 4, "denoise": 1.0, "keep_from_step": 1, "precision": "float32"},
            **SAMPLER,
        ),
        "layout": story("LayoutFromMasks", masks=["masks", 0], dilate_px=0, frame=["frames", 0]),
        "Mira cast": story("Cast", identity=["Mira", 0], positive=["Mira prompt", 0], negative=["negative", 0]),
        "cast": story(
            "Cast", identity=["Tom", 0], positive=["Tom prompt", 0], negative=["negative", 0], cast=["Mira cast", 0]
        ),
        "again": story(
            "Redenoise",
            **{"model": ["photomaker", 0], "cast": ["cast", 0], "cache": ["cache", 1], "layout": ["layout", 0]},
            **{"start": start, "max_kernel": 3, "cfg": 5.0, "mask_edge": "hard"},
        ),
    }
    return {
        "sdxl": node("CheckpointLoaderSimple", ckpt_name=SDXL),
        "photomaker": story("PhotoMakerLoader", **first, **last),
        "story": story(
            "Story",
            **{"story_file": "(typed in below)", "characters": CHARACTERS, "prompts": prompts},
            **{"style": "photo", "negative": "blurry"},
        ),
        "frames": story("StoryFrames", story=["story", 0], frames="all", seed=5),
        "prompt": node("CLIPTextEncode", clip=["sdxl", 1], text=["frames", 1]),
        "negative": node("CLIPTextEncode", clip=["sdxl", 1], text=["frames", 2]),
        "empty": node("EmptyLatentImage", width=128, height=64, batch_size=1),
        **character("Mira", 1),
        **character("Tom", 2),
        **halves,
        **passes,
        "base": node("VAEDecode", samples=["cache", 0], vae=["sdxl", 2]),
        "decoded": node("VAEDecode", samples=["again", 0], vae=["sdxl", 2]),
        "save base": node("SaveImage", images=["base", 0], filename_prefix=f"{prefix} base"),
        "save": node("SaveImage", images=["decoded", 0], filename_prefix=prefix),
    }


def pictures(host: Host, graph: dict) -> tuple[list[bytes], list[bytes]]:
    """The pixels of each frame's base picture and of the finished one."""
    outputs = host.run(graph)
    base, done = ([pixels(file.path) for file in host.files(outputs[name])] for name in ("save base", "save"))
    return base, done


def pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.convert("RGB").tobytes()


def test_a_story_gives_each_frame_a_picture_of_its_own(host):
    base, done = pictures(host, whole_story("story"))
    assert len(base) == len(done) == 2
    assert len({*base, *done}) == 4


def test_the_same_story_again_is_the_same_bytes_whatever_ran_between(host):
    first = pictures(host, whole_story("a"))
    host.forget()
    other = pictures(host, whole_story("b", prompts=PROMPTS.replace("rain", "snow"), start=1))
    host.forget()
    assert pictures(host, whole_story("c")) == first
    assert other != first


def test_a_character_without_a_cast_node_is_refused_by_name(host):
    graph = whole_story("refused")
    graph["again"]["inputs"]["cast"] = ["Mira cast", 0]
    with pytest.raises(RunError, match=r'StoryIdentityRedenoise\): ValueError: .*"Tom".*Cast node'):
        host.run(graph)


def test_the_stand_in_detectors_load_and_give_a_layout(host):
    names = {"grounding_dino_name": "groundingdino_swinb_cogcoor.pth", "sam_name": "sam_vit_h_4b8939.pth"}
    thresholds = {"box_threshold": 0.0, "text_threshold": 0.0, "dilate_px": 0, "on_missing": "skip"}
    graph = {
        "image": node("LoadImage", image="two_people.png"),
        "detector": story("GroundedSAMLoader", **names, engine="transformers"),
        "layout": story(
            "GroundedSAMLayout", image=["image", 0], detector=["detector", 0], words="woman, boy", **thresholds
        ),
        "shown": story("PreviewLayout", layout=["layout", 0], image=["image", 0]),
    }
    (file,) = host.files(host.run(graph)["shown"])
    assert len(pixels(file.path)) == 256 * 192 * 3
