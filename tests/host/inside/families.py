"""Tiny models with random weights of every family of image models, built from the host's own classes.

`FAMILIES` maps a family's name, as people know it, to what a check needs of it: a model, a prompt that it reads, the
empty latent of the stock node that its workflows use, and a picture's side. Sizes are as small as each class allows;
what has a layer has one or two of it. The weights make mild denoisers, whose predictions depend on the picture, on the
noise level and on the prompt.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import comfy.ldm.anima.model
import comfy.model_base
import comfy.model_detection
import comfy.model_patcher
import comfy.supported_models as host
import setting
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

Conditioning = list[list]
Latent = dict[str, Any]

TEXT = 48
"""How wide the prompts of the transformers are, where the class does not fix it."""


@dataclass(frozen=True)
class Family:
    """One kind of model.

    Args:
        name: As people know it.
        build: A model from a seed; equal seeds are equal weights.
        width: Of the prompt's tokens.
        empty: The stock node's empty latent, from height, width (in pixels) and the batch size.
        ratio: Pixels per latent cell, along each side.
        pooled: Width of the pooled prompt, for those that read it.
        extras: What else a prompt carries, each from a seed and the number of tokens.
        side: Height and width of the pictures that checks draw, in pixels.
        flow: Whether it was trained by flow matching.
        moments: Whether its latents have five dimensions, for a video of one moment.
    """

    name: str
    build: Callable[[int], ModelPatcher]
    width: int
    empty: Callable[[int, int, int], Latent]
    ratio: int = 8
    pooled: int | None = None
    extras: tuple[tuple[str, Callable[[int, int], Tensor]], ...] = ()
    side: int = 128
    flow: bool = True
    moments: bool = False

    def make(self, seed: int = 1) -> ModelPatcher:
        """A new model each time, so that what one check leaves on its weights is nobody else's."""
        return self.build(seed)

    def conditioning(self, seed: int, tokens: int = 12) -> Conditioning:
        """A prompt of random numbers; equal seeds and numbers of tokens are equal prompts."""
        more = {name: make(seed, tokens) for name, make in self.extras}
        if self.pooled is not None:
            more["pooled_output"] = random(seed + 1000, 1, self.pooled)
        return [[random(seed, 1, tokens, self.width), more]]

    def latent(self, height: int | None = None, width: int | None = None, batch: int = 1) -> Latent:
        """The empty latent of the stock node, for a picture of a size in pixels (by default `side` x `side`)."""
        return self.empty(height or self.side, width or self.side, batch)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Models


def transformer(config_class: type, shape: dict[str, Any]) -> Callable[[int], ModelPatcher]:
    """How a transformer of one of the host's classes is built from a seed."""

    def build(seed: int) -> ModelPatcher:
        config = config_class(dict(shape))
        config.unet_config.update(shape)  # over the class's own sizes
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model({}, "", device="cpu")
        fill(model.diffusion_model, seed)
        return patcher(model)

    return build


def unet(config_class: type, shape: Any, marks: dict[str, Tensor] | None = None) -> Callable[[int], ModelPatcher]:
    """How a UNet is built from a seed; `marks` are the keys by which the host tells kinds of noise."""

    def build(seed: int) -> ModelPatcher:
        weights = setting.unet_weights(shape, seed, torch.float32)
        config = config_class(comfy.model_detection.detect_unet_config(weights, ""))
        config.unet_config |= {"num_heads": -1, "num_head_channels": 16}
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model({**weights, **(marks or {})}, "", device="cpu")
        model.diffusion_model.load_state_dict(weights)
        return patcher(model)

    return build


def patcher(model: Any) -> ModelPatcher:
    model.eval()
    cpu = torch.device("cpu")
    return comfy.model_patcher.CoreModelPatcher(model, load_device=cpu, offload_device=cpu)


LAST = ("final_layer.linear", "proj_out.weight", "last.linear", "head.head", "clf.1", "norm_out.linear_2")
"""Parts of the names of the layers that give the prediction; small ones keep it mild."""
TOKENS = ("table", "pad_token")
"""Parts of the names of learned tokens, which are matrices without being layers."""


