"""A random SDXL checkpoint of the least size that the host takes for SDXL, and a ControlNet for it.

The host tells SDXL by width 320, context 2048, label 2816 and the transformer depths, so these stay; the depths are
those of Segmind Vega, the smallest of the family, which gives attention to the same blocks as SDXL itself. The text
encoders have three layers and narrow MLPs; the pack `tests/host/shrink_encoders` lets the host build them so.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.stand_ins.unet import UNetShape, controlnet_weights, unet_weights
from tests.stand_ins.weights import Shapes, conv, join, linear, norm, random_weights

UNET = UNetShape()
CONTROLNET = UNetShape(middle_depth=-1)  # the depths tell the host that it is one for SDXL
TEXT_LAYERS = 3  # the prompt is read off the last but one, and the host wants one more below it
TEXT_MLP = 64
VOCABULARY = 49408
LATENT_SCALE = 0.13025


def write_sdxl(path: Path) -> None:
    unet = {f"model.diffusion_model.{name}": weight for name, weight in unet_weights(UNET, seed=1).items()}
    text = clip_l("conditioner.embedders.0.transformer.text_model") | _clip_g()
    save_file(unet | tiny_vae(LATENT_SCALE) | text, path)


def write_controlnet(path: Path) -> None:
    save_file(controlnet_weights(CONTROLNET, seed=5), path)


def clip_l(root: str) -> dict[str, torch.Tensor]:
    """The text encoder that SD1.5 has too, in the names of transformers."""
    width = 768
    parts: list[Shapes] = [norm(f"{root}.final_layer_norm", width)]
    for layer in range(TEXT_LAYERS):
        name = f"{root}.encoder.layers.{layer}"
        parts += [norm(f"{name}.layer_norm{i}", width) for i in (1, 2)]
        parts += [linear(f"{name}.self_attn.{p}_proj", width, width) for p in ("q", "k", "v", "out")]
        parts += [linear(f"{name}.mlp.fc1", width, TEXT_MLP), linear(f"{name}.mlp.fc2", TEXT_MLP, width)]
    embeddings = {
        f"{root}.embeddings.token_embedding.weight": (VOCABULARY, width),
        f"{root}.embeddings.position_embedding.weight": (77, width),
    }
    return random_weights(join(*parts), seed=2) | _embeddings(embeddings, seed=2)


def _clip_g() -> dict[str, torch.Tensor]:
    """The second text encoder, in the names of open_clip as the real file has them."""
    width, root = 1280, "conditioner.embedders.1.model"
    parts: list[Shapes] = [norm(f"{root}.ln_final", width), {f"{root}.text_projection": (width, width)}]
    for layer in range(TEXT_LAYERS):
        name = f"{root}.transformer.resblocks.{layer}"
        parts += [norm(f"{name}.ln_{i}", width) for i in (1, 2)]
        parts += [{f"{name}.attn.in_proj_weight": (3 * width, width), f"{name}.attn.in_proj_bias": (3 * width,)}]
        parts += [linear(f"{name}.attn.out_proj", width, width)]
        parts += [linear(f"{name}.mlp.c_fc", width, TEXT_MLP), linear(f"{name}.mlp.c_proj", TEXT_MLP, width)]
    embeddings = {
        f"{root}.token_embedding.weight": (VOCABULARY, width),
        f"{root}.positional_embedding": (77, width),
    }
    return random_weights(join(*parts), seed=3) | _embeddings(embeddings, seed=3)


def _embeddings(shapes: Shapes, seed: int) -> dict[str, torch.Tensor]:
    """Word vectors of unit size, places a third of that, so that a word matters wherever it stands."""
    sizes = {name: 1.0 if "token" in name else 0.3 for name in shapes}
    return {name: w * sizes[name] * w.shape[1] ** 0.5 for name, w in random_weights(shapes, seed).items()}


def tiny_vae(scale: float) -> dict[str, torch.Tensor]:
    """The tiny autoencoder that the host takes in place of the full one: eight times down, eight times up."""
    # What stands at each place: "+" a residual block, a pair a convolution, None nothing with weights.
    encoder = [(3, 64), "+", (64, 64), "+", "+", "+", (64, 64), "+", "+", "+", (64, 64), "+", "+", "+", (64, 4)]
    decoder = [None, (4, 64), None, *["+", "+", "+", None, (64, 64)] * 3, "+", (64, 3)]
    parts = []
    for root, places in (("taesd_encoder", encoder), ("taesd_decoder", decoder)):
        for i, place in enumerate(places):
            if place == "+":
                parts += [conv(f"{root}.{i}.conv.{j}", 64, 64) for j in (0, 2, 4)]
            elif place is not None:
                resizes = place == (64, 64)
                parts.append(conv(f"{root}.{i}", *place, bias=not resizes))
    weights = random_weights(join(*parts), seed=4, dtype=torch.float32)
    for name, weight in weights.items():
        if name.endswith("conv.4.weight"):
            weight *= 0.3  # a residual block adds a little to what it is given
        elif weight.dim() == 4:
            weight *= 2**0.5  # half is lost in the ReLU that follows
    for last, gain, middle in (("taesd_decoder.19", 0.3, 0.5), ("taesd_encoder.14", 0.3, 0.0)):
        weight = weights[f"{last}.weight"]  # no weight sum, since what comes out of a ReLU has a positive mean
        weights[f"{last}.weight"] = gain * (weight - weight.mean(dim=1, keepdim=True))
        weights[f"{last}.bias"] += middle
    weights |= {"vae_scale": torch.tensor(scale), "vae_shift": torch.tensor(0.0)}
    return {f"first_stage_model.{name}": weight.half() for name, weight in weights.items()}
