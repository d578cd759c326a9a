"""Schedules: laws of all, values of each worked by hand. Against ComfyUI: tests/host/inside/check_schedules.py."""

import math
from types import SimpleNamespace

import pytest
import torch
from story_identity.headless.option_values import SCHEDULES
from story_identity.headless.schedules import log_levels, nearest_timesteps, schedule, training_levels

from tests.closeness import assert_close


class Config(SimpleNamespace):
    def get(self, key):
        return getattr(self, key, None)


SD = Config(beta_start=0.00085, beta_end=0.012, num_train_timesteps=1000, beta_schedule="scaled_linear")
LEVELS = training_levels(SD)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 7, 50, 300])
def test_a_schedule_falls_from_within_the_levels_to_zero(name, steps):
    sigmas = schedule(name, steps, SD)
    assert (sigmas[1:] < sigmas[:-1]).all()
    assert sigmas[-1] == 0
    assert sigmas[0] <= LEVELS[-1] * (1 + 1e-6)
    assert len(sigmas) >= steps + 1 if name == "ddim_uniform" else len(sigmas) == steps + 1


def test_training_levels_by_hand():
    first = 0.00085
    assert LEVELS[0] == pytest.approx(math.sqrt(first / (1 - first)))
    second = (math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) / 999) ** 2
    kept = (1 - first) * (1 - second)
    assert LEVELS[1] == pytest.approx(math.sqrt((1 - kept) / kept))
    assert LEVELS[-1] == pytest.approx(14.6146, abs=1e-3)  # Stable Diffusion's well-known largest sigma


def test_simple_counts_back_in_equal_parts_rounded_down():
    assert torch.equal(schedule("simple", 3, SD)[:-1], LEVELS[[999, 666, 333]])


def test_ddim_uniform_counts_from_one_and_may_need_a_step_more():
    assert torch.equal(schedule("ddim_uniform", 4, SD)[:-1], LEVELS[[751, 501, 251, 1]])
    assert len(schedule("ddim_uniform", 30, SD)) == 32


def test_normal_has_both_ends_and_the_geometric_mean_between_two_levels():
    sigmas = schedule("normal", 3, SD)
    assert sigmas[[0, 2]].tolist() == pytest.approx([LEVELS[999].item(), LEVELS[0].item()], rel=1e-6)
    assert sigmas[1].item() == pytest.approx(math.sqrt(LEVELS[499] * LEVELS[500]), rel=1e-6)


def test_karras_is_linear_in_the_seventh_root():
    roots = schedule("karras", 5, SD)[:-1] ** (1 / 7)
    assert_close(roots.diff(), roots.diff().mean().expand(4), 1e-4)


def test_a_level_belongs_to_its_own_timestep_and_what_lies_near_to_the_nearest():
    everyone = torch.arange(1000)
    assert torch.equal(nearest_timesteps(LEVELS, log_levels(SD)), everyone)
    assert torch.equal(nearest_timesteps(LEVELS * 1.0001, log_levels(SD)), everyone)


def test_logarithms_are_those_of_the_unrounded_levels():
    """Sigmas rounded to float32 have other logarithms in the last bit, and half way between two levels it decides."""
    exact = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    kept = torch.cumprod(1 - exact, dim=0)
    assert torch.equal(log_levels(SD), (((1 - kept) / kept) ** 0.5).log().float())
    assert not torch.equal(log_levels(SD), LEVELS.log())


def test_other_betas_are_refused_with_their_name():
    with pytest.raises(ValueError, match="squaredcos_cap_v2"):
        training_levels(Config(beta_start=0, beta_end=1, num_train_timesteps=9, beta_schedule="squaredcos_cap_v2"))
    with pytest.raises(ValueError, match="zero terminal SNR: True"):
        training_levels(Config(**vars(SD), rescale_betas_zero_snr=True))
