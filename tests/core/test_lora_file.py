"""Which LoRAs fit a network: the product of both matrices must have the weight's shape."""

import pytest
import torch
from story_identity.core.lora_file import check_lora

LAYERS = {"mid.to_q": (6, 4), "mid.conv": (6, 4, 3, 3)}


def lora(layer, down, up):
    return {f"unet.{layer}.lora_A.weight": torch.zeros(down), f"unet.{layer}.lora_B.weight": torch.zeros(up)}


@pytest.mark.parametrize(
    ("layer", "down", "up"),
    [
        ("mid.to_q", (2, 4), (6, 2)),
        ("mid.to_q", (2, 4, 1, 1), (6, 2, 1, 1)),
        ("mid.conv", (2, 4, 3, 3), (6, 2, 1, 1)),
    ],
)
def test_linear_layers_and_convolutions_are_taken(layer, down, up):
    check_lora(lora(layer, down, up), LAYERS, "file", throughout=False)


@pytest.mark.parametrize(
    ("layer", "down", "up"),
    [
        ("mid.to_q", (2, 5), (6, 2)),
        ("mid.to_q", (2, 4), (4, 2)),
        ("mid.to_q", (2, 4, 3, 3), (6, 2, 1, 1)),
        ("mid.conv", (2, 4), (6, 2)),
        ("mid.conv", (2, 4, 5, 5), (6, 2, 1, 1)),
        ("mid.conv", (2, 4, 3, 3), (6, 2, 3, 3)),
    ],
)
def test_another_shape_is_refused_by_name(layer, down, up):
    with pytest.raises(ValueError, match=rf"{layer} has matrices of .* for weights of"):
        check_lora(lora(layer, down, up), LAYERS, "file", throughout=False)
