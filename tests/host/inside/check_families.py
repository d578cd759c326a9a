"""The laws of the two passes on every family of image models that ComfyUI knows, with tiny models of its classes."""

import functools

import comfy.model_sampling
import comfy.sample
import setting
import torch
from families import FAMILIES
from story_identity.nodes.host.latents import latent_space, noise_kind
from two_passes import (
    ALL_SAMPLERS,
    START,
    STEPS,
    box,
    cells,
    every_family,
    everything,
    layout,
    left,
    member,
    redenoise,
    right,
    stock_from,
    template,
    watched,
)

import nodes
from tests.closeness import assert_close, largest_difference

SAMPLERS = ("euler", "heun", "dpmpp_2m", "euler_ancestral", "uni_pc")
MAIN = [
    *("SD1.5", "SDXL", "SD3.5", "Flux.1", "Flux.2", "Chroma", "Z-Image", "Lumina2", "HiDream", "Qwen-Image"),
    *("Qwen-Image-Edit", "Krea 2", "Anima"),
]
"""Families on which everything is tried; on the others, whose classes are close to these, the first laws are."""
WITH_EVERY_SAMPLER = ["Flux.1", "Qwen-Image", "Z-Image"]
"""Two with a picture's latents, one with a video's."""


@functools.cache
def made(name, seed=1):
    """One model of a family and seed for all checks of this file, none of which leaves anything on it."""
    return FAMILIES[name].make(seed)


def check_the_tiny_models_are_what_they_stand_for():
    def law(family):
        model, latent = made(family.name), family.latent()
        samples = comfy.sample.fix_empty_latent_channels(
            model, latent["samples"], latent.get("downscale_ratio_spacial")
        )
        flow = isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST)
        ratio = model.get_model_object("latent_format").spacial_downscale_ratio
        assert (ratio, flow, samples.ndim == 5) == (family.ratio, family.flow, family.moments)
        assert samples.shape[-1] == family.side // family.ratio >= 8

    every_family(law)


def check_the_table_in_the_documents_is_this_list():
    rows = []
    for family in FAMILIES.values():
        model = made(family.name)
        form = "a video of one moment" if family.moments else "a picture"
        laws = "all" if family.name in MAIN else "the first three"
        facts = latent_space(model), noise_kind(model), f"{form}, {family.ratio} pixels a cell", laws
        rows.append(f"| {family.name} | {' | '.join(facts)} |")
    text = (setting.REPOSITORY / "docs" / "models.md").read_text(encoding="utf-8")
    table = text.split("<!-- families -->")[1].split("<!-- /families -->")[0].strip().splitlines()
    assert table[2:] == rows, "\n".join(rows)


def check_the_template_is_the_stock_ksamplers_picture():
    def law(family):
        model = made(family.name)
        latent, _ = template(model, family)
        prompts = family.conditioning(1), family.conditioning(2)
        (stock,) = nodes.KSampler().sample(model, 3, STEPS, 3.0, "euler", "simple", *prompts, family.latent())
        assert torch.equal(latent, stock["samples"])
        other, _ = template(model, family, positive=family.conditioning(5))
        assert largest_difference(latent, other) > 1e-4  # the prompt counts

    every_family(law)


def check_the_background_follows_the_cache_bit_for_bit():
    """At every call of the model, and a mask that touches no latent cell gives the template."""

    def law(family, samplers=SAMPLERS):
        model, generator = made(family.name, 1), made(family.name, 2)
        mira, speck, grown = (member(family),), torch.zeros_like(left(family)), family.side / 16
        speck[3, 3] = True  # between the pixels that cells look at
        for name in samplers if family.name != "SD1.5" else samplers[:1]:  # check_two_passes tries all of them on it
            latent, cache = template(model, family, sampler_name=name)
            latents, final, outside = watched(generator, cache, left(family)[None], mira, max_kernel_px=grown)
            assert outside.any()
            assert not outside.all()
            assert len(latents) == len(cache.calls), name
            for seen, call in zip(latents, cache.calls, strict=True):
                assert torch.equal(seen[..., outside], call.latent[..., outside]), (name, call.sigma)
            assert torch.equal(final[..., outside], latent[..., outside]), name
            assert largest_difference(final, latent) > 1e-3, name
            if name in SAMPLERS:
                assert torch.equal(watched(generator, cache, speck[None], mira)[1], latent), name

    every_family(law, MAIN)
    every_family(lambda family: law(family, SAMPLERS[:1]), [name for name in FAMILIES if name not in MAIN])
    every_family(
        lambda family: law(family, [name for name in ALL_SAMPLERS if name not in SAMPLERS]), WITH_EVERY_SAMPLER
    )


