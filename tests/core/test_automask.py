"""Laws of token maps, of the masks made of them, and of their running average."""

import math

import pytest
import torch
from story_identity.core.automask import (
    TokenMaps,
    character_labels,
    normalised,
    otsu_thresholds,
    subject_masks,
    token_map,
    token_maps,
)

from tests.closeness import assert_close

N, H, W, T, HEADS, D = 3, 7, 11, 13, 5, 2
L, E = H * W, HEADS * D


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def disc(grid: tuple[int, int], y: float, x: float, ry: float, rx: float) -> torch.Tensor:
    """An ellipse; all numbers are shares of the picture's height and width."""
    rows, columns = torch.meshgrid(
        (torch.arange(grid[0]) + 0.5) / grid[0], (torch.arange(grid[1]) + 0.5) / grid[1], indexing="ij"
    )
    return ((rows - y) / ry) ** 2 + ((columns - x) / rx) ** 2 < 1


def figures(grid: tuple[int, int]) -> torch.Tensor:
    """Two characters in three frames; the second is not in frame 1, and in frame 2 they have changed places."""
    nobody = torch.zeros(grid, dtype=torch.bool)
    left, right = disc(grid, 0.55, 0.25, 0.38, 0.18), disc(grid, 0.5, 0.7, 0.3, 0.22)
    return torch.stack([torch.stack([left, right]), torch.stack([right, nobody]), torch.stack([right, left])])


POSITIONS = [[[2, 3], [2, 3], [5, 6]], [[7], [], [9, 10, 11]]]
"""Where the text of each frame names character 0 and character 1."""


