"""The laws of Noisy Latent Cache and Progressive-Mask Re-denoise, on the host's own samplers and models."""

import comfy.controlnet
import comfy.samplers
import setting
import torch
from setting import refused
from story_identity.core.identity import Identity
from story_identity.core.layout import Layout
from story_identity.core.redenoise import ProgressiveMasks, to_latent_grid
from story_identity.nodes.host import passes
from story_identity.nodes.host.guiders import RedenoiseGuider
from story_identity.nodes.sampling import CastNode, NoisyLatentCacheNode, RedenoiseNode
from story_identity.nodes.types import CastMember

import nodes
from tests.closeness import assert_close, largest_difference

GRID = 8
SIDE = GRID * 8
SAMPLERS = [name for name in comfy.samplers.KSampler.SAMPLERS if name not in passes.UNREPLAYABLE_SAMPLERS]


def template(model, *, sampler_name="euler", steps=6, seed=3, keep_from_step=0, precision="float32", cfg=4.0, **more):
    settings = {
        "positive": setting.conditioning(model, 1),
        "negative": setting.conditioning(model, 2),
        "latent_image": setting.empty_latent(GRID, GRID),
        "scheduler": "normal",
        "denoise": 1.0,
        **more,
    }
    latent, cache = NoisyLatentCacheNode.execute(
        model,
        seed=seed,
        steps=steps,
        cfg=cfg,
        sampler_name=sampler_name,
        keep_from_step=keep_from_step,
        precision=precision,
        **settings,
    ).result
    return latent["samples"], cache


def member(model, name="Mira", seed=11):
    identity = Identity(name, "", "photomaker-v1", torch.ones(4))
    return CastMember(identity, setting.conditioning(model, seed), setting.conditioning(model, 2))


def box_mask(top, left, bottom, right):
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def layout(*masks, names=("Mira", "Ben")):
    return Layout(tuple(names[: len(masks)]), torch.stack(masks))


LEFT = box_mask(16, 8, 48, 24)
RIGHT = box_mask(16, 40, 48, 56)


def redenoise(model, cache, where, cast, start=2, max_kernel=200, cfg=4.0, mask_edge="hard"):
    return RedenoiseNode.execute(model, cast, cache, where, start, max_kernel, cfg, mask_edge).result[0]["samples"]


class Watching(RedenoiseGuider):
    """The guider under test, which also keeps the latents it was called with."""

    def outer_predict_noise(self, x, timestep, model_options=None, seed=None):
        self.latents.append(x.clone())
        return super().outer_predict_noise(x, timestep, model_options, seed)


def watched(model, cache, masks, cast, start, max_kernel_px, soft=False):
    schedule = ProgressiveMasks(masks, cache.steps, start, max_kernel_px)
    guider = Watching(model, cache, schedule, cast, soft)
    guider.latents = []
    guider.set_cfg(4.0)
    recipe = cache.recipe
    final = passes._sample(
        guider, model, cache.noise, cache.initial, recipe.solver, cache.sigmas, cache.noise_mask, recipe.seed
    )
    outside = ~to_latent_grid(schedule.at(cache.steps - 1), GRID, GRID).any(dim=0)[0]
    return guider.latents, final, outside


def check_the_template_is_the_stock_ksamplers_picture():
    model = setting.tiny_sd15()
    for sampler_name in SAMPLERS:
        latent, cache = template(model, sampler_name=sampler_name)
        (stock,) = nodes.KSampler().sample(
            model,
            3,
            6,
            4.0,
            sampler_name,
            "normal",
            setting.conditioning(model, 1),
            setting.conditioning(model, 2),
            setting.empty_latent(GRID, GRID),
        )
        assert torch.equal(latent, stock["samples"]), sampler_name
        assert torch.equal(latent, cache.final)


def check_the_background_follows_the_cache_bit_for_bit_with_every_sampler():
    model, generator = setting.tiny_sd15(1), setting.tiny_sd15(2)
    assert len(SAMPLERS) >= 40
    for sampler_name in SAMPLERS:
        latent, cache = template(model, sampler_name=sampler_name)
        latents, final, outside = watched(generator, cache, torch.stack([LEFT]), (member(generator),), 2, 10.0)
        assert len(latents) == len(cache.calls), sampler_name
        assert outside.any()
        assert not outside.all()
        for seen, call in zip(latents, cache.calls, strict=True):
            assert torch.equal(seen[..., outside], call.latent[..., outside]), (sampler_name, call.sigma)
        assert torch.equal(final[..., outside], latent[..., outside]), sampler_name
        assert largest_difference(final, latent) > 1e-3, sampler_name


