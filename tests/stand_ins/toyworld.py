"""The toy world with random weights: the files of `core/toyworld/weights`, in a folder of a test."""

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from story_identity.core.toyworld.models import store
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.core.toyworld.vae import ToyVAE
from story_identity.lab.toyworld.ldm_keys import unet_to_ldm
from story_identity.lab.toyworld.training.text_encoder import new_text_encoder, write_tokenizer

from tests.stand_ins.clip_vision import vision_model
from tests.stand_ins.weights import Shapes, join, linear, norm, random_weights

WIDTH, MLP, LAYERS = 128, 256, 2  # of the vision tower
RANK = 4


def make_random_toyworld(folder, seed=0):
    """Write unet, vae, text_encoder, tokenizer and photomaker; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(**TOY_WORLD.unet)
    save_file(store(unet_to_ldm(unet.state_dict())), folder / "unet.safetensors")
    save_file(store(ToyVAE().state_dict()), folder / "vae.safetensors")
    text = {_published(key): value for key, value in new_text_encoder(seed).state_dict().items()}
    save_file(store(text), folder / "text_encoder.safetensors")
    write_tokenizer(folder / "tokenizer")
    save_file(store(random_photomaker(unet)), folder / "photomaker.safetensors")
    return folder


def random_photomaker(unet):
    """Flat keys: an encoder as wide as the toy world's prompts, and a LoRA on every attention of this UNet."""
    encoder = random_weights(_encoder_shapes(), seed=6)
    lora: Shapes = {}
    for name, module in unet.named_modules():
        if name.endswith(("to_q", "to_k", "to_v", "to_out.0")):
            lora |= linear(f"unet.{name}.lora_A", module.in_features, RANK, bias=False)
            lora |= linear(f"unet.{name}.lora_B", RANK, module.out_features, bias=False)
    return {f"id_encoder.{key}": value for key, value in encoder.items()} | {
        f"lora_weights.{key}": 0.3 * value for key, value in random_weights(lora, seed=7).items()
    }


def _encoder_shapes() -> Shapes:
    parts: list[Shapes] = [vision_model(WIDTH, MLP, LAYERS, TOY_WORLD.picture_side // 8, TOY_WORLD.picture_side)]
    width = TOY_WORLD.text_width
    parts += [linear(name, WIDTH, width // 2, bias=False) for name in ("visual_projection", "visual_projection_2")]
    for name, n_in in (("mlp1", 2 * width), ("mlp2", width)):
        parts += [norm(f"fuse_module.{name}.layernorm", n_in)]
        parts += [linear(f"fuse_module.{name}.fc1", n_in, width)]
        parts += [linear(f"fuse_module.{name}.fc2", width, width)]
    return join(*parts, norm("fuse_module.layer_norm", width))


def _published(key):
    """As the weights are stored: with the prefix that transformers 5 left out of its classes."""
    return key if key.startswith("text_model.") else f"text_model.{key}"
