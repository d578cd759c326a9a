"""Toy World Loader."""

from pathlib import Path

from comfy_api.latest import io

from ..core.toyworld.models import WEIGHTS
from ..core.toyworld.recogniser import load_recogniser
from .host.toy_transformer import load_transformer, load_transformer_clip
from .host.toyworld import (
    load_adapter,
    load_clip,
    load_clip_vision,
    load_detector,
    load_identity_generator,
    load_model,
    load_vae,
)
from .types import DetectorSocket, FaceRecogniserSocket, IDAdapterSocket

UNET, TRANSFORMER = "UNet", "transformer"


class ToyWorldLoaderNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityToyWorldLoader",
            display_name="Toy World Loader",
            category="StoryIdentity/toy world",
            description="Small networks that draw simple people and come with the pack: everything a story needs, "
            "without a download and without a GPU.",
            search_aliases=["toy", "demo", "example", "small model", "IdentityStory"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=[UNET, TRANSFORMER],
                    default=UNET,
                    tooltip="UNet: as Stable Diffusion 1.5, with PhotoMaker. transformer: as Flux.1; it draws both "
                    "passes and reads portraits as reference latents.",
                    optional=True,
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="The base model, for Character Portraits, Noisy Latent Cache and AMSA Model Patch.",
                ),
                io.Model.Output(
                    display_name="identity_model",
                    tooltip="For Progressive-Mask Re-denoise: the UNet with the identity LoRA, or the transformer "
                    "itself.",
                ),
                io.Clip.Output(
                    display_name="clip",
                    tooltip="Tokenizer and text encoder, for CLIP Text Encode, Encode Story, Encode Frame and Identity "
                    "Conditioning.",
                ),
                io.Vae.Output(display_name="vae", tooltip="The toy world's own; its latents fit no other model."),
                io.Photomaker.Output(
                    display_name="photomaker",
                    tooltip="The identity encoder, for Identity Discovery and Identity Conditioning.",
                ),
                DetectorSocket.Output(
                    display_name="detector", tooltip="Finds people by their class word, for Grounded-SAM Layout."
                ),
                io.ClipVision.Output(
                    display_name="clip_vision", tooltip="The identity generator's image encoder, for Face Features."
                ),
                IDAdapterSocket.Output(
                    display_name="adapter", tooltip="An ID injector of the kind FaceID-Plus, for Shuffled ID Injector."
                ),
                FaceRecogniserSocket.Output(
                    display_name="recogniser", tooltip="Knows the faces of the toy world's people, for Score Story."
                ),
            ],
        )

    @classmethod
    def weight_files(cls) -> list[Path]:
        """The files that the node reads, on which results depend."""
        return sorted(WEIGHTS.rglob("*.safetensors"))

    @classmethod
    def execute(cls, model: str = UNET) -> io.NodeOutput:
        vae, unet = load_vae(), load_model()
        unet_with_lora, photomaker = load_identity_generator(unet)
        if model == TRANSFORMER:
            base = identity_model = load_transformer()
            clip = load_transformer_clip()
        else:
            base, identity_model, clip = unet, unet_with_lora, load_clip()
        faces = load_clip_vision(), load_adapter(), load_recogniser()
        return io.NodeOutput(base, identity_model, clip, vae, photomaker, load_detector(), *faces)