def check_every_scheduler_works_and_keeps_the_background():
    model = setting.tiny_sd15()
    for scheduler in comfy.samplers.KSampler.SCHEDULERS:
        latent, cache = template(model, scheduler=scheduler, sampler_name="dpmpp_2m")
        _, final, outside = watched(model, cache, torch.stack([LEFT]), (member(model),), 2, 10.0)
        assert torch.equal(final[..., outside], latent[..., outside]), scheduler


def check_masks_that_touch_no_latent_cell_give_the_template_bit_for_bit():
    model = setting.tiny_sd15()
    speck = box_mask(3, 3, 4, 4)
    for sampler_name in SAMPLERS:
        latent, cache = template(model, sampler_name=sampler_name)
        _, final, _ = watched(model, cache, torch.stack([speck]), (member(model),), 2, 0.0)
        assert torch.equal(final, latent), sampler_name


def check_empty_masks_give_the_template_without_the_unet():
    model = setting.tiny_sd15()
    latent, cache = template(model)
    with setting.counted(model) as count:
        again = redenoise(model, cache, layout(torch.zeros_like(LEFT)), (member(model),))
    assert torch.equal(again, latent)
    assert count.samples == 0


def check_a_full_mask_is_sampling_with_the_identity_model_from_start():
    model, generator = setting.tiny_sd15(1), setting.tiny_sd15(2)
    everything = torch.ones(SIDE, SIDE, dtype=torch.bool)
    for sampler_name in ("euler", "ddim"):
        _, cache = template(model, sampler_name=sampler_name)
        ours = redenoise(generator, cache, layout(everything), (member(generator),), start=2)
        halfway = generator.model.process_latent_out(cache.calls[2].latent)
        plain = comfy.samplers.sample(
            generator,
            torch.zeros_like(halfway),
            setting.conditioning(generator, 11),
            setting.conditioning(generator, 2),
            4.0,
            generator.load_device,
            comfy.samplers.sampler_object(sampler_name),
            cache.sigmas[2:],
            generator.model_options,
            latent_image=halfway,
            seed=3,
        )
        assert_close(ours, plain)


def check_compositing_predictions_is_compositing_latents():
    """Equation 7, by hand: step the character from the common latent, composite with the cached latent."""
    model, generator = setting.tiny_sd15(1), setting.tiny_sd15(2)
    latent, cache = template(model)
    cast = (member(generator),)
    full = torch.ones(SIDE, SIDE, dtype=torch.bool)
    latents, final, _ = watched(generator, cache, torch.stack([LEFT]), cast, 2, 10.0)
    schedule = ProgressiveMasks(torch.stack([LEFT]), cache.steps, 2, 10.0)
    cached = [call.latent for call in cache.calls] + [generator.model.process_latent_in(cache.final)]
    for step in range(2, cache.steps):
        x, sigma, following = latents[step], cache.sigmas[step], cache.sigmas[step + 1]
        prediction = _predict(generator, cache, cast, full, step, x)
        stepped = x + (x - prediction) / sigma * (following - sigma)
        mask = to_latent_grid(schedule.at(step), GRID, GRID)[0]
        expected = torch.where(mask, stepped, cached[step + 1])
        reached = latents[step + 1] if step + 1 < cache.steps else generator.model.process_latent_in(final)
        assert_close(reached, expected)


def _predict(generator, cache, cast, full, step, x):
    """The identity generator's guided prediction at one latent, taken through a stock guider."""
    found = []

    class Once(comfy.samplers.CFGGuider):
        def outer_predict_noise(self, _, timestep, model_options=None, seed=None):
            sigma = torch.full_like(timestep, float(cache.sigmas[step]))
            found.append(super().outer_predict_noise(x, sigma, model_options, seed))
            return found[-1]

    guider = Once(generator)
    guider.set_conds(cast[0].positive, cast[0].negative)
    guider.set_cfg(4.0)
    euler = comfy.samplers.sampler_object("euler")
    guider.sample(cache.noise, cache.initial, euler, cache.sigmas[step : step + 2], seed=3)
    return found[0]


