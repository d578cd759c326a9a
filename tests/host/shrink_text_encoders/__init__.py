"""For tests only: the host builds SDXL's text encoders with the few layers the stand-in checkpoint has."""

import comfy.sdxl_clip

SMALL = {"num_hidden_layers": 3, "intermediate_size": 64}
NODE_CLASS_MAPPINGS: dict[str, type] = {}

build = comfy.sdxl_clip.SDXLClipModel.__init__


def build_small(self, device="cpu", dtype=None, model_options=None):
    small = {"clip_l_model_config": SMALL, "clip_g_model_config": SMALL}
    build(self, device=device, dtype=dtype, model_options={**(model_options or {}), **small})


comfy.sdxl_clip.SDXLClipModel.__init__ = build_small
