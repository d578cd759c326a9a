"""Laws of progressive masks and of composition."""

import math

import pytest
import torch
from story_identity.core.layout import exclusive_masks
from story_identity.core.redenoise import ProgressiveMasks, composite, first_step, scaled_kernel, to_latent_grid

from tests.closeness import assert_close, largest_difference

from .test_layout import H, W, blobs, box


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_kernels_grow_from_nearly_nothing_to_the_largest():
    schedule = ProgressiveMasks(box(20, 20, 30, 30)[None], steps=50, start=10, max_kernel_px=50)
    assert [schedule.kernel(step) for step in (10, 11, 29, 48, 49)] == [1, 2, 25, 48, 50]


def test_a_lone_mask_is_the_dilated_square_at_every_step():
    schedule = ProgressiveMasks(box(20, 20, 30, 30)[None], steps=12, start=2, max_kernel_px=15)
    for step in range(2, 12):
        k = math.floor(15 * (step - 1) / 10)
        assert torch.equal(schedule.at(step)[0], box(20 - k, 20 - k, 30 + k, 30 + k))


@pytest.mark.parametrize("seed", range(4))
def test_masks_stay_exclusive_and_together_only_grow(seed):
    schedule = ProgressiveMasks(exclusive_masks(blobs(seed), 2), steps=9, start=3, max_kernel_px=11)
    before = torch.zeros(H, W, dtype=torch.bool)
    for step in range(9):
        masks = schedule.at(step)
        assert int(masks.sum(dim=0).max()) <= 1
        together = masks.any(dim=0)
        assert not (before & ~together).any()
        before = together
        assert masks.any() == (step >= 3)


def test_with_no_kernel_the_masks_stay():
    masks = exclusive_masks(blobs(1), 2)
    assert torch.equal(ProgressiveMasks(masks, 5, 0, 0).at(4), masks)


def test_an_empty_mask_stays_empty_and_nobody_is_fine():
    masks = torch.stack([box(5, 5, 9, 9), torch.zeros(H, W, dtype=torch.bool)])
    assert not ProgressiveMasks(masks, 5, 0, 40).at(4)[1].any()
    assert ProgressiveMasks(masks[:0], 5, 0, 40).at(4).shape == (0, H, W)


@pytest.mark.parametrize(
    ("start", "steps", "kernel", "message"),
    [
        (10, 10, 5, "start is 10, but the schedule has 10 steps: use 0 to 9"),
        (-1, 10, 5, "start is -1"),
        (-0.5, 10, 5, "start is -0.5: use a share"),
        (
            2.5,
            10,
            5,
            "start is 2.5: use a share of the steps below 1, such as 0.2, or the number of a step, such as 10",
        ),
        (float("nan"), 10, 5, "start is nan"),
        (float("inf"), 10, 5, "start is inf"),
        (2, 10, -1, "largest mask kernel is -1"),
    ],
)
def test_a_range_outside_the_schedule_is_refused(start, steps, kernel, message):
    with pytest.raises(ValueError, match=message):
        ProgressiveMasks(blobs(0), steps, start, kernel)


@pytest.mark.parametrize("steps", range(1, 60))
def test_every_share_of_every_schedule_is_a_step_of_it_and_grows(steps):
    found = [first_step(share / 100, steps) for share in range(100)]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0, steps - 1)
    for share, step in enumerate(found):
        assert abs(step - share / 100 * steps) <= 0.5 or step == steps - 1


def test_a_share_is_rounded_to_a_step_and_a_whole_number_is_the_step():
    assert [first_step(0.2, steps) for steps in (1, 2, 4, 8, 20, 28, 50)] == [0, 0, 1, 2, 4, 6, 10]
    assert [first_step(start, 50) for start in (0, 0.0, 1, 1.0, 10, 10.0, 49)] == [0, 0, 1, 1, 10, 10, 49]
    masks = blobs(0)
    by_share, by_step = ProgressiveMasks(masks, 50, 0.2, 9), ProgressiveMasks(masks, 50, 10, 9)
    assert by_share.start == by_step.start == 10
    assert all(torch.equal(by_share.at(step), by_step.at(step)) for step in range(50))


def test_a_step_outside_the_schedule_is_refused():
    schedule = ProgressiveMasks(blobs(0), 10, 2, 5)
    for step in (-1, 10):
        with pytest.raises(ValueError, match=f"no step {step}"):
            schedule.at(step)