def check_unet_evaluations_are_counted():
    model, generator = setting.tiny_sd15(1), setting.tiny_sd15(2)
    steps, start = 50, 10
    for cast, masks in (
        ((member(generator),), (LEFT,)),
        ((member(generator), member(generator, "Ben", 12)), (LEFT, RIGHT)),
    ):
        with setting.counted(model) as first:
            _, cache = template(model, steps=steps)
        with setting.counted(generator) as second:
            redenoise(generator, cache, layout(*masks), cast, start=start, cfg=7.0)
        assert first.samples == 2 * steps
        assert second.samples == 2 * len(cast) * (steps - start)
        assert first.samples + second.samples == 100 + 80 * len(cast)


def check_cfg_one_needs_no_negative():
    model = setting.tiny_sd15()
    with setting.counted(model) as count:
        _, cache = template(model, cfg=1.0)
        redenoise(model, cache, layout(LEFT), (member(model),), start=2, cfg=1.0)
    assert count.samples == 6 + 4


def check_an_empty_character_costs_nothing():
    model = setting.tiny_sd15()
    _, cache = template(model)
    two = (member(model), member(model, "Ben", 12))
    with setting.counted(model) as count:
        redenoise(model, cache, layout(LEFT, torch.zeros_like(LEFT)), two, start=2)
    assert count.samples == 2 * 4


def check_each_character_gets_their_own_prompt():
    model = setting.tiny_sd15()
    _, cache = template(model)
    one, two, other = member(model), member(model, "Ben", 12), member(model, "Ben", 13)
    both = redenoise(model, cache, layout(LEFT, RIGHT), (one, two), max_kernel=0)
    swapped = redenoise(model, cache, layout(LEFT, RIGHT), (one, other), max_kernel=0)
    left, right = (to_latent_grid(mask[None], GRID, GRID)[0, 0] for mask in (LEFT, RIGHT))
    assert (both - swapped)[..., right].abs().mean() > 5 * (both - swapped)[..., left].abs().mean()
    reordered = redenoise(model, cache, layout(LEFT, RIGHT), (two, one), max_kernel=0)
    assert torch.equal(both, reordered)


def check_a_b_a_gives_the_same_bytes():
    model = setting.tiny_sdxl()
    before = {key: value.clone() for key, value in model.model.state_dict().items()}
    options = repr(model.model_options)

    def run(seed, sampler_name):
        latent, cache = template(model, seed=seed, sampler_name=sampler_name)
        return latent, redenoise(model, cache, layout(LEFT), (member(model),))

    first, _, again = run(3, "dpmpp_2m_sde"), run(4, "euler_ancestral"), run(3, "dpmpp_2m_sde")
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert repr(model.model_options) == options
    assert all(torch.equal(value, before[key]) for key, value in model.model.state_dict().items())


def check_one_cache_can_be_re_denoised_twice():
    model = setting.tiny_sd15()
    for sampler_name in ("euler", "euler_cfg_pp", "dpmpp_3m_sde"):
        _, cache = template(model, sampler_name=sampler_name)
        bits = [call.prediction.clone() for call in cache.calls]
        first = redenoise(model, cache, layout(LEFT), (member(model),))
        assert torch.equal(first, redenoise(model, cache, layout(LEFT), (member(model),)))
        assert all(torch.equal(call.prediction, kept) for call, kept in zip(cache.calls, bits, strict=True))


def check_cfg_plus_plus_samplers_read_the_composited_unconditional():
    model, generator = setting.tiny_sd15(1), setting.tiny_sd15(2)
    names = [name for name in SAMPLERS if name.endswith("_cfg_pp")]
    assert len(names) >= 6
    for sampler_name in names:
        _, cache = template(model, sampler_name=sampler_name)
        assert all(call.unconditional is not None for call in cache.calls), sampler_name
        everything = torch.ones(SIDE, SIDE, dtype=torch.bool)
        ours = redenoise(generator, cache, layout(everything), (member(generator),), start=0)
        (stock,) = nodes.KSampler().sample(
            generator,
            3,
            6,
            4.0,
            sampler_name,
            "normal",
            setting.conditioning(generator, 11),
            setting.conditioning(generator, 2),
            setting.empty_latent(GRID, GRID),
        )
        assert_close(ours, stock["samples"])