def check_a_full_mask_is_sampling_with_the_identity_model_from_start():
    """To the rounding of a latent that is scaled to a picture and back.

    The corrector of step `start` - 1 in Heun's method is called at the noise level of `start`; the characters come in
    at the next call. From there on it is the identity model's sampling.
    """

    def law(family):
        model, generator = made(family.name, 1), made(family.name, 2)
        for name in ("euler", "heun") if family.name in MAIN else ("euler",):
            _, cache = template(model, family, sampler_name=name)
            ours, _ = redenoise(generator, cache, layout(everything(family)), (member(family),))
            assert_close(ours, stock_from(generator, family, cache, START, name))
            levels = [call.sigma for call in cache.calls if cache.step_of_call(call) == START - 1]
            assert (levels[-1] == float(cache.sigmas[START])) == (name == "heun")

    every_family(law)


def check_the_template_s_own_model_and_prompt_give_the_template():
    """Whatever the sampler: under a full mask everything is predicted again, on the same latents."""

    def law(family, samplers):
        model = made(family.name)
        for name in samplers:
            latent, cache = template(model, family, sampler_name=name)
            itself = member(family, seed=1)
            again, done = redenoise(model, cache, layout(everything(family)), (itself,))
            assert torch.equal(again, latent), name
            for call, kept in zip(done.calls, cache.calls, strict=True):
                assert torch.equal(call.latent, kept.latent), name
                assert torch.equal(call.prediction, kept.prediction), name

    every_family(lambda family: law(family, ["euler"]), [name for name in MAIN if name != "Flux.1"])
    every_family(lambda family: law(family, ALL_SAMPLERS), ["Flux.1"])


def check_characters_who_are_not_there_cost_nothing():
    def law(family):
        model = made(family.name)
        latent, cache = template(model, family)
        with setting.counted(model) as count:
            again, _ = redenoise(model, cache, layout(torch.zeros_like(left(family))), (member(family),))
        assert torch.equal(again, latent)
        assert count.samples == 0

    every_family(law, MAIN)


def check_a_guidance_scale_of_one_needs_no_negative():
    """As distilled models are used: a call for each character and step, and no prompt to be pushed away from."""

    def law(family):
        model = made(family.name)
        ben = member(family, "Ben", 12, negative=[])
        with setting.counted(model) as count:
            latent, cache = template(model, family, cfg=1.0, negative=[])
            both, _ = redenoise(
                model, cache, layout(left(family), right(family)), (member(family, negative=[]), ben), cfg=1.0
            )
        assert count.samples == STEPS + 2 * (STEPS - START)
        with_negative, again = template(model, family, cfg=1.0)
        assert torch.equal(latent, with_negative)
        mira, ben = member(family), member(family, "Ben", 12)
        assert torch.equal(both, redenoise(model, again, layout(left(family), right(family)), (mira, ben), cfg=1.0)[0])

    every_family(law, MAIN)


def check_two_characters_each_get_their_own_prompt():
    def law(family):
        model = made(family.name)
        latent, cache = template(model, family)
        where = layout(left(family), right(family))
        mira, ben = member(family), member(family, "Ben", 12)
        both, _ = redenoise(model, cache, where, (mira, ben))
        assert torch.equal(both, redenoise(model, cache, where, (ben, mira))[0])
        swapped, _ = redenoise(model, cache, where, (mira, member(family, "Ben", 13)))
        one, two = cells(left(family), latent), cells(right(family), latent)
        assert torch.equal(both[..., ~(one | two)], latent[..., ~(one | two)])
        # Models with few cells see the whole picture, so the other character's words reach a little further.
        assert (both - swapped)[..., two].abs().mean() > 1.5 * (both - swapped)[..., one].abs().mean()

    every_family(law, MAIN)


def check_noise_masks_and_soft_edges():
    def law(family):
        model = made(family.name)
        _, cache = template(model, family, steps=1)
        start = cache.final + 0
        painted = torch.zeros(1, family.side, family.side)
        painted[:, : family.side // 2] = 1
        image = {**family.latent(), "samples": start, "noise_mask": painted}
        latent, cache = template(model, family, latent_image=image, denoise=0.6)
        masks, mira = box(family, 1, 1, 6, 5)[None], (member(family),)
        for soft in (False, True):
            _, final, outside = watched(model, cache, masks, mira, soft=soft)
            assert torch.equal(final[..., outside], latent[..., outside])
            below = final.shape[-2] // 2 + 1
            assert_close(final[..., below:, :], start[..., below:, :], 1e-4, scale=float(start.abs().max()))
            assert largest_difference(final, latent) > 1e-4

    every_family(law, MAIN)
