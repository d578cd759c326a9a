"""Members of a cast that bring a MODEL of their own: it draws them and nobody else, in the same pass."""

import comfy.patcher_extension
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
)

from tests.closeness import assert_close, largest_difference

SOME = ["SD1.5", "Flux.1", "Qwen-Image"]
Wrappers = comfy.patcher_extension.WrappersMP


def scene(family, **settings):
    model = family.make(1)
    return *template(model, family, **settings), layout(left(family), right(family))


def check_who_draws_whom_and_not_where_they_are_connected_counts():
    def law(family):
        _, cache, where = scene(family)
        one, two, nobodys = (family.make(seed) for seed in (2, 5, 7))
        mira, ben = member(family), member(family, "Ben", 12)
        hers, his = member(family, model=one), member(family, "Ben", 12, model=two)
        with counted(one) as of_one, counted(two) as of_two, counted(nobodys) as of_nobody:
            results = [
                redenoise(two, cache, where, (hers, ben))[0],
                redenoise(one, cache, where, (mira, his))[0],
                redenoise(one, cache, where, (his, mira))[0],
                redenoise(nobodys, cache, where, (hers, his))[0],
                redenoise(one, cache, where, (hers, his))[0],
            ]
        assert all(torch.equal(results[0], other) for other in results[1:])
        rows = 2 * (STEPS - START) * len(results)
        assert (of_one.samples, of_two.samples, of_nobody.samples) == (rows, rows, 0)
        alone, _ = redenoise(two, cache, where, (mira, ben))
        assert largest_difference(alone, results[0]) > 1e-3

    every_family(law, SOME)


def check_an_equal_model_of_their_own_changes_nothing():
    """Also with samplers that read the unconditional prediction, noise of their own, and several calls per step."""

    def law(family):
        for name in ("euler", "euler_cfg_pp", "dpmpp_2s_ancestral", "uni_pc")[: 4 if family.flow else 2]:
            _, cache, where = scene(family, sampler_name=name)
            generator, equal = family.make(2), family.make(2)
            mira, ben = member(family), member(family, "Ben", 12)
            usual, done = redenoise(generator, cache, where, (mira, ben))
            own, other = redenoise(generator, cache, where, (member(family, model=equal), ben))
            assert torch.equal(own, usual), name
            for call, same in zip(done.calls, other.calls, strict=True):
                assert torch.equal(call.prediction, same.prediction), name

    every_family(law, ["SD1.5", "Flux.1"])


def lora(model, seed):
    """A clone with random numbers added to every matrix of the network's attention."""
    changed = model.clone()
    generator = torch.Generator().manual_seed(seed)
    weights = {k: w for k, w in model.model.state_dict().items() if w.ndim == 2 and ("attn" in k or "attention" in k)}
    assert weights
    patches = {k: (0.5 * torch.randn(w.shape, generator=generator) / w.shape[1] ** 0.5,) for k, w in weights.items()}
    assert len(changed.add_patches(patches, 1.0)) == len(weights)
    return changed


def check_a_lora_for_each_character_on_one_network():
    """Clones share their weights, so that the last one loaded would draw everybody."""

    def law(family):
        _, cache, where = scene(family)
        shared, apart = family.make(2), family.make(2)
        before = {key: value.clone() for key, value in shared.model.state_dict().items()}

        def together(first, second):
            members = (member(family, model=lora(first, 1)), member(family, "Ben", 12, model=lora(second, 2)))
            return redenoise(first, cache, where, members)[0]

        expected = together(shared, apart)
        assert torch.equal(together(shared, shared), expected)
        mixed = (member(family), member(family, "Ben", 12, model=lora(shared, 2)))
        with_plain, _ = redenoise(shared, cache, where, mixed)
        mixed = (member(family), member(family, "Ben", 12, model=lora(apart, 2)))
        assert torch.equal(with_plain, redenoise(shared, cache, where, mixed)[0])
        assert largest_difference(with_plain, expected) > 1e-4
        plain, _ = redenoise(shared, cache, where, (member(family), member(family, "Ben", 12)))
        assert largest_difference(with_plain, plain) > 1e-4
        assert torch.equal(together(shared, shared), expected)  # A, B, A
        redenoise(shared, cache, where, (member(family), member(family, "Ben", 12)))
        assert all(torch.equal(value, before[key]) for key, value in shared.model.state_dict().items())

    every_family(law, ["Flux.1", "Qwen-Image"])