def check_soft_edges_keep_the_background_too():
    model = setting.tiny_sd15()
    latent, cache = template(model)
    odd = box_mask(13, 5, 43, 27)
    schedule = ProgressiveMasks(odd[None], cache.steps, 2, 10.0)
    untouched = to_latent_grid(schedule.at(cache.steps - 1), GRID, GRID, soft=True)[0, 0] == 0
    hard, soft = (watched(model, cache, odd[None], (member(model),), 2, 10.0, soft)[1] for soft in (False, True))
    assert torch.equal(soft[..., untouched], latent[..., untouched])
    assert not torch.equal(hard, soft)


def check_half_precision_halves_the_bytes_and_states_its_error():
    model = setting.tiny_sd15()
    latent, exact = template(model, steps=20)
    _, half = template(model, steps=20, precision="float16")
    fixed = sum(t.nbytes for t in (exact.sigmas, exact.noise, exact.initial, exact.final))
    assert half.nbytes - fixed == (exact.nbytes - fixed) / 2
    final = redenoise(model, half, layout(LEFT), (member(model),), max_kernel=0)
    outside = ~to_latent_grid(LEFT[None], GRID, GRID)[0, 0]
    error = (final - latent)[..., outside].abs().max() / latent.abs().max()
    assert 0 < error < 2e-3, error


def check_latents_are_kept_from_the_step_asked_for():
    model = setting.tiny_sd15()
    _, cache = template(model, keep_from_step=4)
    assert [call.latent is not None for call in cache.calls] == [False] * 4 + [True] * 2
    _, everything = template(model, keep_from_step=0)
    assert torch.equal(
        redenoise(model, cache, layout(LEFT), (member(model),)),
        redenoise(model, everything, layout(LEFT), (member(model),)),
    )


class PushControl(comfy.controlnet.ControlBase):
    """A control that adds a constant to the middle block."""

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        width = self.width
        return {"middle": [torch.full((x_noisy.shape[0], width, 1, 1), self.strength)], "input": [], "output": []}

    def copy(self):
        other = PushControl()
        other.width, self.copy_to = self.width, self.copy_to
        return other

    def get_models(self):
        return []


def _controlled(model, seed, strength):
    control = PushControl()
    control.width, control.strength = model.model.diffusion_model.middle_block[-1].out_channels, strength
    [[tensor, extras]] = setting.conditioning(model, seed)
    return [[tensor, {**extras, "control": control, "control_apply_to_uncond": False}]]


def check_controlnet_works_in_both_passes_and_keeps_the_background():
    model = setting.tiny_sd15()
    plain, _ = template(model)
    controls = {"positive": _controlled(model, 1, 3.0), "negative": _controlled(model, 2, 3.0)}
    latent, cache = template(model, **controls)
    assert largest_difference(plain, latent) > 1e-3
    identity = Identity("Mira", "", "photomaker-v1", torch.ones(4))
    controlled = CastMember(identity, _controlled(model, 11, 3.0), _controlled(model, 2, 3.0))
    _, final, outside = watched(model, cache, torch.stack([LEFT]), (controlled,), 2, 10.0)
    _, without, _ = watched(model, cache, torch.stack([LEFT]), (member(model),), 2, 10.0)
    assert torch.equal(final[..., outside], latent[..., outside])
    assert largest_difference(final, without) > 1e-3


def check_a_control_meant_for_both_prompts_reaches_the_negative_of_its_character():
    """ControlNetApply (without Advanced) marks the positive only; the host copies it to that character's negative."""
    model = setting.tiny_sd15()
    _, cache = template(model)
    identity = Identity("Mira", "", "photomaker-v1", torch.ones(4))
    positive = _controlled(model, 11, 3.0)
    marked = [[positive[0][0], {**positive[0][1], "control_apply_to_uncond": True}]]
    both = CastMember(identity, positive, _controlled(model, 2, 3.0))
    copied = CastMember(identity, marked, setting.conditioning(model, 2))
    one = CastMember(identity, positive, setting.conditioning(model, 2))
    results = [redenoise(model, cache, layout(LEFT), (m,)) for m in (both, copied, one)]
    assert_close(results[0], results[1])
    assert largest_difference(results[0], results[2]) > 1e-3


