"""What the nodes look like that the workflows use: their sockets, their widgets and the values these begin with."""

from typing import Any, NamedTuple

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
    "KSampler": Kind(
        "model:MODEL positive:CONDITIONING negative:CONDITIONING latent_image:LATENT",
        {"seed": Seed(1), "steps": 30, "cfg": 7.0, **SAMPLER, "denoise": 1.0},
        "LATENT",
    ),
    "CLIPVisionLoader": Kind("", {"clip_name": Choice("CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors")}, "CLIP_VISION"),
    "BatchImagesNode": Kind(
        " ".join(["images.image0:IMAGE", *(f"images.image{i}:IMAGE?" for i in (1, 2, 3))]), {}, "IMAGE"
    ),
    "RebatchImages": Kind("images:IMAGE", {"batch_size": 1}, "IMAGE:IMAGE*"),
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
    "EncodeStory": Kind("clip:CLIP story:STORY", {}, "positive:CONDITIONING negative:CONDITIONING frames:INT"),
    "EncodeFrame": Kind("clip:CLIP frame:STORY_FRAME", {}, "positive:CONDITIONING negative:CONDITIONING"),
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
    "ToyWorldLoader": Kind(
        "",
        {},
        "model:MODEL identity_model:MODEL clip:CLIP vae:VAE photomaker:PHOTOMAKER detector:STORY_DETECTOR "
        "clip_vision:CLIP_VISION adapter:ID_ADAPTER",
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
            **{"precision": Choice("float32"), "keep_attention_maps?": False},
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
    "LayoutFromAttention": Kind(
        "cache:NOISY_LATENT_CACHE image:IMAGE frame:STORY_FRAME",
        {"threshold": 0.0, "dilate_px": 10, "on_missing": Choice("error")},
        "layout:STORY_LAYOUT masks:MASK preview:IMAGE",
    ),
    "PreviewAttentionMasks": Kind(
        "model:MODEL positive:CONDITIONING samples:LATENT images:IMAGE",
        {"percent": 0.5, "seed": Seed(0)},
        "images:IMAGE",
    ),
    "AMSA": Kind(
        "model:MODEL story:STORY",
        {
            **{"strength": 1.0, "layers": Choice("all"), "start_percent": 0.0, "end_percent": 1.0},
            **{"same_character": True, "anchors": 0, "threshold": 0.0, "decay": 0.5},
        },
        "model:MODEL",
    ),
    "LoadIDAdapter": Kind("", {"adapter_name": Choice("ip-adapter-plus-face_sd15.safetensors")}, "adapter:ID_ADAPTER"),
    "FaceFeatures": Kind(
        "images:IMAGE clip_vision:CLIP_VISION? faces:FACE_FEATURES?",
        {"name": "", "face_models": Choice("none"), "crop": Choice("centre square")},
        "faces:FACE_FEATURES",
    ),
    "ShuffledIDInjector": Kind(
        "model:MODEL adapter:ID_ADAPTER faces:FACE_FEATURES story:STORY frame:STORY_FRAME? layout:STORY_LAYOUT?",
        {
            **{"mode": Choice("shuffled"), "seed": Seed(0), "weight": 1.0, "start_percent": 0.0, "end_percent": 1.0},
            **{"picture_weight": 1.0, "lora_strength": 1.0},
        },
        "model:MODEL*",
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
