"""The identity generator sees a region around each mask: its place, what it costs, and what is cut with it."""

from contextlib import contextmanager
from dataclasses import replace

import comfy.samplers
import torch
from families import FAMILIES
from frames import controlnet
from setting import counted, refused
from story_identity.core.guidance import SHARED, TEMPLATES
from story_identity.core.redenoise import ProgressiveMasks
from story_identity.nodes.host.passes import regions_of
from story_identity.nodes.host.regions import RegionalPrompts, cells_per_step
from two_passes import (
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
    template,
)

from tests.closeness import assert_close, largest_difference

SOME = ["SD1.5", "SDXL", "Flux.1", "Qwen-Image"]
"""UNets of three and of two downsamplings, and transformers with latents of four and of five dimensions."""
SAMPLERS = ("dpmpp_2m_sde", "euler_cfg_pp")


def law_on(law, names=SOME):
    """On pictures large enough for a region to be a part of them."""
    every_family(lambda family: law(replace(family, side=(32 if family.name == "SD1.5" else 16) * family.ratio)), names)


def small(family):
    """A mask that takes a twelfth of the picture, away from its edges."""
    return box(family, 3, 4, 5, 6)


@contextmanager
def watched(model):
    """What the network is given while the context is open: the sizes of latents, and SDXL's labels."""
    sizes, labels = [], []

    def look(module, args, more):
        sizes.append(tuple(args[0].shape[-2:]))
        labels.append(more.get("y"))

    hook = model.model.diffusion_model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield sizes, labels
    finally:
        hook.remove()


def region_of(model, cache, mask, margin):
    masks = ProgressiveMasks(mask[None], cache.steps, START, 0)
    return regions_of([model], cache, masks, margin)[0]


def check_steps_are_the_models_own():
    expected = {"SD1.5": 8, "SD2.1": 8, "SDXL": 4, "SSD-1B": 4, "Flux.2": 1, "Wan 2.1": 2, "Flux.1": 2}
    expected |= {"Qwen-Image": 2, "Z-Image": 2, "Krea 2": 2, "Anima": 2, "Cosmos-Predict2": 2, "SD3.5": 2}
    expected |= {"Stable Cascade": 8}  # which does not say
    found = {name: cells_per_step(FAMILIES[name].make()) for name in expected}
    assert found == expected, found


def check_the_background_is_the_templates_bit_for_bit_and_the_network_sees_less():
    def law(family):
        model, generator, mask = family.make(1), family.make(2), small(family)
        for name in SAMPLERS[: 2 if not family.flow else 1]:
            latent, cache = template(model, family, sampler_name=name)
            region = region_of(generator, cache, mask, 0)
            with watched(generator) as (sizes, _):
                found, _ = redenoise(generator, cache, layout(mask), (member(family),), region=True, region_margin=0)
            inside = cells(mask, latent)
            assert region.share < 0.5, region
            assert set(sizes) == {(region.height, region.width)}, (name, sizes)
            assert torch.equal(found[..., ~inside], latent[..., ~inside]), name
            assert largest_difference(found, latent) > 1e-4, name
            whole = redenoise(generator, cache, layout(mask), (member(family),))[0]
            assert largest_difference(found, whole) > 0, name  # it is an approximation

    law_on(law)


def check_a_mask_of_everything_and_the_widest_margin_are_the_whole_picture():
    def law(family):
        model, generator = family.make(1), family.make(2)
        _, cache = template(model, family)
        cast = (member(family),)
        for mask in (everything(family), small(family)):
            whole, one = redenoise(generator, cache, layout(mask), cast)
            again, two = redenoise(generator, cache, layout(mask), cast, region=True, region_margin=1024)
            assert torch.equal(whole, again)
            assert all(torch.equal(a.prediction, b.prediction) for a, b in zip(one.calls, two.calls, strict=True))

    law_on(law)


