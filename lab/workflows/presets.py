"""The values that every workflow begins with where they are not the nodes' own defaults, by kind of node."""

from .schemas import Json

PRESETS: dict[str, Json] = {
    # What IdentityStory's published code sets.
    "FreeU": {"s1": 0.6, "s2": 0.4},
    "KSampler": {"seed": 1, "steps": 30, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal"},
    "EmptyLatentImage": {"width": 1024, "height": 1024},
    "StoryFrames": {"seed": 1},
    # Files of models.json.
    "CheckpointLoaderSimple": {"ckpt_name": "sd_xl_base_1.0.safetensors"},
    "CLIPVisionLoader": {"clip_name": "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"},
    "ControlNetLoader": {"control_net_name": "controlnet-openpose-sdxl-1.0.safetensors"},
    "GroundedSAMLoader": {
        "grounding_dino_name": "groundingdino_swinb_cogcoor.pth",
        "sam_name": "sam_vit_h_4b8939.pth",
    },
    "LoadIDAdapter": {"adapter_name": "ip-adapter-plus-face_sd15.safetensors"},
    "LoraLoaderModelOnly": {"lora_name": "sdxl_lightning_8step_lora.safetensors"},
    "PhotoMakerLoader": {"photomaker_name": "photomaker-v1.bin"},
}