def test_kernels_scale_with_the_shorter_side():
    assert scaled_kernel(50, 1024, 1024) == 50
    assert scaled_kernel(50, 1024, 2048) == 50
    assert scaled_kernel(50, 512, 1024) == 25


def test_latent_grid_takes_the_nearest_pixel_or_the_share_covered():
    mask = torch.zeros(1, 16, 24, dtype=torch.bool)
    mask[0, :8, :12] = True
    hard, soft = to_latent_grid(mask, 2, 3), to_latent_grid(mask, 2, 3, soft=True)
    assert hard.dtype == torch.bool
    assert hard[0, 0].tolist() == [[True, True, False], [False, False, False]]
    assert soft[0, 0].tolist() == [[1.0, 0.5, 0.0], [0.0, 0.0, 0.0]]


def layers(h: int = 7, w: int = 11) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    masks = torch.zeros(2, 1, 1, h, w, dtype=torch.bool)
    masks[0, ..., :3, :4] = True
    masks[1, ..., 4:, 5:] = True
    return random(1, 5, h, w), random(2, 1, 5, h, w, seed=1), masks


def test_composition_selects_bit_for_bit():
    background, characters, masks = layers()
    result = composite(background, characters, masks)
    for index in (0, 1):
        where = masks[index, 0, 0]
        assert torch.equal(result[..., where], characters[index][..., where])
    outside = ~masks.any(dim=0)[0, 0]
    assert torch.equal(result[..., outside], background[..., outside])


def test_a_video_of_one_moment_is_composited_as_its_picture_is():
    background, characters, masks = layers()
    for each in (masks, masks.double() * 0.3):
        picture = composite(background, characters, each)
        video = composite(background.unsqueeze(2), characters.unsqueeze(3), each.unsqueeze(3))
        assert torch.equal(video, picture.unsqueeze(2))


def test_soft_composition_agrees_with_hard_and_with_the_formula():
    background, characters, masks = layers()
    assert_close(composite(background, characters, masks.double()), composite(background, characters, masks))
    soft = masks.double() * 0.3
    expected = (1 - soft.sum(dim=0)) * background + soft[0] * characters[0] + soft[1] * characters[1]
    result = composite(background, characters, soft)
    assert_close(result, expected)
    outside = ~masks.any(dim=0)[0, 0]
    assert torch.equal(result[..., outside], background[..., outside])


def test_infinite_predictions_outside_the_mask_do_no_harm():
    background, characters, masks = layers()
    characters = torch.where(masks, characters, torch.inf)
    assert composite(background, characters, masks).isfinite().all()


def test_nobody_leaves_the_background():
    background, characters, masks = layers()
    assert torch.equal(composite(background, characters[:0], masks[:0]), background)
    assert torch.equal(composite(background, characters[:0], masks[:0].double()), background)


def euler(x, prediction, sigma, following):
    return x + (x - prediction) / sigma * (following - sigma)


def ddim(x, prediction, sigma, following):
    """DDIM in its own words: predicted noise, then the next level (variance-exploding form)."""
    noise = (x - prediction) / sigma
    return prediction + following * noise


@pytest.mark.parametrize("step", [euler, ddim])
def test_compositing_predictions_equals_compositing_latents(step):
    """Equation 7, over a whole schedule, with two made-up models: latents composited = predictions composited."""
    sigmas = torch.linspace(9.7, 0, 14, dtype=torch.float64)
    pixels = torch.stack([box(8, 8, 30, 30), box(33, 40, 48, 60)])
    schedule = ProgressiveMasks(pixels, steps=13, start=4, max_kernel_px=9)

    def base(x, sigma):
        return torch.tanh(x / (1 + sigma))

    def person(x, sigma, j):
        return torch.sin(x * (j + 2) / (2 + sigma)) + x.mean()

    plain = random(1, 3, H, W)
    ours, theirs = plain.clone(), plain.clone()
    for i in range(13):
        sigma, following = sigmas[i], sigmas[i + 1]
        masks = schedule.at(i).unsqueeze(1).unsqueeze(1)
        cached = base(plain, sigma)
        plain = step(plain, cached, sigma, following)
        people = torch.stack([person(ours, sigma, j) for j in range(2)])
        ours = step(ours, composite(cached, people, masks), sigma, following)
        people = torch.stack([step(theirs, person(theirs, sigma, j), sigma, following) for j in range(2)])
        theirs = composite(plain, people, masks)
        assert_close(ours, theirs, 1e-10)
    assert largest_difference(ours, plain) > 1e-3
