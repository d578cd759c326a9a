"""The towers' tensors against transformers' own networks."""

import pytest
import torch
from story_identity.core.clip_shapes import text_tower, vision_tower
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

SIZES = {"hidden_size": 20, "intermediate_size": 44, "num_attention_heads": 2}


def shapes_of(network, root):
    """As files name them; transformers 5 leaves the root out of its own names."""
    names = {key: key if key.startswith(root) else f"{root}.{key}" for key in network.state_dict()}
    return {names[key]: tuple(value.shape) for key, value in network.state_dict().items()}


@pytest.mark.parametrize("layers", [1, 3])
def test_the_image_encoders_tensors_are_transformers(layers):
    config = CLIPVisionConfig(**SIZES, num_hidden_layers=layers, patch_size=7, image_size=28)
    with torch.device("meta"):
        expected = shapes_of(CLIPVisionModel(config), "vision_model")
    assert vision_tower(config.to_dict()) == expected


@pytest.mark.parametrize("layers", [1, 3])
def test_the_text_encoders_tensors_are_transformers(layers):
    config = CLIPTextConfig(**SIZES, num_hidden_layers=layers, vocab_size=31, max_position_embeddings=9)
    with torch.device("meta"):
        expected = shapes_of(CLIPTextModel(config), "text_model")
    assert text_tower(config.to_dict()) == expected
