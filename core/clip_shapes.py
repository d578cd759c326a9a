"""Which tensors CLIP's towers consist of, by their sizes and in transformers' names, without building a network.

A file is compared with them before anything is built, in both hosts alike.
"""

from collections.abc import Mapping
from typing import Any

Shapes = dict[str, tuple[int, ...]]


def vision_tower(config: Mapping[str, Any]) -> Shapes:
    """The image encoder without a projection; `config` has the names of transformers' CLIPVisionConfig."""
    width, patch, root = config["hidden_size"], config["patch_size"], "vision_model"
    return {
        f"{root}.embeddings.class_embedding": (width,),
        f"{root}.embeddings.patch_embedding.weight": (width, config["num_channels"], patch, patch),
        f"{root}.embeddings.position_embedding.weight": ((config["image_size"] // patch) ** 2 + 1, width),
        **norm(f"{root}.pre_layrnorm", width),  # transformers' spelling
        **_layers(root, config),
        **norm(f"{root}.post_layernorm", width),
    }


def text_tower(config: Mapping[str, Any]) -> Shapes:
    """The text encoder without a projection; `config` has the names of transformers' CLIPTextConfig."""
    width, root = config["hidden_size"], "text_model"
    return {
        f"{root}.embeddings.token_embedding.weight": (config["vocab_size"], width),
        f"{root}.embeddings.position_embedding.weight": (config["max_position_embeddings"], width),
        **_layers(root, config),
        **norm(f"{root}.final_layer_norm", width),
    }


def norm(name: str, width: int) -> Shapes:
    """A layer or group norm."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def linear(name: str, width_in: int, width_out: int) -> Shapes:
    """A linear layer with a bias."""
    return {f"{name}.weight": (width_out, width_in), f"{name}.bias": (width_out,)}


def _layers(root: str, config: Mapping[str, Any]) -> Shapes:
    width, hidden = config["hidden_size"], config["intermediate_size"]
    shapes: Shapes = {}
    for number in range(config["num_hidden_layers"]):
        name = f"{root}.encoder.layers.{number}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{name}.self_attn.{part}", width, width)
        shapes |= norm(f"{name}.layer_norm1", width) | norm(f"{name}.layer_norm2", width)
        shapes |= linear(f"{name}.mlp.fc1", width, hidden) | linear(f"{name}.mlp.fc2", hidden, width)
    return shapes
