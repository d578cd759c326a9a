"""A random SD1.5 checkpoint of the least size that the host takes for SD1.5.

The host tells SD1.5 by width 320, context 768, transformers with convolutions and no label embedding, so these stay;
two levels are left of four, both with attention. The text encoder is as short as the stand-in SDXL's.
"""

from pathlib import Path

from safetensors.torch import save_file

from tests.stand_ins.sdxl import clip_l, tiny_vae
from tests.stand_ins.unet import UNetShape, unet_weights

UNET = UNetShape(320, (1, 1), (1, 1), middle_depth=1, context=768, label=None, linear=False)
ATTENTIONS = 11  # transformer layers: 4 on the way down, 1 in the middle, 6 on the way up
LATENT_SCALE = 0.18215


def write_sd15(path: Path) -> None:
    unet = {f"model.diffusion_model.{name}": weight for name, weight in unet_weights(UNET, seed=8).items()}
    save_file(unet | tiny_vae(LATENT_SCALE) | clip_l("cond_stage_model.transformer.text_model"), path)
