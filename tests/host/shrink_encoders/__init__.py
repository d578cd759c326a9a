"""For tests only: the host builds the text encoders of SD1.5 and SDXL, and CLIP's image encoder, as small as the
stand-in files have them.
"""

import json
from pathlib import Path

import comfy.clip_vision
import comfy.sd1_clip
import comfy.sdxl_clip

SHORT = {"num_hidden_layers": 3, "intermediate_size": 64}
NARROW = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2}
NODE_CLASS_MAPPINGS: dict[str, type] = {}

build_text_encoder = comfy.sd1_clip.SD1ClipModel.__init__
build_two_text_encoders = comfy.sdxl_clip.SDXLClipModel.__init__
build_image_encoder = comfy.clip_vision.ClipVisionModel.__init__


def short(model_options):
    return {**(model_options or {}), "clip_l_model_config": SHORT, "clip_g_model_config": SHORT}


def build_short(self, device="cpu", dtype=None, model_options=None, **more):
    if not more:  # SD1.5's own; others, such as the toy world's, say which encoder they mean
        model_options = short(model_options)
    build_text_encoder(self, device=device, dtype=dtype, model_options=model_options or {}, **more)


def build_two_short(self, device="cpu", dtype=None, model_options=None):
    build_two_text_encoders(self, device=device, dtype=dtype, model_options=short(model_options))


def build_narrow(self, config):
    """A file of the host's describes CLIP itself; who hands over a dict, such as the toy world, means that."""
    if not isinstance(config, dict):
        config = json.loads(Path(config).read_text(encoding="utf-8")) | NARROW
    build_image_encoder(self, config)


comfy.sd1_clip.SD1ClipModel.__init__ = build_short
comfy.sdxl_clip.SDXLClipModel.__init__ = build_two_short
comfy.clip_vision.ClipVisionModel.__init__ = build_narrow
