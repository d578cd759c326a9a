"""Re-denoise gives a cache of what it did, so that passes chain: one identity generator, then another."""

import torch
from families import FAMILIES
from setting import counted, refused
from two_passes import (
    START,
    STEPS,
    cells,
    every_family,
    everything,
    layout,
    left,
    member,
    redenoise,
    right,
    template,
    watched,
)

from tests.closeness import assert_close, largest_difference

SAMPLERS = ("euler", "dpmpp_2m", "euler_ancestral", "heun", "uni_pc", "euler_cfg_pp")
SOME = ["SD1.5", "Flux.1", "Z-Image", "Qwen-Image"]


def check_a_second_pass_leaves_the_first_one_s_character_and_the_background():
    def law(family):
        model, one, two = (family.make(seed) for seed in (1, 2, 5))
        for name in SAMPLERS if family.name == "Flux.1" else SAMPLERS[:2]:
            latent, cache = template(model, family, sampler_name=name)
            first, done = redenoise(one, cache, layout(left(family)), (member(family),))
            second, last = redenoise(two, done, layout(right(family), names=("Ben",)), (member(family, "Ben", 12),))
            mira, ben = cells(left(family), latent), cells(right(family), latent)
            assert torch.equal(second[..., ~(mira | ben)], latent[..., ~(mira | ben)]), name
            assert torch.equal(second[..., mira], first[..., mira]), name
            assert largest_difference(first[..., mira], latent[..., mira]) > 1e-3, name
            assert largest_difference(second[..., ben], latent[..., ben]) > 1e-3, name
            assert torch.equal(done.final, first)
            assert torch.equal(last.final, second)

    every_family(law, SOME)


def check_the_same_pass_twice_is_the_same_pass_once():
    def law(family):
        model, generator = family.make(1), family.make(2)
        for name in SAMPLERS if family.name == "Flux.1" else SAMPLERS[:2]:
            _, cache = template(model, family, sampler_name=name)
            both = (member(family), member(family, "Ben", 12))
            where = layout(left(family), right(family))
            once, done = redenoise(generator, cache, where, both, max_kernel=100)
            twice, again = redenoise(generator, done, where, both, max_kernel=100)
            assert torch.equal(once, twice), name
            for call, other in zip(done.calls, again.calls, strict=True):
                assert torch.equal(call.latent, other.latent), name
                assert torch.equal(call.prediction, other.prediction), name

    every_family(law, SOME)


def check_the_cache_holds_what_the_sampler_saw_and_shares_what_did_not_change():
    family = FAMILIES["Flux.1"]
    model, generator = family.make(1), family.make(2)
    for name in ("euler", "heun", "euler_cfg_pp"):
        _, cache = template(model, family, sampler_name=name)
        before = [call.prediction.clone() for call in cache.calls]
        masks = torch.stack([left(family), right(family)])
        both = (member(family), member(family, "Ben", 12))
        latents, final, _ = watched(generator, cache, masks, both)
        finished, done = redenoise(generator, cache, layout(*masks), both)
        assert torch.equal(final, finished)
        assert done.recipe == cache.recipe
        for number, (call, kept, seen) in enumerate(zip(done.calls, cache.calls, latents, strict=True)):
            assert torch.equal(call.latent, seen), name
            assert (call.sigma, call.step) == (kept.sigma, kept.step)
            assert (call is kept) == (cache.step_of_call(kept) < START), (name, number)
            assert (call.unconditional is None) == (kept.unconditional is None)
        assert all(torch.equal(call.prediction, kept) for call, kept in zip(cache.calls, before, strict=True))


def check_two_passes_are_one_where_the_model_sees_no_further_than_a_cell():
    """A network that looks around sees the other character, so two passes differ from one there, and only there."""
    for family in (FAMILIES[name] for name in SOME):
        model = each_cell_alone(family.make(1))
        mira, ben = member(family), member(family, "Ben", 12)
        for name in SAMPLERS:
            _, cache = template(model, family, sampler_name=name)
            both, _ = redenoise(model, cache, layout(left(family), right(family)), (mira, ben))
            _, one = redenoise(model, cache, layout(left(family)), (mira,))
            chained, _ = redenoise(model, one, layout(right(family), names=("Ben",)), (ben,))
            _, other = redenoise(model, cache, layout(right(family), names=("Ben",)), (ben,))
            reversed_order, _ = redenoise(model, other, layout(left(family)), (mira,))
            assert torch.equal(both, chained), (family.name, name)
            assert torch.equal(both, reversed_order), (family.name, name)
            assert largest_difference(both, cache.final) > 1e-3


def each_cell_alone(model):
    """A clone whose predictions depend, at each place, on the latent there and on the prompt."""
    alone = model.clone()

    def predict(_, given):
        strength = given["c"]["c_crossattn"].mean(dim=(1, 2)).view(-1, *[1] * (given["input"].ndim - 1))
        return torch.tanh(given["input"] * (0.3 + strength)) + 5 * strength

    alone.set_model_unet_function_wrapper(predict)
    return alone


def check_a_later_start_and_a_half_precision_cache_chain_too():
    family = FAMILIES["Flux.1"]
    model, generator = family.make(1), family.make(2)
    latent, cache = template(model, family, precision="float16", keep_from_step=0.2)
    _, done = redenoise(generator, cache, layout(left(family)), (member(family),), start=0.25)
    assert {call.prediction.dtype for call in done.calls} == {torch.float16}
    assert [call.latent is None for call in done.calls] == [call.latent is None for call in cache.calls]
    where, ben = layout(right(family), names=("Ben",)), (member(family, "Ben", 12),)
    second, _ = redenoise(generator, done, where, ben, start=STEPS - 1)
    mira, other = cells(left(family), latent), cells(right(family), latent)
    assert_close(second[..., mira], done.final[..., mira], 2e-3)
    assert_close(second[..., ~(mira | other)], latent[..., ~(mira | other)], 2e-3)
    assert largest_difference(second[..., other], latent[..., other]) > 1e-3


def check_nobody_to_draw_hands_the_cache_on():
    family = FAMILIES["Qwen-Image"]
    model = family.make()
    _, cache = template(model, family)
    with counted(model) as count:
        _, done = redenoise(model, cache, layout(torch.zeros_like(left(family))), ())
    assert done is cache
    assert count.samples == 0


def check_a_chained_cache_is_refused_as_any_other():
    family, other = FAMILIES["Flux.1"], FAMILIES["SDXL"]
    model, sdxl = family.make(1), other.make(1)
    _, cache = template(model, family)
    _, done = redenoise(model, cache, layout(everything(family)), (member(family),))
    with counted(model) as count, counted(sdxl) as of_sdxl:
        refused(lambda: redenoise(sdxl, done, layout(left(family)), (member(other),)), "Flux latents", "SDXL latents")
        refused(lambda: redenoise(model, done, layout(left(family)), (member(family),), start=4), "start is 4")
    assert count.samples == of_sdxl.samples == 0
