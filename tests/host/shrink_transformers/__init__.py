"""For tests only: the host builds diffusion transformers, their text encoders and VAEs as narrow as the stand-in files
have them, which this pack writes with the host's own classes (files.py).

The host tells what a file is by widths of the real networks. Where it does, it is shown those; all else is as it comes.
"""

from dataclasses import make_dataclass
from typing import Any

import comfy.ldm.lumina.model
import comfy.ldm.modules.diffusionmodules.model
import comfy.ldm.qwen_image.model
import comfy.model_detection
import comfy.sd
import comfy.text_encoders.flux
import comfy.text_encoders.llama
import torch
from comfy.text_encoders import qwen_vl

from .files import TEXT, WIDTH, write_all

NODE_CLASS_MAPPINGS: dict[str, type] = {}


def narrowed(kind: type, **sizes: Any) -> None:
    """A class builds its networks with these sizes, whatever it is asked for."""
    build = kind.__init__

    def build_narrow(self: Any, *args: Any, **given: Any) -> None:
        build(self, *args, **{**given, **sizes})

    kind.__init__ = build_narrow


def narrowed_encoder(kind: type) -> None:
    """The encoder of these VAEs is as narrow as their decoder, which the host builds by the file."""
    build = kind.__init__

    def build_narrow(self: Any, *, ch: int, z_channels: int, **given: Any) -> None:
        build(self, ch=32 if z_channels in (16, 32) else ch, z_channels=z_channels, **given)

    kind.__init__ = build_narrow


def narrowed_config(name: str, attributes: dict[str, Any], **sizes: int) -> None:
    """A configuration of the host's language models with other defaults."""
    llama = comfy.text_encoders.llama
    fields = [(field, int, size) for field, size in sizes.items()]
    setattr(llama, name, make_dataclass(name, fields, bases=(getattr(llama, name),), namespace=attributes))


def shown_as(find: Any, *shapes: tuple[str, tuple[int, ...]]) -> Any:
    """`find` sees tensors of these names in these shapes, without data; the files have narrower ones."""

    def finding(weights: dict[str, torch.Tensor], *args: Any, **more: Any) -> Any:
        real = {name: torch.empty(shape, device="meta") for name, shape in shapes if name in weights}
        return find({**weights, **real}, *args, **more)

    return finding


narrowed(comfy.ldm.lumina.model.NextDiT, dim=WIDTH, n_heads=2, n_kv_heads=2, cap_feat_dim=TEXT)
narrowed(comfy.ldm.qwen_image.model.QwenImageTransformer2DModel, num_attention_heads=2, joint_attention_dim=TEXT)
narrowed_encoder(comfy.ldm.modules.diffusionmodules.model.Encoder)
narrowed(qwen_vl.Qwen2VLVisionTransformer, hidden_size=64, intermediate_size=64, num_heads=2, num_layers=8)

LAYERS = {"hidden_size": TEXT, "intermediate_size": 64, "num_attention_heads": 2}
narrowed_config("Qwen3_4BConfig", {"head_dim": 32}, **LAYERS, num_hidden_layers=28, num_key_value_heads=1)
narrowed_config(
    "Qwen25_7BVLI_Config",
    {"head_dim": 32, "rope_dims": [4, 6, 6]},
    **LAYERS,
    num_hidden_layers=2,
    num_key_value_heads=1,
)

build_flux_clip = comfy.text_encoders.flux.FluxClipModel.__init__
CLIP = {"hidden_size": TEXT, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
T5 = {"d_model": TEXT, "d_ff": 64, "d_kv": 32, "num_heads": 2}


def build_narrow_flux_clip(
    self: Any, dtype_t5: Any = None, device: str = "cpu", dtype: Any = None, model_options: Any = None
) -> None:
    options = {**(model_options or {}), "clip_l_model_config": CLIP, "t5xxl_model_config": T5}
    build_flux_clip(self, dtype_t5, device, dtype, options)


comfy.text_encoders.flux.FluxClipModel.__init__ = build_narrow_flux_clip
comfy.model_detection.detect_unet_config = shown_as(
    comfy.model_detection.detect_unet_config, ("cap_embedder.1.weight", (3840, TEXT))
)
comfy.sd.detect_te_model = shown_as(
    comfy.sd.detect_te_model,
    ("model.layers.0.post_attention_layernorm.weight", (2560,)),
    ("model.layers.0.self_attn.k_proj.bias", (512,)),
    ("encoder.block.23.layer.1.DenseReluDense.wi_1.weight", (10240, 4096)),
)
write_all()
