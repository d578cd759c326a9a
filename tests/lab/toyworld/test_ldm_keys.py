"""LDM names: diffusers' own converter must find its way back from them, for the toy world's sizes and others."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.lab.toyworld.ldm_keys import unet_to_ldm
from torch import Tensor

# Three levels of two layers, attention only in the middle one; and one level, which has nothing to resample.
UNEVEN = {
    "layers_per_block": 2,
    "block_out_channels": (8, 16, 24),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 2,
    "cross_attention_dim": 12,
    "norm_num_groups": 4,
}
FLAT = {
    **UNEVEN,
    "layers_per_block": 1,
    "block_out_channels": (8,),
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",),
}


@pytest.mark.parametrize("sizes", [TOY_WORLD.unet, UNEVEN, FLAT])
def test_diffusers_converts_a_unet_back(sizes: dict[str, Any]) -> None:
    unet = UNet2DConditionModel(**sizes)
    stored = unet_to_ldm(unet.state_dict())
    back = convert_ldm_unet_checkpoint({f"model.diffusion_model.{key}": each for key, each in stored.items()}, sizes)
    assert_same(back, unet.state_dict())


def test_some_names_of_stable_diffusion_1_5() -> None:
    """As in the single files: four levels of two layers, no attention in the lowest."""
    state = {
        name: torch.zeros(1)
        for name in (
            "down_blocks.0.resnets.0.norm1.weight",
            "down_blocks.0.resnets.1.norm1.weight",
            "down_blocks.3.resnets.1.conv1.bias",
            "down_blocks.2.downsamplers.0.conv.weight",
            "up_blocks.0.upsamplers.0.conv.weight",
            "up_blocks.1.attentions.0.norm.weight",
            "up_blocks.1.upsamplers.0.conv.weight",
            "mid_block.resnets.1.time_emb_proj.weight",
        )
    }
    assert list(unet_to_ldm(state)) == [
        "input_blocks.1.0.in_layers.0.weight",
        "input_blocks.2.0.in_layers.0.weight",
        "input_blocks.11.0.in_layers.2.bias",
        "input_blocks.9.0.op.weight",
        "output_blocks.2.1.conv.weight",
        "output_blocks.3.1.norm.weight",
        "output_blocks.5.2.conv.weight",
        "middle_block.2.emb_layers.1.weight",
    ]


def test_a_weight_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match='"add_embedding.linear_1.weight" has no place'):
        unet_to_ldm({"add_embedding.linear_1.weight": torch.zeros(1)})


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for key, tensor in one.items():
        assert torch.equal(tensor, other[key]), key