def check_a_network_that_looks_at_each_cell_alone_draws_the_same():
    """Also with a noise mask, soft edges and two characters, of whom one has a MODEL of their own."""

    def pointwise(family, seed, factor):
        model = family.make(seed)
        model.set_model_unet_function_wrapper(lambda apply, args: torch.tanh(factor * args["input"]))
        return model

    def law(family):
        model, his = pointwise(family, 2, 0.7), pointwise(family, 3, 0.4)
        painted = torch.ones(1, family.side, family.side)
        painted[:, : family.side // 2] = 0.5
        for image in (family.latent(), {**family.latent(), "noise_mask": painted}):
            _, cache = template(family.make(1), family, latent_image=image)
            cast = member(family), member(family, "Ben", 12, model=his)
            where = layout(small(family), box(family, 6, 1, 8, 3))
            for edge in ("hard", "soft"):
                whole, part = (
                    redenoise(model, cache, where, cast, max_kernel=20, mask_edge=edge, region=each, region_margin=0)[0]
                    for each in (False, True)
                )
                assert torch.equal(whole, part), edge

    law_on(law)


def check_it_is_the_networks_own_picture_of_the_cut_latent():
    """With start at the last step: what is in the mask is what the stock guider predicts of the region alone."""

    def law(family):
        model, generator, mask = family.make(1), family.make(2), small(family)
        latent, cache = template(model, family)
        region, call = region_of(generator, cache, mask, 0), cache.calls[-1]
        mira = member(family)
        _, done = redenoise(generator, cache, layout(mask), (mira,), start=STEPS - 1, region=True, region_margin=0)
        sizes = region.sizes(8) if "SD" in family.name else {}
        prompts = [[[text, {**extras, **sizes}] for text, extras in each] for each in (mira.positive, mira.negative)]
        stock = []

        class Once(comfy.samplers.Sampler):
            def sample(self, model_wrap, sigmas, extra_args, callback, noise, *rest, **more):
                level = torch.full((1,), call.sigma)
                stock.append(model_wrap(region.crop(call.latent).clone(), level, **extra_args))
                return noise

        guider = comfy.samplers.CFGGuider(generator)
        guider.set_conds(*prompts)
        guider.set_cfg(3.0)
        shown = region.crop(cache.noise).clone()
        guider.sample(shown, torch.zeros_like(shown), Once(), cache.sigmas, seed=3, disable_pbar=True)
        inside = cells(mask, latent)
        drawn = done.calls[-1].prediction[..., inside]
        assert_close(drawn, region.crop(region.paste(stock[0], call.prediction) + 0)[..., region.crop(inside)], 1e-6)

    law_on(law)


def check_sdxl_is_told_where_the_picture_was_cropped():
    for name in ("SDXL", "SSD-1B"):
        family = replace(FAMILIES[name], side=128)
        model, mask = family.make(1), small(family)
        _, cache = template(model, family)
        region = region_of(model, cache, mask, 0)
        text, extras = member(family).positive[0]
        said = {"width": 512, "height": 768, "crop_w": 8, "crop_h": 0, "target_width": 512, "target_height": 512}
        for given in ({}, said):
            mira = member(family, positive=[[text, {**extras, **given}]], negative=[[text, {**extras, **given}]])
            with watched(model) as (_, labels):
                redenoise(model, cache, layout(mask), (mira,), region=True, region_margin=0)
            sizes = region.sizes(8, given)
            order = ("height", "width", "crop_h", "crop_w", "target_height", "target_width")
            numbers = torch.cat([model.model.embedder(torch.Tensor([sizes[each]])) for each in order]).flatten()
            assert sizes["crop_w"] == given.get("crop_w", 0) + (4 if given else 1) * 8 * region.left > 0
            assert labels
            assert all(torch.equal(row[1280:], numbers) for label in labels for row in label)


def check_two_characters_each_see_their_own_region():
    def law(family):
        model, generator = family.make(1), family.make(2)
        latent, cache = template(model, family, keep_unconditional=True)
        where = layout(left(family), right(family))
        cast = (member(family), member(family, "Ben", 12))
        for guidance, factor in (("own", 2), (TEMPLATES, 1)):
            with counted(generator) as count:
                both, _ = redenoise(generator, cache, where, cast, guidance=guidance, region=True, region_margin=0)
            assert count.samples == factor * 2 * (STEPS - START)
            inside = cells(left(family), latent) | cells(right(family), latent)
            assert torch.equal(both[..., ~inside], latent[..., ~inside])
            order, _ = redenoise(generator, cache, where, cast[::-1], guidance=guidance, region=True, region_margin=0)
            assert torch.equal(both, order)

    law_on(law)


def check_controlnets_and_pictures_are_cut():
    """A hint that changes outside the region changes nothing, inside it does; the given ControlNet stays as it is."""
    family = replace(FAMILIES["SD1.5"], side=256)
    model, mask = family.make(1), small(family)
    _, cache = template(model, family)
    region = region_of(model, cache, mask, 0)
    text, extras = member(family).positive[0]

    def drawn(hint, **more):
        control = controlnet(model, hint, masks).set_previous_controlnet(controlnet(model, hint.flip(1), masks))
        kept = control.cond_hint_original.clone()
        mira = member(family, positive=[[text, {**extras, "control": control, **more}]])
        result, _ = redenoise(model, cache, layout(mask), (mira,), region=True, region_margin=0)
        assert torch.equal(control.cond_hint_original, kept)
        return result

    masks = torch.rand(1, 1, 128, 128, generator=torch.Generator().manual_seed(6))
    for size in (256, 512, 300):
        hint = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(5))
        outside, inside = hint.clone(), hint.clone()
        scale = size / 32
        rows = slice(int(region.top * scale), int((region.top + region.height) * scale) + 1)
        columns = slice(int(region.left * scale), int((region.left + region.width) * scale) + 1)
        inside[..., rows, columns] = 0
        outside.zero_()
        outside[..., rows, columns] = hint[..., rows, columns]
        plain = drawn(hint)
        assert torch.equal(plain, drawn(outside)), size
        assert largest_difference(plain, drawn(inside)) > 1e-6, size


