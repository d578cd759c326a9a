"""The toy world's transformer with random weights, as its folder will be, without a network of any host."""

import torch
from safetensors.torch import save_file
from story_identity.core.clip_shapes import text_tower
from story_identity.core.toyworld.flux_layout import shapes_of
from story_identity.core.toyworld.models import store
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.core.toyworld.transformer import TRANSFORMER, transformer_vocabulary
from story_identity.lab.toyworld.training.text_encoder import write_tokenizer

from tests.stand_ins.weights import random_weights


def make_random_transformer(folder, seed=0, sizes=TRANSFORMER):
    """Write transformer, text_encoder and tokenizer; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(store(random_transformer(seed, sizes)), folder / "transformer.safetensors")
    words = transformer_vocabulary()
    text = random_weights(text_tower({**TOY_WORLD.text_encoder, "vocab_size": len(words)}), seed + 1)
    save_file(store(text), folder / "text_encoder.safetensors")
    write_tokenizer(folder / "tokenizer", words)
    return folder


def random_transformer(seed=0, sizes=TRANSFORMER):
    """Weights under their published names: a mild denoiser, which hears text, time and references."""
    weights = random_weights(shapes_of(sizes.layers()), seed, torch.float32)
    for key in weights:
        if key.endswith(".scale"):
            weights[key] += 1
        elif key.startswith("final_layer.linear"):
            weights[key] *= 0.3
    return weights
