"""Solvers: the order of convergence where the true path is known, steps worked by hand, other implementations."""

import math

import pytest
import torch
from diffusers import DDIMScheduler
from story_identity.headless.option_values import SAMPLERS
from story_identity.headless.sampling import sample
from story_identity.headless.schedules import schedule, training_levels
from story_identity.headless.solvers import Solver

from tests.closeness import assert_close, largest_difference

from .test_schedules import SD

LEVELS = training_levels(SD)
DEVIATION = 0.7


def gaussian(latent, sigma):
    """The exact prediction where pictures are Gaussian with this deviation."""
    return latent * DEVIATION**2 / (DEVIATION**2 + sigma**2)


def noise(seed=0, shape=(1, 2, 3, 5)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error(name, steps):
    """How far a solver ends from the true path's end, over the part of it above the smallest level."""
    sigmas = schedule("karras", steps, SD)
    start = noise()
    latent = Solver(name, sigmas, 0).first_latent(start, LEVELS)
    ends = [math.sqrt(DEVIATION**2 + sigma**2) for sigma in (float(sigmas[0]), 0.0)]
    found = sample(Solver(name, sigmas, 0), gaussian, start, LEVELS)
    return float((found - latent * ends[1] / ends[0]).abs().max())


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("ddim", 1), ("dpmpp_2m", 2)])
def test_order_of_convergence(name, order):
    ratio = error(name, 10) / error(name, 20)
    assert 2 ** (order - 0.35) < ratio < 2 ** (order + 0.6), ratio


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_constant_prediction_is_where_every_solver_ends(name):
    target = noise(1)
    found = sample(Solver(name, schedule("simple", 9, SD), 3), lambda x, sigma: target, noise(), LEVELS)
    assert_close(found, target)


@pytest.mark.parametrize("name", ["euler", "ddim", "dpmpp_2m"])
def test_the_first_step_by_hand(name):
    """x = 4, D = 2, sigma 2 to 1: 2 + (4 - 2) / 2 * 1 = 3; then to 0 with D = 2.5: 2.5."""
    solver = Solver(name, torch.tensor([2.0, 1.0, 0.0]), 0)
    latent = solver.step(0, torch.full((1, 1, 1, 1), 4.0), torch.full((1, 1, 1, 1), 2.0))
    assert latent.item() == pytest.approx(3.0, rel=1e-6)
    assert solver.step(1, latent, torch.full((1, 1, 1, 1), 2.5)).item() == pytest.approx(2.5, rel=1e-6)


def test_the_second_step_of_dpmpp_2m_by_hand():
    """Sigma 4, 2, 1: both steps are ln 2 long, so D is extrapolated to 1.5 D1 - 0.5 D0, and x halves its distance."""
    solver = Solver("dpmpp_2m", torch.tensor([4.0, 2.0, 1.0, 0.0]), 0)
    one = torch.ones(1, 1, 1, 1)
    latent = solver.step(0, 6.0 * one, 2.0 * one)
    assert latent.item() == pytest.approx(4.0, rel=1e-6)
    assert solver.step(1, latent, 3.0 * one).item() == pytest.approx((4.0 + (1.5 * 3 - 0.5 * 2)) / 2, rel=1e-6)


def test_noise_enters_at_the_first_level():
    sigmas = schedule("simple", 5, SD)
    largest = float(LEVELS[-1])
    start = noise()
    assert_close(Solver("euler", sigmas, 0).first_latent(start, LEVELS), start * math.hypot(1, largest))
    lower = schedule("ddim_uniform", 5, SD)
    assert_close(Solver("euler", lower, 0).first_latent(start, LEVELS), start * float(lower[0]))


@pytest.mark.parametrize("steps", [5, 20])
def test_ddim_is_diffusers_own(steps):
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="sample",
        timestep_spacing="trailing",
        set_alpha_to_one=True,
    )
    scheduler.set_timesteps(steps)
    sigmas = schedule("simple", steps, SD)
    ours = Solver("ddim", sigmas, 0)
    latent = ours.first_latent(noise(), LEVELS)
    theirs = latent / math.hypot(1, float(sigmas[0]))
    for index, (timestep, sigma) in enumerate(zip(scheduler.timesteps, sigmas.tolist(), strict=False)):
        latent = ours.step(index, latent, gaussian(latent, sigma))
        prediction = gaussian(theirs * math.hypot(1, sigma), sigma)
        theirs = scheduler.step(prediction, timestep, theirs).prev_sample
    assert_close(latent, theirs)


def test_the_seed_fixes_a_stochastic_solvers_noise():
    ends = [
        sample(Solver("dpmpp_2m_sde", schedule("simple", 6, SD), seed), gaussian, noise(), LEVELS) for seed in (1, 1, 2)
    ]
    assert torch.equal(ends[0], ends[1])
    assert largest_difference(ends[0], ends[2]) > 1e-2


def test_an_unknown_sampler_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="heun.*euler"):
        Solver("heun", torch.tensor([1.0, 0.0]), 0)
