"""The laws of AMSA and of attention maps on diffusion transformers."""

import contextlib

import comfy.model_patcher
import comfy.sample
import setting
import torch
from families import FAMILIES
from frames import PEOPLE, WORDS, amsa, masks_noted, story, warnings
from setting import refused
from story_identity.nodes.host.story_prompts import NAMED, padded_batch

from tests.closeness import assert_close, largest_difference

JOINT = ("Flux.1", "Flux.2", "Qwen-Image", "Z-Image", "Krea 2", "SD3.5", "Lumina2", "Chroma")
SIDE = 128
GRID = (8, 8)


def text_tokens(name, given):
    """How many tokens of a sequence are text, by family."""
    return {"Flux.2": 512, "Z-Image": -(-given // 32) * 32}.get(name, given)


def prompts(family, told, lengths=12, seed=1):
    lengths = [lengths] * len(told.frames) if isinstance(lengths, int) else lengths
    encoded = [family.conditioning(seed + i, length) for i, length in enumerate(lengths)]
    casts = [{person.name for person in frame.cast} for frame in told.frames]
    named = {
        "names": list(WORDS),
        "prompts": [frame.prompt for frame in told.frames],
        "positions": [[places if name in cast else [] for cast in casts] for name, places in WORDS.items()],
    }
    positive = [[rows, {**extras, NAMED: named}] for rows, extras in padded_batch(encoded)]
    negative = padded_batch([family.conditioning(50 + i, 10) for i in range(len(told.frames))])
    return positive, negative


def sample(family, model, told, conds=None, *, steps=3, cfg=3.0, sampler="euler", noise=None, seed=3, **more):
    positive, negative = conds or prompts(family, told)
    latent = family.latent(SIDE, SIDE, len(told.frames))["samples"]
    latent = comfy.sample.fix_empty_latent_channels(model, latent, family.latent().get("downscale_ratio_spacial"))
    noise = noises(latent, seed) if noise is None else noise
    return comfy.sample.sample(
        model, noise, steps, cfg, sampler, "simple", positive, negative, latent[: len(noise)], seed=7, disable_pbar=True, **more
    )


def noises(latent, seed=3):
    return torch.stack(
        [torch.randn(latent.shape[1:], generator=torch.Generator().manual_seed(seed + i)) for i in range(len(latent))]
    )


def check_smoke():
    for name in JOINT:
        family = FAMILIES[name]
        model, told = family.make(1), story()
        plain = sample(family, model, told)
        with masks_noted() as noted, warnings() as said:
            ours = sample(family, amsa(model, told), told)
        print(name, largest_difference(ours, plain), said, {k: list(v) for k, v in noted.items()}, flush=True)
        lengths = [12, 17, 33]
        conds = prompts(family, told, lengths)
        with masks_noted() as noted, warnings() as said:
            ours = sample(family, amsa(model, told), told, conds)
        print(name, "lengths", largest_difference(ours, plain), said, {k: list(v) for k, v in noted.items()}, flush=True)
