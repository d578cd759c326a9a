"""Flux KV Cache on the identity generator: it remembers reference pictures, and each character must have their own."""

import torch
from comfy_extras.nodes_flux import FluxKVCache
from families import random
from two_passes import cells, every_family, layout, left, member, redenoise, right, template

from tests.closeness import largest_difference

EDITORS = ["Flux.2", "Qwen-Image-Edit"]


def prompt(family, seed, reference):
    [[tensor, extras]] = family.conditioning(seed)
    shape = family.latent(64, 64)["samples"].shape
    picture = 0.5 * random(reference, *shape)
    return [[tensor, {**extras, "reference_latents": [picture.unsqueeze(2) if family.moments else picture]}]]


def characters(family, reference_of_ben=102, **models):
    mira = member(family, positive=prompt(family, 11, 101), model=models.get("mira"))
    return mira, member(family, "Ben", positive=prompt(family, 12, reference_of_ben), model=models.get("ben"))


def remembering(model):
    return FluxKVCache.execute(model).result[0]


def check_nobody_gets_another_character_s_reference():
    def law(family):
        _, cache = template(family.make(1), family, cfg=1.0)
        where, network = layout(left(family), right(family)), family.make(2)
        generator = remembering(network)
        both, _ = redenoise(generator, cache, where, characters(family), cfg=1.0)
        own = characters(family, mira=remembering(network), ben=remembering(network))
        apart, _ = redenoise(generator, cache, where, own, cfg=1.0)
        assert torch.equal(both, apart)
        mira, ben = characters(family)
        assert torch.equal(both, redenoise(generator, cache, where, (ben, mira), cfg=1.0)[0])
        other, _ = redenoise(generator, cache, where, characters(family, reference_of_ben=777), cfg=1.0)
        one, two = cells(left(family), both), cells(right(family), both)
        assert largest_difference(both[..., two], other[..., two]) > 1e-5
        assert (both - other)[..., two].abs().mean() > 1.2 * (both - other)[..., one].abs().mean()
        assert torch.equal(both, redenoise(generator, cache, where, characters(family), cfg=1.0)[0])  # A, B, A

    every_family(law, EDITORS)


def check_it_remembers_what_a_single_character_s_would():
    """With one character the cache acts as the host's, under the stock sampler of one character."""

    def law(family):
        _, cache = template(family.make(1), family, cfg=1.0)
        where = layout(left(family))
        kept = remembering(family.make(2))
        mira, _ = characters(family)
        alone, _ = redenoise(kept, cache, where, (mira,), cfg=1.0)
        fresh, _ = redenoise(remembering(family.make(2)), cache, where, (mira,), cfg=1.0)
        assert torch.equal(alone, fresh)
        patches = kept.model_options["transformer_options"]["patches"]["attn1_patch"]
        assert [patch.cache for patch in patches] == [{}]  # nothing stays on the MODEL

    every_family(law, EDITORS)
