"""The headless host's noise schedules are ComfyUI's, number for number."""

import comfy.model_sampling
import comfy.samplers
import torch
from story_identity.headless import schedules


def check_every_schedule_is_the_hosts():
    sampling = comfy.model_sampling.ModelSamplingDiscrete()
    config = Config(beta_start=0.00085, beta_end=0.012, num_train_timesteps=1000, beta_schedule="scaled_linear")
    levels = schedules.training_levels(config)
    assert torch.equal(levels, sampling.sigmas)
    for name in ("simple", "normal", "ddim_uniform", "karras"):
        for steps in (1, 7, 20, 30, 50, 1000):
            ours = schedules.schedule(name, steps, levels)
            theirs = comfy.samplers.calculate_sigmas(sampling, name, steps)
            assert torch.allclose(ours, theirs, rtol=2e-6, atol=0), (name, steps, ours, theirs)
            timesteps = [schedules.nearest_timestep(float(sigma), levels) for sigma in ours[:-1]]
            assert timesteps == sampling.timestep(theirs[:-1]).tolist(), (name, steps)


class Config(dict):
    __getattr__ = dict.__getitem__