@torch.no_grad()
def fill(network: torch.nn.Module, seed: int) -> None:
    """Random weights by which every layer keeps the size of what it is given."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in sorted(network.named_parameters()):
        value = torch.randn(weight.shape, generator=generator)
        kind = name.rsplit(".", 1)[-1]
        if weight.ndim >= 2 and kind != "lin" and not any(part in name for part in TOKENS):
            value /= weight[0].numel() ** 0.5 * (1 if not any(part in name for part in LAST) else 1 / 0.3)
        elif kind == "weight" and weight.ndim == 1:
            value = 1 + 0.1 * value
        else:
            value *= {"scale": 0.1, "bias": 0.05}.get(kind, 0.3)
        weight.copy_(value)
    for name, buffer in network.named_buffers():
        if buffer.is_floating_point() and "pos_embed" in name:  # comes with the weights
            buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))


class NoAdapter(torch.nn.Module):
    """In place of Anima's adapter for T5's tokens: 130 million weights of a fixed size, unused without such tokens."""

    def __init__(self, **_: Any) -> None:
        super().__init__()


@contextmanager
def without_adapter() -> Iterator[None]:
    module = comfy.ldm.anima.model
    kept, module.LLMAdapter = module.LLMAdapter, NoAdapter
    try:
        yield
    finally:
        module.LLMAdapter = kept


def anima(shape: dict[str, Any]) -> Callable[[int], ModelPatcher]:
    build = transformer(host.Anima, shape)

    def small(seed: int) -> ModelPatcher:
        with without_adapter():
            return build(seed)

    return small


class SD21V(host.SD20):
    """SD2.1 of the kind that predicts v; the host tells it by the weights' spread."""

    def model_type(self, state_dict: dict[str, Tensor], prefix: str = "") -> comfy.model_base.ModelType:
        return comfy.model_base.ModelType.V_PREDICTION


SD21 = replace(setting.SD15, context=1024, linear=True)
SSD1B = replace(setting.SDXL, depths=(0, 2, 4), output_depths=(0, 1, 2), middle_depth=-1)

FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 32,
    "context_in_dim": TEXT,
    "hidden_size": 64,
    "mlp_ratio": 2.0,
    "num_heads": 2,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [8, 12, 12],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
    "yak_mlp": False,
    "txt_norm": False,
}
FLUX2 = {
    **FLUX,
    "image_model": "flux2",
    "in_channels": 128,
    "out_channels": 128,
    "vec_in_dim": None,
    "mlp_ratio": 3.0,
    "axes_dim": [8, 8, 8, 8],
    "theta": 2000,
    "patch_size": 1,
    "qkv_bias": False,
    "ops_bias": False,
    "global_modulation": True,
    "mlp_silu_act": True,
    "default_ref_method": "index",
    "ref_index_scale": 10.0,
    "txt_ids_dims": [3],
}
CHROMA = {
    **{key: FLUX[key] for key in ("context_in_dim", "hidden_size", "mlp_ratio", "num_heads", "depth", "qkv_bias")},
    **{key: FLUX[key] for key in ("depth_single_blocks", "axes_dim", "theta", "patch_size", "txt_ids_dims")},
    "image_model": "chroma",
    "in_channels": 64,
    "out_channels": 64,
    "in_dim": 64,
    "out_dim": 64,
    "hidden_dim": 64,
    "n_layers": 1,
    "vec_in_dim": None,
}
QWEN = {
    "image_model": "qwen_image",
    "in_channels": 64,
    "num_layers": 1,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "joint_attention_dim": TEXT,
    "axes_dims_rope": (8, 12, 12),
}
LUMINA = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 16,
    "dim": 96,
    "cap_feat_dim": TEXT,
    "n_layers": 1,
    "n_refiner_layers": 1,
    "qk_norm": True,
    "n_heads": 3,
    "n_kv_heads": 1,
    "axes_dims": [8, 12, 12],
    "axes_lens": [256, 64, 64],
    "rope_theta": 10000.0,
    "ffn_dim_multiplier": 1.0,
}
Z_IMAGE = {
    **LUMINA,
    "dim": 256,
    "n_heads": 8,
    "n_kv_heads": 8,
    "rope_theta": 256.0,
    "z_image_modulation": True,
    "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}
HIDREAM = {
    "image_model": "hidream",
    "attention_head_dim": 32,
    "axes_dims_rope": [16, 8, 8],
    "caption_channels": [TEXT, 40],
    "max_resolution": [128, 128],
    "in_channels": 16,
    "out_channels": 16,
    "llama_layers": [0, 1],
    "num_attention_heads": 2,
    "num_routed_experts": 2,
    "num_activated_experts": 1,
    "num_layers": 1,
    "num_single_layers": 1,
    "patch_size": 2,
    "text_emb_dim": 32,
}
KREA2 = {
    "image_model": "krea2",
    "features": 64,
    "channels": 16,
    "patch": 2,
    "layers": 2,
    "heads": 2,
    "kvheads": 1,
    "txtlayers": 3,
    "txtdim": 40,
    "txtheads": 2,
    "txtkvheads": 2,
    "tdim": 64,
}
COSMOS = {
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 64,
    "concat_padding_mask": True,
    "crossattn_emb_channels": TEXT,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop",
    "min_fps": 1,
    "max_fps": 30,
    "use_adaln_lora": True,
    "adaln_lora_dim": 32,
    "num_blocks": 1,
    "num_heads": 2,
    "extra_per_block_abs_pos_emb": False,
    **{f"rope_{axis}_extrapolation_ratio": ratio for axis, ratio in zip("hwt", (4.0, 4.0, 1.0), strict=True)},
    **{f"extra_{axis}_extrapolation_ratio": 1.0 for axis in "hwt"},
    "rope_enable_fps_modulation": False,
}
WAN = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "dim": 48,
    "in_dim": 16,
    "out_dim": 16,
    "num_heads": 2,
    "ffn_dim": 96,
    "num_layers": 1,
    "patch_size": (1, 2, 2),
    "freq_dim": 256,
    "window_size": (-1, -1),
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
    "text_dim": TEXT,
    "text_len": 12,
}
HUNYUAN_IMAGE = {
    **{key: FLUX[key] for key in ("context_in_dim", "hidden_size", "mlp_ratio", "num_heads", "depth", "qkv_bias")},
    "image_model": "hunyuan_video",
    "in_channels": 64,
    "out_channels": 64,
    "patch_size": [1, 1],
    "vec_in_dim": None,
    "axes_dim": [16, 16],
    "depth_single_blocks": 1,
    "theta": 256,
    "vision_in_dim": None,
    **dict.fromkeys(("meanflow", "byt5", "guidance_embed", "use_cond_type_embedding", "meanflow_sum"), False),
}
OMNIGEN2 = {
    "image_model": "omnigen2",
    "axes_dim_rope": [8, 12, 12],
    "axes_lens": [256, 128, 128],
    "ffn_dim_multiplier": None,
    "hidden_size": 96,
    "in_channels": 16,
    "out_channels": None,
    "multiple_of": 32,
    "norm_eps": 1e-5,
    "num_attention_heads": 3,
    "num_kv_heads": 1,
    "num_layers": 1,
    "num_refiner_layers": 1,
    "patch_size": 2,
    "text_feat_dim": TEXT,
    "timestep_scale": 1000.0,
}
CASCADE = {
    "stable_cascade_stage": "c",
    "c_cond": 64,
    "c_hidden": [64, 64],
    "nhead": [2, 2],
    "blocks": [[1, 1], [1, 1]],
    "c_clip_text": 1280,
    "c_clip_text_pooled": 1280,
}
SD3 = {
    "input_size": None,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "depth": 2,
    "adm_in_channels": 32,
    "qk_norm": "rms",
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": TEXT, "out_features": 128},  # 64 for each layer
    },
    "num_patches": 1024,
    "pos_embed_max_size": 32,
    "pos_embed_scaling_factor": None,
    "x_block_self_attn_layers": [0],
}
AURA = {
    "max_seq": 64 * 64,
    "cond_seq_dim": TEXT,
    "n_double_layers": 1,
    "n_layers": 2,
    "n_heads": 2,
    "dim": 128,
    "global_conddim": 128,
}
ERNIE = {
    "image_model": "ernie",
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_layers": 1,
    "ffn_hidden_size": 96,
    "text_in_dim": TEXT,
    "rope_axes_dim": (8, 12, 12),
}


# Empty latents of the stock nodes


def four_channels(height: int, width: int, batch: int) -> Latent:
    import nodes

    return nodes.EmptyLatentImage().generate(width, height, batch)[0]


def sixteen_channels(height: int, width: int, batch: int) -> Latent:
    from comfy_extras.nodes_sd3 import EmptySD3LatentImage

    return EmptySD3LatentImage.execute(width, height, batch).result[0]


def flux2_latent(height: int, width: int, batch: int) -> Latent:
    from comfy_extras.nodes_flux import EmptyFlux2LatentImage

    return EmptyFlux2LatentImage.execute(width, height, batch).result[0]


def one_moment(height: int, width: int, batch: int) -> Latent:
    from comfy_extras.nodes_hunyuan import EmptyHunyuanLatentVideo

    return EmptyHunyuanLatentVideo.execute(width, height, 1, batch).result[0]


