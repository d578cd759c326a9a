"""Laws of exclusive masks and of the layout."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from story_identity.core.layout import Layout, chessboard_distance, exclusive_masks

H, W = 53, 71


def blobs(seed: int, s: int = 3) -> torch.Tensor:
    """Ragged random masks of several components."""
    noise = np.random.default_rng(seed).normal(size=(s, H, W))
    return torch.from_numpy(np.stack([ndimage.gaussian_filter(layer, 3) > 0.06 for layer in noise]))


def box(top: int, left: int, bottom: int, right: int) -> torch.Tensor:
    mask = torch.zeros(H, W, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("k", range(51))
def test_distance_threshold_is_scipys_binary_dilation(k):
    mask = blobs(5)[0] & box(10, 10, 40, 50)
    square = np.ones((2 * k + 1, 2 * k + 1), dtype=bool)
    expected = ndimage.binary_dilation(mask.numpy(), structure=square)
    assert torch.equal(chessboard_distance(mask) <= k, torch.from_numpy(expected))


def test_an_empty_mask_stays_empty_at_every_size():
    assert not (chessboard_distance(torch.zeros(H, W, dtype=torch.bool)) <= 10_000).any()


@pytest.mark.parametrize("seed", range(8))
def test_masks_never_overlap_and_inputs_stay(seed):
    masks = blobs(seed)
    before = masks.clone()
    result = exclusive_masks(masks, dilate_px=4)
    assert int(result.sum(dim=0).max()) <= 1
    assert torch.equal(masks, before)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(exclusive_masks(masks[order], 4), result[order])


def test_the_smaller_mask_wins():
    big, small = box(5, 5, 45, 65), box(20, 20, 30, 30)
    result = exclusive_masks(torch.stack([big, small]), dilate_px=0)
    assert torch.equal(result[1], small)
    assert torch.equal(result[0], big & ~small)


def test_the_largest_4_connected_component_is_kept():
    mask = box(5, 5, 15, 15) | box(15, 15, 19, 19) | box(30, 30, 33, 33)  # the second touches by a corner only
    assert torch.equal(exclusive_masks(mask[None], 0)[0], box(5, 5, 15, 15))


def test_dilation_stops_at_smaller_masks():
    left, right = box(20, 20, 30, 30), box(18, 33, 34, 50)
    result = exclusive_masks(torch.stack([left, right]), dilate_px=5)
    assert torch.equal(result[0], box(15, 15, 35, 35))
    assert torch.equal(result[1], box(13, 30, 39, 55) & ~result[0])  # what is left of it, dilated


def test_no_characters_no_masks():
    none = torch.zeros(0, H, W, dtype=torch.bool)
    assert exclusive_masks(none).shape == (0, H, W)
    assert Layout((), none).background.all()


def test_background_is_the_complement():
    masks = exclusive_masks(blobs(1), 2)
    layout = Layout(("a", "b", "c"), masks)
    assert torch.equal(layout.background, ~masks.any(dim=0))
    assert layout.size == (H, W)


def test_layouts_that_contradict_themselves_are_refused():
    masks = torch.stack([box(5, 5, 20, 20), box(10, 10, 30, 30)])
    with pytest.raises(ValueError, match="frame 3: masks overlap"):
        Layout(("a", "b"), masks, "frame 3")
    with pytest.raises(ValueError, match="1 names for 2 masks"):
        Layout(("a",), masks)
    with pytest.raises(ValueError, match="appears twice"):
        Layout(("a", "a"), exclusive_masks(masks))
    with pytest.raises(ValueError, match="dilate_px is -1"):
        exclusive_masks(masks, -1)
