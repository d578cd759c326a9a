"""The mask perceptual loss: laws of Dice, a number by hand, and where gradients go."""

import pytest
import torch
from story_identity.lab.training.losses import dice_loss, mask_loss

from tests.closeness import assert_close


def masks(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("target", [masks(3, 5, 7), masks(3, 5, 7).round(), torch.zeros(3, 5, 7), torch.ones(3, 5, 7)])
def test_dice_of_equal_maps_is_0(target):
    assert_close(dice_loss(target, target), torch.zeros(3), tolerance=1e-6, scale=1)


def test_dice_of_maps_that_share_nothing_is_1():
    one = torch.zeros(2, 4, 6)
    one[:, :, :3] = masks(2, 4, 3) + 0.1
    assert_close(dice_loss(one, one.flip(2)), torch.ones(2))


def test_dice_by_hand():
    prediction, target = torch.tensor([[[0.5, 1.0]]]), torch.tensor([[[1.0, 0.0]]])
    assert_close(dice_loss(prediction, target), [1 - (2 * 0.5) / (0.25 + 1 + 1)])


def test_the_loss_by_hand():
    """Two layers; the mask covers the left half. The second character is not counted."""
    mask = torch.zeros(1, 2, 4, 4)
    mask[..., :2] = 1
    right = torch.tensor([[[[0.0, 3.0]], [[1.0, 0.0]]]])  # stretched to (0, 1): shares nothing with (1, 0)
    fine = torch.zeros(1, 2, 1, 4)
    fine[0, 0, 0] = torch.tensor([2.0, 1.0, 0.0, 0.0])  # (1, 0.5, 0, 0) against (1, 1, 0, 0)
    loss = mask_loss([right, fine], mask, torch.tensor([[1.0, 0.0]]))
    assert_close(loss, (1 + (1 - 2 * 1.5 / (1.25 + 2))) / 2)


def test_maps_that_are_the_masks_at_their_grid_lose_nothing_at_any_scale():
    whole = masks(2, 3, 8, 8, seed=1).round()
    grids = [torch.nn.functional.adaptive_avg_pool2d(whole, side) for side in (8, 4, 2)]
    stretched = [0.001 + 0.02 * (each - each.amin((2, 3), True)) for each in grids]
    assert_close(mask_loss(stretched[:1], whole, torch.ones(2, 3)), 0.0, scale=1)
    assert_close(mask_loss(grids[:1], whole, torch.ones(2, 3)), 0.0, scale=1)


def test_a_map_does_not_care_for_its_neighbours():
    maps, whole = masks(3, 2, 4, 4), masks(3, 2, 8, 8, seed=1).round()
    counts = torch.zeros(3, 2)
    counts[1, 0] = 1
    alone = mask_loss([maps[1:2, :1]], whole[1:2, :1], torch.ones(1, 1))
    changed = 9 * masks(3, 2, 4, 4, seed=2)
    changed[1, 0] = maps[1, 0]
    assert torch.equal(mask_loss([maps], whole, counts), alone)
    assert torch.equal(mask_loss([changed], whole, counts), alone)
    both = mask_loss([maps], whole, torch.ones(3, 2))
    each = [
        mask_loss([maps[n : n + 1, s : s + 1]], whole[n : n + 1, s : s + 1], torch.ones(1, 1))
        for n in range(3)
        for s in range(2)
    ]
    assert_close(both, torch.stack(each).mean())


def test_gradients_reach_the_maps_that_count_and_no_others():
    maps, whole = masks(2, 2, 4, 4).requires_grad_(), masks(2, 2, 8, 8, seed=1).round()
    counts = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = mask_loss([maps], whole, counts)
    (gradient,) = torch.autograd.grad(loss, maps)
    assert (gradient.flatten(2).abs().amax(dim=2) > 0).equal(counts > 0)
    step = (maps - 1e-2 * gradient / gradient.norm()).detach()
    assert mask_loss([step], whole, counts) < loss


def test_nothing_to_compare_is_no_loss():
    assert mask_loss([masks(1, 2, 3, 3)], masks(1, 2, 6, 6), torch.zeros(1, 2)).item() == 0


def test_a_flat_map_has_a_loss_and_a_gradient():
    """A grid of one cell has nothing to stretch."""
    maps = torch.full((1, 1, 1, 1), 0.3, requires_grad=True)
    loss = mask_loss([maps], torch.ones(1, 1, 4, 4), torch.ones(1, 1))
    loss.backward()
    assert_close(loss, 1.0)
    assert torch.equal(maps.grad, torch.zeros_like(maps))