def check_noise_masks_work_in_both_passes():
    model = setting.tiny_sd15()
    painted = torch.zeros(1, SIDE, SIDE)
    painted[:, :, :32] = 1
    start = {
        "samples": torch.randn(1, 4, GRID, GRID, generator=torch.Generator().manual_seed(5)),
        "noise_mask": painted,
    }
    for sampler_name in ("euler", "ddim", "dpmpp_2m"):
        latent, cache = template(model, latent_image=start, sampler_name=sampler_name)
        _, final, outside = watched(model, cache, torch.stack([LEFT]), (member(model),), 2, 10.0)
        assert torch.equal(final[..., outside], latent[..., outside])
        assert not torch.equal(final, latent)


def check_patched_models_work_and_their_patches_are_used():
    from comfy_extras.nodes_freelunch import FreeU_V2

    model = setting.tiny_sd15()
    _, cache = template(model)
    plain = redenoise(model, cache, layout(LEFT), (member(model),))
    lora = model.clone()
    key = next(
        k for k in model.model.state_dict() if k.endswith("middle_block.1.transformer_blocks.0.attn2.to_v.weight")
    )
    assert lora.add_patches({key: (torch.randn_like(model.model.state_dict()[key]),)}, 0.5)
    free = FreeU_V2.execute(model, 1.3, 1.4, 0.9, 0.2).result[0] if hasattr(FreeU_V2, "execute") else None
    for patched in (lora, free):
        assert patched is not None
        latent, own = template(patched)
        _, final, outside = watched(patched, own, torch.stack([LEFT]), (member(model),), 2, 10.0)
        assert torch.equal(final[..., outside], latent[..., outside])
        assert patched is free or not torch.equal(redenoise(patched, cache, layout(LEFT), (member(model),)), plain)
    assert torch.equal(redenoise(model, cache, layout(LEFT), (member(model),)), plain)


def check_custom_noise_sampler_and_sigmas():
    from comfy_extras.nodes_custom_sampler import BasicScheduler, KSamplerSelect, RandomNoise

    model = setting.tiny_sd15()
    sockets = {
        "noise": RandomNoise.execute(3).result[0],
        "sampler": KSamplerSelect.execute("euler").result[0],
        "sigmas": BasicScheduler.execute(model, "normal", 6, 1.0).result[0],
    }
    latent, cache = template(model, **sockets, seed=99, steps=33)
    plain, _ = template(model)
    assert torch.equal(latent, plain)
    assert (cache.recipe.seed, cache.recipe.sampler_name, cache.steps) == (3, "euler", 6)


def check_bad_input_is_refused_before_any_unet_call():
    from comfy_extras.nodes_custom_sampler import SamplerDPMAdaptative

    model, sdxl = setting.tiny_sd15(), setting.tiny_sdxl()
    _, cache = template(model)
    mira, ben = member(model), member(model, "Ben", 12)
    adaptive = SamplerDPMAdaptative.execute(3, 0.05, 0.0078, 0.0, 1.0, 0.0, 0.81, 0.0, 1.0, 1.0).result[0]
    small = Layout(("Mira",), LEFT[None, :48, :48])
    shifted = sdxl_like(model)
    with setting.counted(model) as count, setting.counted(sdxl) as count_sdxl:
        refused(lambda: template(model, sampler_name="dpm_adaptive"), "dpm_adaptive", "euler")
        refused(lambda: template(model, sampler=adaptive), "dpm_adaptive")
        refused(lambda: template(model, latent_image=setting.empty_latent(GRID, GRID, 3)), "3 pictures", "batch_size")
        refused(lambda: redenoise(sdxl, cache, layout(LEFT), (mira,)), "SD15", "SDXL")
        refused(lambda: redenoise(shifted, cache, layout(LEFT), (mira,)), "noise levels", "14.61", "9")
        refused(lambda: redenoise(model, cache, small, (mira,)), "48x48", "64x64")
        refused(lambda: redenoise(model, cache, layout(LEFT), (mira,), start=6), "start is 6", "6 steps")
        refused(lambda: redenoise(model, cache, layout(LEFT), (mira,), start=-1), "start is -1")
        refused(lambda: redenoise(model, cache, layout(LEFT), (ben,)), '"Mira"', '"Ben"', "Cast")
        refused(lambda: redenoise(model, cache, layout(LEFT), ()), '"Mira"', "nobody")
        refused(lambda: redenoise(model, cache, layout(LEFT), (mira, ben)), '"Ben"', "Mira")
        refused(
            lambda: CastNode.execute(mira.identity, mira.positive, mira.negative, (mira,)), "two identities", "Mira"
        )
    assert count.samples == 0
    assert count_sdxl.samples == 0