def hunyuan_latent(height: int, width: int, batch: int) -> Latent:
    from comfy_extras.nodes_hunyuan import EmptyHunyuanImageLatent

    return EmptyHunyuanImageLatent.execute(width, height, batch).result[0]


def cascade_latent(height: int, width: int, batch: int) -> Latent:
    from comfy_extras.nodes_stable_cascade import StableCascade_EmptyLatentImage

    return StableCascade_EmptyLatentImage.execute(width, height, 42, batch).result[0]


# Families


def _of_unets() -> Iterator[Family]:
    def family(name: str, build: Callable[[int], ModelPatcher], width: int, pooled: int | None = None) -> Family:
        return Family(name, build, width, four_channels, pooled=pooled, flow=False)

    v_without_end = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    yield family("SD1.5", unet(host.SD15, setting.SD15), 768)
    yield family("SD2.1", unet(SD21V, SD21), 1024)
    yield family("SDXL", unet(host.SDXL, setting.SDXL), 2048, 1280)
    yield family("SDXL v-prediction", unet(host.SDXL, setting.SDXL, v_without_end), 2048, 1280)
    yield family("SSD-1B", unet(host.SSD1B, SSD1B), 2048, 1280)


def _of_four_dimensions() -> Iterator[Family]:
    def family(name: str, config_class: type, shape: dict[str, Any], **more: Any) -> Family:
        return Family(name, transformer(config_class, shape), **{"width": TEXT, "empty": sixteen_channels, **more})

    plain = {**FLUX, "guidance_embed": False}
    layers = (("conditioning_llama3", lambda seed, tokens: random(seed + 7, 1, 2, tokens, 40)),)
    every_token = (("attention_mask", lambda seed, tokens: torch.ones(1, tokens, dtype=torch.long)),)
    yield family("SD3.5", host.SD3, SD3, pooled=32)
    yield family("Flux.1", host.Flux, FLUX, pooled=32)
    yield family("Flux.1 schnell", host.FluxSchnell, plain, pooled=32)
    yield family("Flux.2", host.Flux2, FLUX2, empty=flux2_latent, ratio=16)
    yield family("Flux.2 klein", host.Flux2, {**FLUX2, "guidance_embed": False}, empty=flux2_latent, ratio=16)
    yield family("Chroma", host.Chroma, CHROMA)
    yield family("Z-Image", host.ZImage, Z_IMAGE)
    yield family("Lumina2", host.Lumina2, LUMINA)
    yield family("HiDream", host.HiDream, HIDREAM, pooled=32, extras=layers)
    yield family("OmniGen2", host.Omnigen2, OMNIGEN2, extras=every_token)
    yield family("LongCat-Image", host.LongCatImage, {**plain, "vec_in_dim": None, "txt_ids_dims": [1, 2]})
    yield family("AuraFlow", host.AuraFlow, AURA, empty=four_channels)
    yield family("Ernie-Image", host.ErnieImage, ERNIE, empty=flux2_latent, ratio=16)
    yield family("HunyuanImage 2.1", host.HunyuanImage21, HUNYUAN_IMAGE, empty=hunyuan_latent, ratio=32, side=256)
    cascade = {"width": 1280, "pooled": 1280, "flow": False}
    yield family("Stable Cascade", host.Stable_Cascade_C, CASCADE, empty=cascade_latent, ratio=42, side=336, **cascade)


def _of_five_dimensions() -> Iterator[Family]:
    def family(name: str, build: Callable[[int], ModelPatcher], **more: Any) -> Family:
        return Family(name, build, **{"width": TEXT, "empty": sixteen_channels, "moments": True, **more})

    edit = {**QWEN, "default_ref_method": "index_timestep_zero"}
    predict2 = {"image_model": "cosmos_predict2", **COSMOS}
    yield family("Qwen-Image", transformer(host.QwenImage, QWEN))
    yield family("Qwen-Image-Edit", transformer(host.QwenImage, edit))
    yield family("Krea 2", transformer(host.Krea2, KREA2), width=120)
    yield family("Anima", anima({"image_model": "anima", **COSMOS}))
    yield family("Cosmos-Predict2", transformer(host.CosmosT2IPredict2, predict2), flow=False)
    yield family("Wan 2.1", transformer(host.WAN21_T2V, WAN), empty=one_moment)


FAMILIES: dict[str, Family] = {
    family.name: family
    for families in (_of_unets(), _of_four_dimensions(), _of_five_dimensions())
    for family in families
}
