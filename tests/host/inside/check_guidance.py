"""Whose unconditional prediction guides the characters: what each choice costs, and that it does what it says."""

import torch
from setting import counted, refused
from story_identity.core.guidance import GUIDANCE, OWN, SHARED, TEMPLATES, redenoising_evaluations
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
)

from tests.closeness import assert_close, largest_difference

SOME = ["SD1.5", "Flux.1", "Qwen-Image"]
SAMPLERS = ("euler", "euler_cfg_pp", "dpmpp_2m")


def scene(family, **settings):
    model = family.make(1)
    latent, cache = template(model, family, keep_unconditional=True, **settings)
    return family.make(2), latent, cache, layout(left(family), right(family))


def evaluated(model, *args, **settings):
    with counted(model) as evaluations:
        latent, cache = redenoise(model, *args, **settings)
    return latent, cache, evaluations.samples


def check_a_shared_one_gives_the_same_picture_for_fewer_evaluations():
    def law(family):
        for name in SAMPLERS[: 3 if not family.flow else 1]:
            model, _, cache, where = scene(family, sampler_name=name)
            cast = (member(family), member(family, "Ben", 12))
            own, _, cost = evaluated(model, cache, where, cast)
            shared, _, less = evaluated(model, cache, where, cast, guidance=SHARED)
            assert_close(shared, own, 1e-5)
            steps = STEPS - START
            assert (cost, less) == tuple(redenoising_evaluations(2, steps, each, 3.0) for each in (OWN, SHARED))

    every_family(law, SOME)


def check_it_is_shared_only_by_equal_negatives_and_models():
    def law(family):
        model, _, cache, where = scene(family)
        steps = STEPS - START
        other_words = (member(family), member(family, "Ben", 12, negative=family.conditioning(3)))
        own, _, _ = evaluated(model, cache, where, other_words)
        shared, _, cost = evaluated(model, cache, where, other_words, guidance=SHARED)
        assert cost == 4 * steps
        assert_close(shared, own, 1e-5)
        his = family.make(5)
        with counted(his) as of_his:
            _, _, of_hers = evaluated(
                model, cache, where, (member(family), member(family, "Ben", 12, model=his)), guidance=SHARED
            )
        assert (of_hers, of_his.samples) == (2 * steps, 2 * steps)

    every_family(law, SOME)


def check_the_templates_own_prompt_and_model_give_the_template_back():
    def law(family):
        for name in SAMPLERS[: 3 if not family.flow else 1]:
            _, latent, cache, _ = scene(family, sampler_name=name)
            same = member(family, seed=1)  # the template's prompt
            done, _, cost = evaluated(family.make(1), cache, layout(everything(family)), (same,), guidance=TEMPLATES)
            assert_close(done, latent, 1e-4)
            assert cost == STEPS - START

    every_family(law, SOME)


def check_the_templates_keeps_the_background_and_changes_the_characters():
    def law(family):
        model, latent, cache, where = scene(family)
        cast = (member(family), member(family, "Ben", 12))
        done, passed_on, cost = evaluated(model, cache, where, cast, guidance=TEMPLATES)
        inside = cells(left(family), latent) | cells(right(family), latent)
        assert torch.equal(done[..., ~inside], latent[..., ~inside])
        assert largest_difference(done[..., inside], latent[..., inside]) > 1e-4
        assert cost == 2 * (STEPS - START)
        assert all(call.unconditional is not None for call in passed_on.calls)
        chained, _ = redenoise(model, passed_on, layout(left(family)), (member(family, seed=14),), guidance=TEMPLATES)
        assert largest_difference(chained, done) > 1e-4

    every_family(law, SOME)


def check_a_pass_with_its_own_keeps_the_templates_for_the_next():
    def law(family):
        model, _, cache, where = scene(family)
        _, passed_on = redenoise(model, cache, where, (member(family), member(family, "Ben", 12)))
        assert all(torch.equal(one.unconditional, other.unconditional) for one, other in zip(
            passed_on.calls, cache.calls, strict=True))  # fmt: skip
        redenoise(model, passed_on, layout(left(family)), (member(family, seed=14),), guidance=TEMPLATES)

    every_family(law, ["SD1.5", "Flux.1"])


def check_without_guidance_all_are_the_same():
    def law(family):
        model, _, cache, where = scene(family)
        cast = (member(family), member(family, "Ben", 12))
        results = [evaluated(model, cache, where, cast, cfg=1.0, guidance=each) for each in GUIDANCE]
        assert all(torch.equal(latent, results[0][0]) for latent, _, _ in results)
        assert [cost for _, _, cost in results] == 3 * [2 * (STEPS - START)]

    every_family(law, SOME)


def check_a_cache_without_them_is_refused_before_the_first_evaluation():
    def law(family):
        model = family.make(1)
        _, cache = template(model, family)
        with counted(model) as evaluations:
            refused(
                lambda: redenoise(model, cache, layout(left(family)), (member(family),), guidance=TEMPLATES),
                "keep_unconditional", "Noisy Latent Cache",
            )  # fmt: skip
            refused(lambda: template(model, family, cfg=1.0, keep_unconditional=True), "keep_unconditional", "cfg is 1")
        assert evaluations.samples == 0

    every_family(law, ["SD1.5"])
