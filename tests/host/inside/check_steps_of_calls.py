"""Which step of the schedule a model call belongs to, in samplers that call the model several times per step."""

import comfy.samplers
import setting
import torch
from check_two_passes import LEFT, SAMPLERS, SIDE, layout, member, redenoise, template
from story_identity.nodes.host import passes

from tests.closeness import largest_difference

START, STEPS = 2, 6
CALLS_PER_STEP = {
    "euler": 1,
    "heun": 2,
    "heunpp2": 3,
    "exp_heun_2_x0": 2,
    "exp_heun_2_x0_sde": 2,
    "dpm_2": 2,
    "dpm_2_ancestral": 2,
    "dpmpp_2s_ancestral": 2,
    "dpmpp_2s_ancestral_cfg_pp": 2,
    "dpmpp_sde": 2,
    "seeds_2": 2,
    "seeds_3": 3,
}
"""Calls of every step but the last ones, of samplers that remember nothing from one step to the next."""


class Joined(comfy.samplers.CFGGuider):
    """The template's own predictions for the first calls, the identity model's for all others."""

    def outer_predict_noise(self, x, timestep, model_options=None, seed=None):
        options, hooks = dict(model_options or {}), (model_options or {}).get("sampler_post_cfg_function", [])
        call = next(self.calls, None)
        if call is None:
            return super().outer_predict_noise(x, timestep, options, seed)
        assert torch.equal(x, call.latent)
        prediction = call.prediction.clone()
        for hook in hooks:
            found = {"denoised": prediction, "uncond_denoised": call.unconditional, "model_options": options}
            prediction = hook({**found, "input": x, "sigma": timestep, "cond_scale": self.cfg, "model": None})
        return prediction


def joined(generator, cache, first_calls):
    guider = Joined(generator)
    guider.set_conds(setting.conditioning(generator, 11), setting.conditioning(generator, 2))
    guider.set_cfg(4.0)
    guider.calls = iter(cache.calls[:first_calls])
    recipe = cache.recipe
    return passes._sample(guider, generator, cache.noise, cache.initial, recipe.solver, cache.sigmas, None, recipe.seed)


def check_with_a_full_mask_every_call_before_start_is_the_templates_and_none_after():
    model, generator = setting.tiny_sd15(1), setting.tiny_sd15(2)
    everything = layout(torch.ones(SIDE, SIDE, dtype=torch.bool))
    for sampler_name, per_step in CALLS_PER_STEP.items():
        _, cache = template(model, sampler_name=sampler_name)
        ours = redenoise(generator, cache, everything, (member(generator),), start=START)
        expected = joined(generator, cache, per_step * START)
        error = float((ours - expected).abs().max() / expected.abs().max())
        assert error < 1e-5, (sampler_name, error)
        one_more = joined(generator, cache, per_step * START + 1)
        assert (one_more - expected).abs().max() > 1e-3, sampler_name


def check_heun_goes_on_from_the_cached_latent_as_the_identity_model_would():
    model, generator = setting.tiny_sd15(1), setting.tiny_sd15(2)
    everything = layout(torch.ones(SIDE, SIDE, dtype=torch.bool))
    for sampler_name in ("heun", "dpm_2"):
        _, cache = template(model, sampler_name=sampler_name)
        ours = redenoise(generator, cache, everything, (member(generator),), start=START)
        reached = generator.model.process_latent_out(cache.calls[2 * START].latent)
        plain = comfy.samplers.sample(
            generator,
            torch.zeros_like(reached),
            setting.conditioning(generator, 11),
            setting.conditioning(generator, 2),
            4.0,
            generator.load_device,
            cache.recipe.solver,
            cache.sigmas[START:],
            generator.model_options,
            latent_image=reached,
            seed=3,
        )
        assert largest_difference(ours, plain) <= 1e-5, (sampler_name, largest_difference(ours, plain))


def check_the_sampler_says_which_step_a_call_belongs_to():
    """Holds for every sampler but dpm_fast, which does not follow the schedule: there the noise level decides."""
    model = setting.tiny_sd15()
    for sampler_name in SAMPLERS:
        _, cache = template(model, sampler_name=sampler_name)
        steps = [call.step for call in cache.calls]
        if sampler_name == "dpm_fast":
            assert steps == [None] * len(steps)
            continue
        assert sorted(set(steps)) == list(range(STEPS)), (sampler_name, steps)
        assert steps == sorted(steps), (sampler_name, steps)
        firsts = [cache.calls[steps.index(step)] for step in range(STEPS)]
        assert largest_difference([call.sigma for call in firsts], cache.sigmas[:-1]) <= 1e-6, sampler_name


def check_a_solver_that_reports_no_steps_or_late_ones_is_read_by_noise_level():
    def solver(report):
        def heun(model, x, sigmas, extra_args=None, callback=None, disable=None):
            for i in range(len(sigmas) - 1):
                first = x
                for level in sigmas[i : i + 2].tolist()[: 1 if sigmas[i + 1] == 0 else 2]:
                    denoised = model(x, level * x.new_ones([len(x)]), **extra_args)
                    x = first + (first - denoised) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
                if report and callback is not None:
                    callback({"i": i, "denoised": denoised, "x": x})
            return x

        return comfy.samplers.KSAMPLER(heun)

    model = setting.tiny_sd15()
    for report in (False, True):
        _, cache = template(model, sampler=solver(report))
        assert all(call.step is None for call in cache.calls)
        final = redenoise(model, cache, layout(LEFT), (member(model),), start=START)
        assert (final - cache.final).abs().max() > 1e-3
