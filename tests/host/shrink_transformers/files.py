"""Writes files of random weights under the names that the workflows ask for, each with the host's own classes.

Their tensors are named as in the real files; `__init__` lets the host build networks as narrow as these are.
"""

from collections.abc import Callable
from pathlib import Path

import comfy.ldm.flux.model
import comfy.ldm.lumina.model
import comfy.ldm.models.autoencoder
import comfy.ldm.qwen_image.model
import comfy.ldm.wan.vae
import comfy.ops
import comfy.text_encoders.flux
import comfy.text_encoders.llama
import folder_paths
import torch
from safetensors.torch import save_file

WIDTH = 256
"""Of the transformers: two heads of the real width, whose rotary axes are therefore the real ones."""
TEXT = 64
"""Of the text encoders."""
OPERATIONS = {"operations": comfy.ops.manual_cast, "dtype": torch.float32, "device": "cpu"}
ROTARY = {"flux": [16, 56, 56], "flux2": [32, 32, 32, 32], "z_image": [32, 48, 48]}
FLUX = {
    "hidden_size": WIDTH,
    "num_heads": 2,
    "depth": 1,
    "depth_single_blocks": 1,
    "theta": 10000,
    "patch_size": 2,
    "axes_dim": ROTARY["flux"],
    "txt_ids_dims": [],
}
KL = {
    "double_z": True,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}
Weights = dict[str, torch.Tensor]


def write_all() -> None:
    """Write the files that are not there into the host's own models folder."""
    torch.manual_seed(0)
    for name, make in FILES.items():
        path = Path(folder_paths.models_dir) / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({key: weight.contiguous() for key, weight in make().items()}, path)


@torch.no_grad()
def filled(network: torch.nn.Module, last: str = "") -> Weights:
    """Random weights by which every layer keeps the size of what it is given; those of the layer `last` are small."""
    for name, weight in network.named_parameters():
        if weight.ndim >= 2:
            weight.normal_(0, (0.3 if last and last in name else 1) / weight[0].numel() ** 0.5)
        else:
            weight.normal_(1 if name.endswith(("weight", "scale", "gamma")) else 0, 0.05)
    return {name: weight.detach().clone() for name, weight in network.state_dict().items()}


def flux1_kontext() -> Weights:
    shape = {**FLUX, "in_channels": 16, "out_channels": 16, "vec_in_dim": TEXT, "context_in_dim": TEXT}
    kind = {"mlp_ratio": 4.0, "qkv_bias": True, "guidance_embed": True}
    return filled(comfy.ldm.flux.model.Flux(image_model="flux", **shape, **kind, **OPERATIONS), "final_layer.linear")


def flux2_klein() -> Weights:
    shape = {**FLUX, "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "context_in_dim": 3 * TEXT}
    shape |= {"theta": 2000, "patch_size": 1, "axes_dim": ROTARY["flux2"]}
    kind = {"mlp_ratio": 3.0, "qkv_bias": False, "ops_bias": False, "guidance_embed": False}
    kind |= {"global_modulation": True, "mlp_silu_act": True}
    return filled(comfy.ldm.flux.model.Flux(image_model="flux2", **shape, **kind, **OPERATIONS), "final_layer.linear")


def z_image() -> Weights:
    shape = {"in_channels": 16, "dim": WIDTH, "n_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": TEXT}
    kind = {"qk_norm": True, "ffn_dim_multiplier": 8 / 3, "axes_dims": ROTARY["z_image"], "axes_lens": [1536, 512, 512]}
    kind |= {"z_image_modulation": True, "pad_tokens_multiple": 32}
    return filled(comfy.ldm.lumina.model.NextDiT(**shape, **kind, **OPERATIONS), "final_layer.linear")


def qwen_image(reference_method: str = "index") -> Weights:
    shape = {"num_layers": 1, "default_ref_method": reference_method}
    return filled(comfy.ldm.qwen_image.model.QwenImageTransformer2DModel(**shape, **OPERATIONS), "proj_out")


def qwen3() -> Weights:
    return filled(comfy.text_encoders.llama.Qwen3_4B({}, torch.float32, "cpu", comfy.ops.manual_cast))


def qwen25_vl() -> Weights:
    return filled(comfy.text_encoders.llama.Qwen25_7BVLI({}, torch.float32, "cpu", comfy.ops.manual_cast))


def part_of_flux_clip(name: str) -> Weights:
    both = comfy.text_encoders.flux.FluxClipModel(torch.float32, "cpu", torch.float32)
    return filled(getattr(both, name).transformer)


def flux1_vae() -> Weights:
    part = "comfy.ldm.modules.diffusionmodules.model."
    regularizer = {"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"}
    coders = {
        f"{name.lower()}_config": {"target": part + name, "params": {**KL, "z_channels": 16}}
        for name in ("Encoder", "Decoder")
    }
    return filled(comfy.ldm.models.autoencoder.AutoencodingEngine(regularizer_config=regularizer, **coders))


def flux2_vae() -> Weights:
    shape = {**KL, "z_channels": 32, "batch_norm_latent": True}
    return filled(comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=shape, embed_dim=32))


def qwen_image_vae() -> Weights:
    return filled(comfy.ldm.wan.vae.WanVAE(dim=8, z_dim=16, temperal_downsample=[False, True, True]))


FILES: dict[str, Callable[[], Weights]] = {
    "diffusion_models/flux-2-klein-4b.safetensors": flux2_klein,
    "diffusion_models/flux1-dev-kontext_fp8_scaled.safetensors": flux1_kontext,
    "diffusion_models/z_image_turbo_bf16.safetensors": z_image,
    "diffusion_models/qwen_image_fp8_e4m3fn.safetensors": qwen_image,
    "diffusion_models/qwen_image_edit_2511_fp8mixed.safetensors": lambda: qwen_image("index_timestep_zero"),
    "text_encoders/qwen_3_4b.safetensors": qwen3,
    "text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors": qwen25_vl,
    "text_encoders/clip_l.safetensors": lambda: part_of_flux_clip("clip_l"),
    "text_encoders/t5xxl_fp8_e4m3fn_scaled.safetensors": lambda: part_of_flux_clip("t5xxl"),
    "vae/ae.safetensors": flux1_vae,
    "vae/flux2-vae.safetensors": flux2_vae,
    "vae/qwen_image_vae.safetensors": qwen_image_vae,
}
