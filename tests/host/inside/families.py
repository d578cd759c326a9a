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
from family_shapes import (
    ANIMA,
    AURA,
    CASCADE,
    CHROMA,
    COSMOS,
    ERNIE,
    FLUX,
    FLUX2,
    HIDREAM,
    HUNYUAN_IMAGE,
    KREA2,
    LUMINA,
    OMNIGEN2,
    QWEN,
    QWEN_EDIT,
    SD3,
    TEXT,
    WAN,
    Z_IMAGE,
)
from torch import Tensor

Conditioning = list[list]
Latent = dict[str, Any]


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
        return Family(name, build, width, four_channels, pooled=pooled, flow=False, side=64)

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

    yield family("Qwen-Image", transformer(host.QwenImage, QWEN))
    yield family("Qwen-Image-Edit", transformer(host.QwenImage, QWEN_EDIT))
    yield family("Krea 2", transformer(host.Krea2, KREA2), width=120)
    yield family("Anima", anima(ANIMA))
    yield family("Cosmos-Predict2", transformer(host.CosmosT2IPredict2, COSMOS), flow=False)
    yield family("Wan 2.1", transformer(host.WAN21_T2V, WAN), empty=one_moment)


FAMILIES: dict[str, Family] = {
    family.name: family
    for families in (_of_unets(), _of_four_dimensions(), _of_five_dimensions())
    for family in families
}