def planted(masks: torch.Tensor, seed: int, strength: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries that look at a character's words inside its mask and at the first token elsewhere, and their keys.

    Every text token's key is a direction of its own, so a query that is a sum of keys looks at those tokens.
    """
    n, s, h, w = masks.shape
    width = 16
    basis = torch.linalg.qr(random(width, width, seed=seed))[0][:T]
    directions = torch.zeros(n, h * w, width)
    for f in range(n):
        covered = torch.zeros(h * w, dtype=torch.bool)
        for j in range(s):
            inside = masks[f, j].flatten()
            if inside.any():
                directions[f, inside] += basis[POSITIONS[j][f]].sum(dim=0)
            covered |= inside
        directions[f, ~covered] += basis[0]
    q = (strength * directions).repeat(1, 1, HEADS) + random(n, h * w, HEADS * width, seed=seed + 1)
    k = (strength * basis).repeat(1, HEADS).expand(n, T, HEADS * width) + 0.1 * random(
        n, T, HEADS * width, seed=seed + 2
    )
    return q, k


def overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    return (int((a & b).sum()) + 1e-9) / (int((a | b).sum()) + 1e-9)


def test_a_map_is_the_softmax_averaged_over_heads_and_tokens():
    q, k = random(N, L, E), random(N, T, E, seed=1)
    for indices in ([4], [2, 5, 6]):
        result = token_map(q, k, indices, HEADS)
        for f in range(N):
            expected = torch.zeros(L)
            for head in range(HEADS):
                columns = slice(head * D, head * D + D)
                attention = (q[f, :, columns] @ k[f, :, columns].T / math.sqrt(D)).softmax(dim=1)
                expected += attention[:, indices].sum(dim=1) / len(indices) / HEADS
            assert_close(result[f], expected)


def test_a_map_by_hand():
    """One head of width 4: scores ln 3, 0, 0, 0 (halved by sqrt 4 from twice that) give 1/2 and 1/6 each."""
    k = torch.eye(4)[None]
    q = torch.tensor([[[2 * math.log(3), 0, 0, 0]]])
    assert token_map(q, k, [0], heads=1).item() == pytest.approx(1 / 2)
    assert token_map(q, k, [0, 3], heads=1).item() == pytest.approx(1 / 3)


def test_the_maps_of_all_tokens_add_up_to_one():
    q, k = random(N, L, E), random(N, T, E, seed=1)
    maps = token_maps(q, k, [[position] for position in range(T)], HEADS)
    assert maps.shape == (N, T, L)
    assert maps.min() >= 0
    assert_close(maps.sum(dim=1), torch.ones(N, L))


def test_frames_may_name_a_character_elsewhere_or_not_at_all():
    q, k = random(N, L, E), random(N, T, E, seed=1)
    result = token_map(q, k, [[1], [], [4, 7]], HEADS)
    assert torch.equal(result[0], token_map(q, k, [1], HEADS)[0])
    assert torch.equal(result[1], torch.zeros(L))
    assert torch.equal(result[2], token_map(q, k, [4, 7], HEADS)[2])
    assert torch.equal(token_map(q, k, [], HEADS), torch.zeros(N, L))


def test_half_precision_and_large_scores_stay_finite():
    q, k = random(N, L, E), random(N, T, E, seed=1)
    result = token_map(q.half(), k.half(), [3], HEADS)
    assert result.dtype == torch.float32
    assert_close(result, token_map(q, k, [3], HEADS), 2e-3)
    assert token_map(1e3 * q, 1e3 * k, [3], HEADS).isfinite().all()


def test_gradients_of_a_map_are_the_softmaxs():
    q, k = random(1, 2, 3).double().requires_grad_(), random(1, T, 3, seed=1).double().requires_grad_()
    ours = torch.autograd.grad(token_map(q, k, [3], 1).double().square().sum(), (q, k))
    plain = (q @ k.transpose(1, 2) / math.sqrt(3)).softmax(dim=2)[:, :, 3]
    theirs = torch.autograd.grad(plain.square().sum(), (q, k))
    for found, expected in zip(ours, theirs, strict=True):
        assert_close(found, expected)
    assert theirs[0].abs().max() > 1e-3


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([13], r"Frame 1: token positions \[13\] are not in the text's 0 to 12"),
        ([[1], [2, -1], [3]], r"Frame 2: token positions \[-1\]"),
        ([[1], [2]], r"\[\[1\], \[2\]\] are not for 3 frames"),
        ([1, [2], [3]], "are not for 3 frames"),
    ],
)
def test_positions_that_do_not_fit_are_refused(indices, message):
    with pytest.raises(ValueError, match=message):
        token_map(random(N, L, E), random(N, T, E), indices, HEADS)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="3 heads do not divide a width of 10"):
        token_map(random(N, L, E), random(N, T, E), [1], 3)


def test_otsu_by_hand():
    """Values 0 0 1 1 5 6: parting 1 from 5 gives 4 * 2 * (1/2 - 11/2)^2 = 200; its neighbours give 84.5 and 105.8."""
    maps = torch.tensor([[[5.0, 0.0, 1.0], [1.0, 6.0, 0.0]]])
    assert otsu_thresholds(maps).item() == 3.0
    expected = [[True, False, False], [False, True, False]]
    assert subject_masks(torch.cat([maps, 7 * maps - 3])).tolist() == [expected, expected]


@pytest.mark.parametrize("seed", range(4))
def test_otsu_is_the_best_of_all_thresholds(seed):
    values = random(1, H, W, seed=seed).exp()
    threshold = otsu_thresholds(values)

    def between(cut: float) -> float:
        low, high = values[values <= cut].double(), values[values > cut].double()
        return len(low) * len(high) * float(high.mean() - low.mean()) ** 2

    best = max(between(cut) for cut in values.flatten().sort().values[:-1].tolist())
    assert between(threshold.item()) == pytest.approx(best)


def test_a_fixed_threshold_is_of_the_normalised_map():
    ramp = torch.linspace(3, 5, 11).expand(1, 4, 11)
    assert subject_masks(ramp, 0.35)[0, 0].tolist() == [False] * 4 + [True] * 7
    assert torch.equal(subject_masks(100 * ramp + 1, 0.35), subject_masks(ramp, 0.35))


def test_maps_without_contrast_give_empty_masks():
    flat = torch.stack([torch.zeros(H, W), torch.full((H, W), 0.3), 0.3 + 1e-5 * random(H, W)])
    broken = torch.full((1, H, W), torch.nan)
    for method in ("otsu", 0.4):
        assert not subject_masks(torch.cat([flat, broken]), method).any()
        assert not subject_masks(torch.rand(2, 1, 1), method).any()
    assert torch.equal(normalised(flat), torch.zeros(3, H, W))
    assert subject_masks(flat[:0]).shape == (0, H, W)


def test_specks_go_and_holes_close():
    solid = torch.zeros(40, 30, dtype=torch.bool)
    solid[5:25, 5:25] = True
    second = torch.zeros_like(solid)
    second[30:36, 5:10] = True  # 30 of 400 tokens: a piece of its own, such as a hand
    holed = solid | second
    holed[10:13, 10:13] = False
    holed[30:34, 20:24] = True  # 16 of 391: a speck
    assert torch.equal(subject_masks(holed[None].float())[0], solid | second)


@pytest.mark.parametrize("method", ["mean", 0.0, 1.0, -0.5])
def test_another_method_is_refused(method):
    with pytest.raises(ValueError, match=r'use "otsu" or a threshold between 0 and 1'):
        subject_masks(torch.rand(1, H, W), method)


def test_contested_tokens_go_to_the_higher_normalised_map():
    maps = torch.tensor([[[[0.0, 3.0, 4.0, 2.0]], [[0.0, 0.1, 0.9, 1.0]]]])
    masks = torch.tensor([[[[False, True, True, False]], [[False, False, True, True]]]])
    assert character_labels(maps, masks).tolist() == [[[-1, 0, 0, 1]]]
    assert character_labels(maps * torch.tensor([1.0, 1e3]).view(1, 2, 1, 1), masks).tolist() == [[[-1, 0, 0, 1]]]


@pytest.mark.parametrize("grid", [(24, 40), (17, 31), (12, 20)])
def test_planted_masks_come_back_from_one_layer(grid):
    masks = figures(grid)
    q, k = planted(masks, seed=3)
    maps = token_maps(q, k, POSITIONS, HEADS).unflatten(2, grid)
    found = subject_masks(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])
    for f in range(3):
        for j in range(2):
            assert overlap(found[f, j], masks[f, j]) > 0.95, (f, j)


def test_planted_masks_come_back_from_layers_of_several_grids():
    """Layers of three grids, as a UNet has them, over three steps: right masks and labels on each grid."""
    grids = [(48, 80), (24, 40), (12, 20)]
    running = TokenMaps((48, 80))
    for step in range(3):
        running.next_step()
        for place, grid in enumerate(grids):
            q, k = planted(figures(grid), seed=100 * step + 10 * place)
            running.add(token_maps(q, k, POSITIONS, HEADS), grid)
    for grid in grids:
        masks, labels, expected = running.masks(grid), running.labels(grid), figures(grid)
        assert masks is not None
        assert labels is not None
        assert not masks[1, 1].any()  # character 1 is not in frame 1
        assert labels.shape == (3, *grid)
        for f in range(3):
            for j in range(2):
                assert overlap(masks[f, j], expected[f, j]) > 0.95, (grid, f, j)
                assert overlap(labels[f] == j, expected[f, j]) > 0.95, (grid, f, j)
        assert torch.equal(labels >= 0, masks.any(dim=1))


def test_nothing_is_known_before_anything_was_added():
    running = TokenMaps((H, W))
    running.next_step()
    assert running.maps((H, W)) is None
    assert running.masks((H, W)) is None
    assert running.labels((H, W)) is None


def test_layers_average_within_a_step_and_steps_exponentially():
    running = TokenMaps((1, 2), decay=0.75)

    def add(*values: float) -> list[float]:
        running.add(torch.tensor([[values]]), (1, 2))
        now = running.maps((1, 2))
        assert now is not None
        return now.flatten().tolist()

    assert add(0.0, 8.0) == [0.0, 8.0]
    assert add(4.0, 0.0) == [2.0, 4.0]
    running.next_step()
    assert running.maps((1, 2)).flatten().tolist() == [2.0, 4.0]
    assert add(10.0, 0.0) == [4.0, 3.0]  # 0.75 * (2, 4) + 0.25 * (10, 0)
    assert add(2.0, 8.0) == [3.0, 4.0]  # 0.75 * (2, 4) + 0.25 * (6, 4)
    running.next_step()
    running.next_step()  # a step in which nothing was added changes nothing
    assert running.maps((1, 2)).flatten().tolist() == [3.0, 4.0]


def test_without_decay_only_this_step_counts():
    running = TokenMaps((H, W), decay=0)
    running.add(torch.rand(N, 2, L), (H, W))
    running.next_step()
    last = torch.rand(N, 2, L)
    running.add(last, (H, W))
    assert torch.equal(running.maps((H, W)), last.unflatten(2, (H, W)))


def test_resizing_keeps_the_level_and_skips_nothing():
    running = TokenMaps((8, 12))
    lone = torch.zeros(1, 1, 8, 12)
    lone[..., 3, 5] = 1
    running.add(torch.cat([lone, torch.full_like(lone, 0.3)]).flatten(2), (8, 12))
    small = running.maps((2, 3))
    assert small.shape == (2, 1, 2, 3)
    assert (small[0] > 0).any()
    assert_close(small[1], torch.full((1, 2, 3), 0.3))


def test_maps_that_do_not_fit_are_refused():
    running = TokenMaps((H, W))
    with pytest.raises(ValueError, match="A grid of 7 x 10 does not have the 77 tokens"):
        running.add(torch.rand(N, 2, L), (7, 10))
    running.add(torch.rand(N, 2, L), (H, W))
    for _ in ("the same step", "the next step"):
        with pytest.raises(ValueError, match="Maps of 2 frames and 2 characters after maps of 3 and 2"):
            running.add(torch.rand(2, 2, L), (H, W))
        running.next_step()
    for decay in (-0.1, 1, math.nan):
        with pytest.raises(ValueError, match="from 0 .this step only. to under 1"):
            TokenMaps((H, W), decay)


def test_inputs_stay():
    q, k, maps = random(N, L, E), random(N, T, E), torch.rand(N, H, W)
    before = [tensor.clone() for tensor in (q, k, maps)]
    token_map(q, k, [3], HEADS)
    subject_masks(maps)
    assert all(torch.equal(a, b) for a, b in zip((q, k, maps), before, strict=True))
