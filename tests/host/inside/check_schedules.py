"""The headless host's noise schedules are ComfyUI's, bit for bit, and ask the UNet for the same timesteps."""

import comfy.model_sampling
import comfy.samplers
import torch
from story_identity.headless import schedules
from story_identity.headless.option_values import SCHEDULES

STEPS = (*range(1, 61), 75, 99, 100, 250, 333, 500, 999, 1000)


class Config(dict):
    __getattr__ = dict.__getitem__


CONFIG = Config(beta_start=0.00085, beta_end=0.012, num_train_timesteps=1000, beta_schedule="scaled_linear")


def check_every_schedule_is_the_hosts():
    sampling = comfy.model_sampling.ModelSamplingDiscrete()
    assert torch.equal(schedules.training_levels(CONFIG), sampling.sigmas)
    assert torch.equal(schedules.log_levels(CONFIG), sampling.log_sigmas)
    for name in SCHEDULES:
        for steps in STEPS:
            ours = schedules.schedule(name, steps, CONFIG)
            theirs = comfy.samplers.calculate_sigmas(sampling, name, steps)
            assert torch.equal(ours, theirs), (name, steps)


def check_the_same_timesteps_are_asked_for():
    """Holds for every scheduler of the host, in calls of any size, also those that are not among our choices."""
    sampling = comfy.model_sampling.ModelSamplingDiscrete()
    logs = schedules.log_levels(CONFIG)
    for name in comfy.samplers.SCHEDULER_NAMES:
        for steps in STEPS[1:]:  # kl_optimal divides by zero for one step
            sigmas = comfy.samplers.calculate_sigmas(sampling, name, steps)[:-1]
            for sigma in sigmas.split(1) if steps < 60 else sigmas.split(16):
                called = sigma.repeat(2)  # a positive and a negative prompt in one call
                assert torch.equal(schedules.nearest_timesteps(called, logs), sampling.timestep(called)), (name, steps)


def check_half_way_between_two_timesteps_the_hosts_choice_is_made():
    sampling = comfy.model_sampling.ModelSamplingDiscrete()
    logs = schedules.log_levels(CONFIG)
    ties = torch.stack([sampling.sigma(torch.tensor(timestep + 0.5)) for timestep in range(999)])
    theirs = sampling.timestep(ties)
    assert torch.equal(schedules.nearest_timesteps(ties, logs), theirs)
    alone = [int(schedules.nearest_timesteps(tie.repeat(2), logs)[0]) for tie in ties]
    assert alone == theirs.tolist()
    upwards = int((theirs > torch.arange(999)).sum())
    assert 0 < upwards < 999  # the last bit decides, now up, now down