def check_masks_of_prompts_and_pictures_for_inpainting_are_cut():
    family = replace(FAMILIES["SDXL"], side=256)
    model, mask = family.make(1), small(family)
    _, cache = template(model, family)
    region = region_of(model, cache, mask, 0)
    prompts = RegionalPrompts(region, model.model)
    grid = torch.arange(32 * 32.0).reshape(1, 1, 32, 32)
    pixels = grid.repeat_interleave(8, -1).repeat_interleave(8, -2)
    entry = {"mask": pixels[0], "concat_latent_image": grid, "concat_mask": pixels, "noise_concat": grid[:, :, None]}
    (cut,) = prompts.cut([entry])
    expected = region.crop(grid)
    assert torch.equal(cut["concat_latent_image"], expected)
    assert torch.equal(cut["noise_concat"], expected[:, :, None])
    assert torch.equal(cut["concat_mask"][..., ::8, ::8], expected)
    assert torch.equal(cut["mask"][..., ::8, ::8], expected[0])
    assert prompts.cut([{"mask": torch.rand(100, 150)}])[0]["mask"].shape == (8 * region.height, 8 * region.width)
    assert entry["concat_latent_image"] is grid


def check_what_cannot_be_cut_is_refused_before_the_first_evaluation():
    family = replace(FAMILIES["SD1.5"], side=256)
    model, mask = family.make(1), small(family)
    _, cache = template(model, family)
    text, extras = member(family).positive[0]

    class Foreign:
        previous_controlnet = None

    gligen = ("position", object(), [(torch.zeros(1, 8), 8, 8, 0, 0)])
    cases = [
        ({"area": (8, 8, 0, 0)}, '"area" in the prompt'),
        ({"area": ("percentage", 0.5, 0.5, 0, 0)}, '"area" in the prompt'),
        ({"mask": torch.ones(1, 256, 256), "set_area_to_bounds": True}, '"set_area_to_bounds"'),
        ({"gligen": gligen}, '"gligen"'),
        ({"control": Foreign()}, '"Foreign"'),
        ({"vace_frames": [torch.zeros(1, 16, 1, 32, 32)]}, '"vace_frames"'),
    ]
    with counted(model) as count:
        for more, words in cases:
            for kind in ("positive", "negative"):
                mira = member(family, **{kind: [[text, {**extras, **more}]]})
                refused(
                    lambda mira=mira: redenoise(model, cache, layout(mask), (mira,), region=True, region_margin=0),
                    '"Mira"', words, "switch region off",
                )  # fmt: skip
        refused(
            lambda: redenoise(model, cache, layout(mask), (member(family),), region=True, guidance=SHARED),
            "shared", "region",
        )  # fmt: skip
        kind = type("DiffSynthCnetPatch", (), {"__module__": "comfy_extras.nodes_model_patch"})
        patched = model.clone()
        patched.set_model_patch(kind(), "double_block")
        refused(
            lambda: redenoise(patched, cache, layout(mask), (member(family),), region=True, region_margin=0),
            "DiffSynthCnetPatch", "switch region off",
        )  # fmt: skip
    assert count.samples == 0
    harmless = {"mask_strength": 1.0, "strength": 0.9, "start_percent": 0.0, "guidance": 3.5, "reference_latents": []}
    mira = member(family, positive=[[text, {**extras, **harmless}]])
    redenoise(model, cache, layout(mask), (mira,), region=True, region_margin=0)