def sdxl_like(model):
    """A clone whose noise schedule is another one."""
    import comfy.model_sampling

    shifted = model.clone()

    class Sampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
        pass

    sampling = Sampling(model.model.model_config)
    sampling.set_sigmas(sampling.sigmas * 0.65)
    shifted.add_object_patch("model_sampling", sampling)
    return shifted


def check_a_sampler_that_wanders_off_is_refused_before_the_unet():
    """A solver with noise of its own, which no seed fixes, gives another trajectory the second time."""
    model = setting.tiny_sd15()
    unseeded = torch.Generator().manual_seed(1)

    def restless(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for i in range(len(sigmas) - 1):
            denoised = model(x, sigmas[i] * x.new_ones([x.shape[0]]), **extra_args)
            x = denoised + sigmas[i + 1] * torch.randn(x.shape, generator=unseeded)
        return x

    _, cache = template(model, sampler=comfy.samplers.KSAMPLER(restless))
    with setting.counted(model) as count:
        refused(lambda: redenoise(model, cache, layout(LEFT), (member(model),)), "restless", "does not give")
    assert count.samples == 0


def check_an_interrupt_stops_the_replay():
    import comfy.model_management

    model = setting.tiny_sd15()
    _, cache = template(model)
    comfy.model_management.interrupt_current_processing(True)
    try:
        redenoise(model, cache, layout(LEFT), (member(model),))
    except comfy.model_management.InterruptProcessingException:
        return
    finally:
        comfy.model_management.interrupt_current_processing(False)
    raise AssertionError("the interrupt was not noticed")


def check_step_skipping_caches_do_not_carry_one_character_into_another():
    """EasyCache and LazyCache remember the last call; each character must have a memory of their own."""
    from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode

    model = setting.tiny_sd15()
    _, cache = template(model, steps=12)
    mira, ben, other = member(model), member(model, "Ben", 12), member(model, "Ben", 13)
    left = to_latent_grid(LEFT[None], GRID, GRID)[0, 0]
    where, swapped = layout(LEFT, RIGHT), layout(RIGHT, LEFT, names=("Ben", "Mira"))

    def difference(generator):
        ours = redenoise(generator, cache, where, (mira, ben), max_kernel=0)
        theirs = redenoise(generator, cache, where, (mira, other), max_kernel=0)
        assert torch.equal(ours, redenoise(generator, cache, swapped, (mira, ben), max_kernel=0))
        return (ours - theirs)[..., left].abs().mean()

    plain = difference(model)
    easy, lazy = (node.execute(model, 0.2, 0.15, 0.95, False).result[0] for node in (EasyCacheNode, LazyCacheNode))
    with setting.counted(model) as count:
        redenoise(lazy, cache, where, (mira, ben), max_kernel=0)
    assert count.samples < 2 * 2 * 10  # it did skip
    assert difference(lazy) < 5 * plain
    assert difference(easy) < 5 * plain


def check_skipped_steps_and_cfg_plus_plus_go_together():
    from comfy_extras.nodes_easycache import LazyCacheNode

    model = setting.tiny_sd15()
    lazy = LazyCacheNode.execute(model, 0.2, 0.15, 0.95, False).result[0]
    settings = (3, 12, 4.0, "euler_cfg_pp", "normal", setting.conditioning(model, 1), setting.conditioning(model, 2))
    (stock,) = nodes.KSampler().sample(lazy, *settings, setting.empty_latent(GRID, GRID))
    latent, cache = template(lazy, steps=12, sampler_name="euler_cfg_pp")
    assert any(call.unconditional is None for call in cache.calls)
    assert torch.equal(latent, stock["samples"])
    for generator in (model, lazy):
        _, final, outside = watched(generator, cache, torch.stack([LEFT]), (member(model),), 2, 10.0)
        assert torch.equal(final[..., outside], latent[..., outside])


def check_a_sampler_with_noise_of_its_own_draws_as_under_the_stock_node():
    from comfy_extras.nodes_custom_sampler import CFGGuider, RandomNoise, SamplerCustomAdvanced

    model = setting.tiny_sd15()

    def noisy(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for i in range(len(sigmas) - 1):
            denoised = model(x, sigmas[i] * x.new_ones([x.shape[0]]), **extra_args)
            x = denoised + sigmas[i + 1] * torch.randn_like(x)
        return x

    sampler, sigmas = comfy.samplers.KSAMPLER(noisy), passes.schedule(model, "euler", "normal", 6, 1.0)
    latent, cache = template(model, sampler=sampler)
    (guider,) = CFGGuider.execute(model, setting.conditioning(model, 1), setting.conditioning(model, 2), 4.0).result
    (noise,) = RandomNoise.execute(3).result
    stock = SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, setting.empty_latent(GRID, GRID)).result[0]
    assert torch.equal(latent, stock["samples"])
    refused(lambda: redenoise(model, cache, layout(LEFT), (member(model),)), "noisy", "does not give")


def check_what_other_nodes_write_into_their_tensors_does_not_reach_the_cache():
    model = setting.tiny_sd15()
    sigmas = passes.schedule(model, "euler", "normal", 6, 1.0)
    before = sigmas.clone()
    latent, cache = template(model, sigmas=sigmas)
    template(model, sigmas=sigmas, sampler=comfy.samplers.sampler_object("uni_pc"))  # writes into its sigmas
    assert torch.equal(sigmas, before)
    kept = [tensor.clone() for tensor in (cache.sigmas, cache.noise, cache.initial, cache.final)]
    sigmas.zero_()
    latent.zero_()
    again = redenoise(model, cache, layout(torch.zeros_like(LEFT)), ())
    again.zero_()
    assert all(
        torch.equal(a, b) for a, b in zip(kept, (cache.sigmas, cache.noise, cache.initial, cache.final), strict=True)
    )


def check_schedules_that_rise_are_refused():
    model = setting.tiny_sd15()
    rising = torch.tensor([14.6, 7.0, 3.0, 9.0, 4.0, 1.0, 0.0])
    with setting.counted(model) as count:
        refused(lambda: template(model, sigmas=rising), "rise from 3 to 9 at step 2")
    assert count.samples == 0


def check_templates_that_overflowed_say_so():
    model = setting.tiny_sd15()

    def broken(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for i in range(len(sigmas) - 1):
            x = model(x, sigmas[i] * x.new_ones([x.shape[0]]), **extra_args) * float("nan")
        return x

    _, cache = template(model, sampler=comfy.samplers.KSAMPLER(broken))
    refused(lambda: redenoise(model, cache, layout(LEFT), (member(model),)), "NaN", "overflowed")


def check_the_nodes_widgets_reach_the_pass():
    """Edge, start and kernel; the kernel is scaled to the picture, so 1024 on a picture of 64 grows by 64 pixels."""
    model = setting.tiny_sd15()
    latent, cache = template(model)
    cast = (member(model),)
    odd = layout(box_mask(13, 5, 43, 27))
    hard, soft = (redenoise(model, cache, odd, cast, max_kernel=0, mask_edge=edge) for edge in ("hard", "soft"))
    assert not torch.equal(hard, soft)
    assert not torch.equal(hard, redenoise(model, cache, odd, cast, max_kernel=0, start=3))

    def changed(max_kernel):
        return (redenoise(model, cache, layout(box_mask(24, 24, 40, 40)), cast, max_kernel=max_kernel) != latent)[0, 0]

    for kernel, cells in ((0, 2), (128, 4), (1024, GRID)):  # 128 is 8 pixels here: one latent cell each way
        assert changed(kernel).any(dim=0).sum() == cells, kernel
