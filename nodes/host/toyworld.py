"""The toy world's networks in the host's own classes, under its memory management.

The sizes are those of `core.toyworld.sizes`, put into the words of the host's LDM code. Everything runs in float32:
the networks are small, and so both hosts draw the same pictures.
"""

from functools import partial
from pathlib import Path
from typing import Any

import comfy.clip_model
import comfy.clip_vision
import comfy.latent_formats
import comfy.ldm.models.autoencoder
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ...core.adapter_file import adapter_of
from ...core.photomaker import split_file, vision_config
from ...core.quoting import printable
from ...core.toyworld.detector import load_detector as load_network
from ...core.toyworld.models import (
    BETAS,
    WEIGHTS,
    load_preview_colours,
    load_weights,
    text_encoder_weights,
    tokenizer_folder,
    unet_weights,
    weights_file,
)
from ...core.toyworld.sizes import TOY_WORLD
from ...core.toyworld.vae import load_vae as load_vae_network
from . import photomaker as pm
from .adapters import IDAdapter, host_adapter
from .detector import Detector, patcher_of

_KNOWN_VAE = {
    "ddconfig": {
        **{"double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3},
        **{"ch": 32, "ch_mult": [1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0},
    },
    "embed_dim": 4,
}


class ToyWorld(comfy.supported_models_base.BASE):
    """The family of the toy world's UNet, as Stable Diffusion 1.5 is one."""

    unet_extra_config: dict[str, Any] = {}
    latent_format = comfy.latent_formats.LatentFormat  # as the VAE gives them; `load_model` says their sizes
    sampling_settings = {"beta_schedule": "linear", "linear_start": BETAS[0], "linear_end": BETAS[1]}
    supported_inference_dtypes = [torch.float32]

    def model_type(self, state_dict: dict[str, Tensor], prefix: str = "") -> Any:
        return comfy.model_base.ModelType.V_PREDICTION

    def inpaint_model(self) -> bool:
        return False  # the host takes more than four channels for one


class ToyTextModel(comfy.clip_model.CLIPTextModel):
    """The host's text model with our vocabulary in place of CLIP's."""

    def __init__(self, config_dict: dict[str, Any], dtype: torch.dtype, device: Any, operations: Any) -> None:
        super().__init__(config_dict, dtype, device, operations)
        words = operations.Embedding(config_dict["vocab_size"], config_dict["hidden_size"], dtype=dtype, device=device)
        self.set_input_embeddings(words)


def load_model(folder: Path = WEIGHTS, disable_dynamic: bool = False) -> Any:
    """The UNet as a MODEL.

    The host calls this again with `disable_dynamic` when it needs a copy whose weights stay put, as for LoRA hooks.
    """
    management, weights = comfy.model_management, unet_weights(folder)
    config = ToyWorld(unet_config())
    config.set_inference_dtype(torch.float32, None)
    config.latent_format.latent_channels = TOY_WORLD.latent_channels
    config.latent_format.spacial_downscale_ratio = TOY_WORLD.latent_ratio  # the host's spelling
    colours = load_preview_colours(folder)
    if colours is not None:
        config.latent_format.latent_rgb_factors, config.latent_format.latent_rgb_factors_bias = colours
    offload_device = management.unet_offload_device()
    model = config.get_model(weights).to(offload_device)
    patcher = _patcher_class(disable_dynamic)(model, management.get_torch_device(), offload_device)
    model.diffusion_model.load_state_dict(weights, assign=patcher.is_dynamic())
    patcher.cached_patcher_init = (load_model, (folder,))
    return patcher


def load_vae(folder: Path = WEIGHTS) -> Any:
    """The VAE; it takes and gives pictures whose sides are multiples of the world's latent ratio."""
    network = load_vae_network(folder)
    # The host builds only networks it knows: it gets a tiny one of those, and ours takes its place.
    known = comfy.ldm.models.autoencoder.AutoencoderKL(**_KNOWN_VAE).state_dict()
    vae = comfy.sd.VAE(sd=known, config={"params": _KNOWN_VAE}, dtype=torch.float32)
    vae.first_stage_model = network
    vae.disable_offload = True  # plain torch layers move as a whole
    vae.patcher = comfy.model_patcher.ModelPatcher(network, vae.device, vae.patcher.offload_device)
    vae.size = comfy.model_management.module_size(network)
    vae.downscale_ratio = vae.upscale_ratio = TOY_WORLD.latent_ratio
    vae.latent_channels = TOY_WORLD.latent_channels
    return vae


def load_clip(folder: Path = WEIGHTS, disable_dynamic: bool = False) -> Any:
    """The tokenizer and the text encoder as a CLIP."""
    weights, words = text_encoder_weights(folder)
    config = {**TOY_WORLD.text_encoder, "vocab_size": words}
    # The pooled output is read unprojected; the host's class has a projection all the same.
    weights["text_projection.weight"] = torch.eye(TOY_WORLD.text_width)
    encoder = partial(
        comfy.sd1_clip.SDClipModel,
        max_length=TOY_WORLD.text_length,
        textmodel_json_config=config,
        model_class=ToyTextModel,
        special_tokens={
            "start": config["bos_token_id"],
            "end": config["eos_token_id"],
            "pad": config["pad_token_id"],
        },
        return_projected_pooled=False,
    )
    tokenizer = partial(
        comfy.sd1_clip.SDTokenizer,
        tokenizer_path=str(_tokenizer(folder)),
        max_length=TOY_WORLD.text_length,
        embedding_size=TOY_WORLD.text_width,
        tokenizer_class=PreTrainedTokenizerFast,
    )
    clip = comfy.sd.CLIP(
        comfy.supported_models_base.ClipTarget(
            partial(comfy.sd1_clip.SD1Tokenizer, tokenizer=tokenizer),
            partial(comfy.sd1_clip.SD1ClipModel, clip_model=encoder),
        ),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=comfy.utils.calculate_parameters(weights),
        state_dict=[weights],
        model_options={"dtype": torch.float32},
        disable_dynamic=disable_dynamic,
    )
    clip.patcher.cached_patcher_init = (_load_clip_patcher, (folder,))
    return clip


def load_identity_generator(model: Any, folder: Path = WEIGHTS) -> tuple[Any, Any]:
    """The MODEL with the identity LoRA on it (a clone) and the PHOTOMAKER that goes with it."""
    encoder, lora = _photomaker(folder)
    patched = pm.apply_lora(model, lora, 1.0, "the toy world's photomaker", pm.text_width(encoder))
    return patched, pm.PhotoMakerEncoder(encoder, TOY_WORLD.name)


def load_clip_vision(folder: Path = WEIGHTS) -> Any:
    """The identity generator's image encoder as a CLIP_VISION."""
    encoder, _ = _photomaker(folder)
    vision = comfy.clip_vision.ClipVisionModel(vision_config(encoder))
    vision.load_sd({
        key: value for key, value in encoder.items() if key.startswith(("vision_model.", "visual_projection."))
    })  # fmt: skip
    return vision


def _photomaker(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return split_file(load_weights("photomaker", folder), printable(str(weights_file("photomaker", folder))))


def load_adapter(folder: Path = WEIGHTS) -> IDAdapter:
    """The ID injector's weights."""
    return host_adapter(adapter_of(load_weights("injector", folder), "the toy world's injector"))


def load_detector(folder: Path = WEIGHTS) -> Detector:
    """The detector; one network finds and segments."""
    network: Any = load_network(folder)
    patcher = patcher_of(network.module)
    return Detector(network, network, (patcher, patcher))


def unet_config() -> dict[str, Any]:
    """The UNet's sizes as the host's UNetModel takes them."""
    unet = TOY_WORLD.unet
    channels, layers = unet["block_out_channels"], unet["layers_per_block"]
    return {
        "image_size": unet["sample_size"],
        "in_channels": unet["in_channels"],
        "out_channels": unet["out_channels"],
        "model_channels": channels[0],
        "channel_mult": [each // channels[0] for each in channels],
        "num_res_blocks": [layers] * len(channels),
        "transformer_depth": [int("Attn" in kind) for kind in unet["down_block_types"] for _ in range(layers)],
        "transformer_depth_output": [
            int("Attn" in kind) for kind in reversed(unet["up_block_types"]) for _ in range(layers + 1)
        ],
        "transformer_depth_middle": 1,
        "context_dim": unet["cross_attention_dim"],
        "num_heads": unet["attention_head_dim"],
        "num_head_channels": -1,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": False,
        "legacy": False,
        "adm_in_channels": None,
    }


def _tokenizer(folder: Path) -> Path:
    """The folder of a tokenizer that can be read; ValueError or FileNotFoundError otherwise."""
    path = tokenizer_folder(folder)
    try:
        PreTrainedTokenizerFast.from_pretrained(str(path))
    except Exception as error:  # the tokenizers package raises Exception itself
        reason = printable(str(error), 200)
        raise ValueError(
            f"{printable(str(path))} holds no tokenizer that can be read ({reason}). Install the pack again."
        ) from error
    return path


def _load_clip_patcher(folder: Path, disable_dynamic: bool = False) -> Any:
    return load_clip(folder, disable_dynamic).patcher


def _patcher_class(disable_dynamic: bool) -> Any:
    """The host's patcher for its own layers; it rebinds that name when it starts."""
    return comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