def check_its_wrappers_and_hooks_act_on_its_character_alone():
    family = FAMILIES["Flux.1"]
    latent, cache, where = scene(family)
    generator, own = family.make(2), family.make(5)
    called = dict.fromkeys((Wrappers.OUTER_SAMPLE, Wrappers.SAMPLER_SAMPLE, Wrappers.PREDICT_NOISE), 0)
    called |= dict.fromkeys((Wrappers.CALC_COND_BATCH, Wrappers.APPLY_MODEL, Wrappers.DIFFUSION_MODEL, "after"), 0)

    def count(kind):
        def wrapper(executor, *args, **kwargs):
            called[kind] += 1
            return executor(*args, **kwargs)

        return wrapper

    def brighter(args):
        called["after"] += 1
        return args["denoised"] + 1

    hooked = own.clone()
    for kind in (kind for kind in called if kind != "after"):
        hooked.add_wrapper(kind, count(kind))
    hooked.set_model_sampler_post_cfg_function(brighter)
    mira, ben = member(family), member(family, "Ben", 12)
    options = repr(hooked.model_options)
    with_hooks, done = redenoise(generator, cache, where, (mira, member(family, "Ben", 12, model=hooked)))
    steps = STEPS - START
    assert list(called.values()) == [1, 1, steps, steps, steps, steps, steps], called
    without, plain = redenoise(generator, cache, where, (mira, member(family, "Ben", 12, model=own)))
    one, two = cells(left(family), latent), cells(right(family), latent)
    first, other = (next(call for call in each.calls if cache.step_of_call(call) == START) for each in (done, plain))
    assert_close(first.prediction[..., two], other.prediction[..., two] + 1)
    assert torch.equal(first.prediction[..., one], other.prediction[..., one])
    assert largest_difference(with_hooks[..., two], without[..., two]) > 1e-3
    assert repr(hooked.model_options) == options
    before = sum(called.values())
    redenoise(generator, cache, where, (mira, ben))
    assert sum(called.values()) == before


def check_step_skipping_caches_are_each_character_s_own():
    from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode

    family = FAMILIES["SD1.5"]
    _, cache, where = scene(family, steps=12)
    generator = family.make(2)
    mira, other = member(family), member(family, "Ben", 12)
    for node in (EasyCacheNode, LazyCacheNode):
        skipping = node.execute(family.make(5), 0.2, 0.15, 0.95, False).result[0]
        ben = member(family, "Ben", 12, model=skipping)
        both = (member(family, model=skipping), ben)
        with counted(skipping) as count:
            ours, _ = redenoise(generator, cache, where, both)
        assert node is EasyCacheNode or count.samples < 2 * 2 * 11  # it did skip
        again, _ = redenoise(generator, cache, layout(right(family), left(family), names=("Ben", "Mira")), both)
        assert torch.equal(ours, again)
        assert torch.equal(ours, redenoise(skipping, cache, where, (mira, other))[0])


def check_two_families_draw_one_picture():
    """What counts is the VAE and the kind of noise: a template of Z-Image, one character by it, one by Flux.1."""
    z_image, flux, sdxl = (FAMILIES[name] for name in ("Z-Image", "Flux.1", "SDXL"))
    model, editor, odd = z_image.make(1), flux.make(2), sdxl.make(2)
    latent, cache = template(model, z_image)
    where = layout(left(z_image), right(z_image))
    mira, ben = member(z_image), member(flux, "Ben", 12, model=editor)
    both, _ = redenoise(model, cache, where, (mira, ben))
    one, two = cells(left(z_image), latent), cells(right(z_image), latent)
    assert torch.equal(both[..., ~(one | two)], latent[..., ~(one | two)])
    alone, _ = redenoise(model, cache, layout(everything(z_image)), (member(flux, model=editor),))
    assert torch.equal(alone, redenoise(editor, cache, layout(everything(z_image)), (member(flux),))[0])
    with counted(model) as count, counted(editor) as of_editor, counted(odd) as of_odd:
        refused(
            lambda: redenoise(model, cache, where, (mira, member(sdxl, "Ben", 12, model=odd))),
            'the MODEL of "Ben"',
            "SDXL",
            "ZImage",
            "same VAE",
        )
        refused(lambda: redenoise(odd, cache, where, (mira, ben)), "the identity generator", "SDXL")
    assert count.samples == of_editor.samples == of_odd.samples == 0


def check_a_sampling_that_fails_leaves_nothing_behind():
    family = FAMILIES["Flux.1"]
    _, cache, where = scene(family)
    generator, own = family.make(2), family.make(5)
    broken, calls = own.clone(), []

    def fails(apply_model, given):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return apply_model(given["input"], given["timestep"], **given["c"])

    broken.set_model_unet_function_wrapper(fails)
    members = [(member(family), member(family, "Ben", 12, model=each)) for each in (own, broken)]
    first, _ = redenoise(generator, cache, where, members[0])
    try:
        redenoise(generator, cache, where, members[1])
    except RuntimeError:
        assert len(calls) == 2
    else:
        raise AssertionError("it did not fail")
    assert torch.equal(redenoise(generator, cache, where, members[0])[0], first)
