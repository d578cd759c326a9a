"""Models in bfloat16 and float16: both passes and AMSA keep their laws, and what is kept has the dtype it should."""

import math
from contextlib import contextmanager

import setting
import torch
from check_two_passes import LEFT, RIGHT, SIDE, layout, member, redenoise, template
from families import FAMILIES
from frames import amsa, masks_noted, sample, story
from story_identity.core.layout import Layout
from story_identity.core.redenoise import ProgressiveMasks, scaled_kernel, to_latent_grid
from story_identity.nodes.host.latents import downscale_ratio
from story_identity.nodes.host.toyworld import load_model
from two_passes import box
from two_passes import member as member_of
from two_passes import redenoise as redenoise_family
from two_passes import template as template_of

from tests.closeness import assert_close, largest_difference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CLOSE = {torch.float32: 0.0, torch.bfloat16: 0.3, torch.float16: 0.05}
"""How far predictions of random weights may be from those in float32."""
START, KERNEL = 2, 200


def in_dtype(model, dtype):
    """The MODEL with its network in a dtype, as the host has it after --bf16-unet and --fp16-unet."""
    network = model.model.diffusion_model
    network.to(dtype)
    network.dtype = dtype
    model.model.model_config.set_inference_dtype(dtype, None)
    return model


@contextmanager
def dtypes_seen(model):
    """The dtypes of the latents that the network is given meanwhile."""
    seen = set()
    hook = model.model.diffusion_model.register_forward_pre_hook(lambda _, args: seen.add(args[0].dtype))
    try:
        yield seen
    finally:
        hook.remove()


def outside(where, cache, latent, start=START, kernel=KERNEL):
    """The cells of a latent that no mask ever covers."""
    schedule = ProgressiveMasks(where.masks, cache.steps, start, scaled_kernel(kernel, *where.size))
    return ~to_latent_grid(schedule.at(cache.steps - 1), *latent.shape[-2:]).any(dim=0)[0]


def assert_background(latent, done, free):
    assert 0 < free.float().mean() < 1
    assert torch.equal(latent[..., free], done[..., free])
    assert done.isfinite().all()
    assert largest_difference(latent[..., ~free], done[..., ~free]) > 1e-3


def check_the_background_stays_bit_for_bit_and_the_cache_is_in_its_own_dtype():
    where = layout(LEFT, RIGHT)
    for build in (setting.tiny_sd15, setting.tiny_sdxl, load_model):
        exact = None
        for dtype in DTYPES:
            model = in_dtype(build(), dtype)
            cast = (member(model), member(model, "Ben", 12))
            with dtypes_seen(model) as seen:
                cells = SIDE // downscale_ratio(model)
                latent, cache = template(model, latent_image=setting.empty_latent(cells, cells))
                done = redenoise(model, cache, where, cast, START, KERNEL)
            assert seen == {dtype}, (build, seen)
            exact = latent if exact is None else exact
            assert_close(latent, exact, CLOSE[dtype])
            assert_background(latent, done, outside(where, cache, latent))
            for tensor in (latent, done, cache.final, cache.noise, *(call.prediction for call in cache.calls)):
                assert tensor.dtype == torch.float32
                assert tensor.device.type == "cpu"


def check_a_cache_in_float16_keeps_the_background_of_a_model_in_any_dtype():
    where = layout(LEFT)
    for dtype in DTYPES:
        model = in_dtype(setting.tiny_sd15(), dtype)
        latent, cache = template(model, precision="float16")
        kept = [each for call in cache.calls for each in (call.prediction, call.latent)]
        assert {each.dtype for each in kept if each is not None} == {torch.float16}
        done = redenoise(model, cache, where, (member(model),), START, KERNEL)
        plain = redenoise(model, cache, where, (member(model, seed=23),), START, KERNEL)
        free = outside(where, cache, latent)
        assert torch.equal(done[..., free], plain[..., free])
        assert done.isfinite().all()
        assert_close(done[..., free], latent[..., free], 1e-2)


def check_transformers_do_the_same():
    for name in ("Z-Image", "Flux.1"):
        family = FAMILIES[name]
        mask = box(family, 2, 1, 6, 4)
        where = Layout(("Mira",), mask[None])
        for dtype in DTYPES:
            model = in_dtype(family.make(), dtype)
            with dtypes_seen(model) as seen:
                latent, cache = template_of(model, family)
                done, _ = redenoise_family(model, cache, where, (member_of(family),))
            assert seen == {dtype}, (name, seen)
            assert_background(latent, done, outside(where, cache, latent, 1, 0))
            assert {call.prediction.dtype for call in cache.calls} == {torch.float32}


def check_amsa_finds_nearly_the_same_masks_and_never_overflows():
    for build in (setting.tiny_sd15, setting.tiny_sdxl):
        told, exact = story(), None
        for dtype in DTYPES:
            model = in_dtype(build(), dtype)
            with masks_noted() as noted, dtypes_seen(model) as seen:
                shared = sample(amsa(model, told), told)
            plain = sample(model, told)
            assert seen == {dtype}
            assert shared.isfinite().all()
            assert shared.dtype == torch.float32
            assert largest_difference(shared, plain) > 1e-3
            assert torch.equal(sample(amsa(model, told, end=1e-4), told), plain)
            masks = {(sigma, grid): subject for sigma, grids in noted.items() for grid, (subject, _) in grids.items()}
            assert {each.dtype for each in masks.values()} == {torch.bool}
            exact = masks if exact is None else exact
            same = [float((masks[key] == mask).double().mean()) for key, mask in exact.items()]
            assert same, "AMSA shared nothing"
            assert math.fsum(same) / len(same) >= (1.0 if dtype == torch.float32 else 0.8), (build, dtype, same)
