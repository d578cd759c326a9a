"""Laws of attention across frames in joint sequences, with masked or moved keys, and of frames that come singly."""

import pytest
import torch
from story_identity.core.attention import SubjectPositions, attend_across_frames, plain_attention
from story_identity.core.attention_hooks import Layer
from story_identity.core.automask import token_maps
from story_identity.core.frame_sharing import subject_positions
from story_identity.core.subject_bank import CallBank

from tests.closeness import assert_close, largest_difference

FRAMES, GRID, BEFORE, AFTER, HEADS, WIDTH = 3, (4, 6), 5, 3, 2, 4
PICTURE = GRID[0] * GRID[1]
TOTAL = BEFORE + PICTURE + AFTER
LAYER = Layer(0, GRID, BEFORE, AFTER, 0)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def qkv() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    q, k, v = (random(FRAMES, TOTAL, HEADS * WIDTH, seed=seed) for seed in range(3))
    return q, k, v


def labels() -> torch.Tensor:
    """Two people and the background; in the last frame the second alone."""
    found = torch.full((FRAMES, *GRID), -1)
    found[:2, :2, :3], found[:, 2:, 3:5] = 0, 1
    found[1] = found[1].roll(1, dims=1)
    return found


def dense(q, k, v, same: bool = True, mask=None, keys_for=None) -> torch.Tensor:
    """All frames' keys at once, the forbidden ones masked out; `keys_for` gives the keys as a frame sees them."""
    whole = torch.full((FRAMES, TOTAL), -1)
    whole[:, LAYER.picture] = labels().flatten(1)
    picture = torch.zeros(TOTAL, dtype=torch.bool)
    picture[LAYER.picture] = True
    results = []
    for frame in range(FRAMES):
        here = torch.zeros(FRAMES, TOTAL, dtype=torch.bool)
        here[frame] = True
        seen = (whole >= 0)[None] & picture[:, None, None]
        if same:
            seen = (whole >= 0)[None] & (whole[frame][:, None, None] == whole[None])
        allowed = here[None] | (seen & ~here[None])
        bias = torch.zeros(TOTAL, FRAMES, TOTAL, dtype=torch.double).masked_fill(~allowed, -torch.inf)
        if mask is not None:
            bias[:, frame] += mask[frame]
        keys = k if keys_for is None else keys_for(frame)
        split = [each.unflatten(-1, (HEADS, -1)) for each in (q[frame], keys.flatten(0, 1), v.flatten(0, 1))]
        scores = torch.einsum("qhe,khe->hqk", split[0], split[1]) / WIDTH**0.5 + bias.flatten(1)
        results.append(torch.einsum("hqk,khe->qhe", scores.softmax(dim=2), split[2]).flatten(1))
    return torch.stack(results)


def attended(q, k, v, positions, **more) -> torch.Tensor:
    return attend_across_frames(q, k, v, HEADS, positions, positions.gather(k, v), **more)


@pytest.mark.parametrize("same", [True, False])
def test_text_sees_nothing_elsewhere_and_nobody_sees_it(same):
    q, k, v = qkv()
    result = attended(q, k, v, subject_positions(labels(), same, layer=LAYER))
    assert_close(result, dense(q, k, v, same), 1e-12)
    plain = plain_attention(q, k, v, HEADS)
    assert_close(result[:, :BEFORE], plain[:, :BEFORE], 1e-12)
    assert_close(result[:, -AFTER:], plain[:, -AFTER:], 1e-12)


@pytest.mark.parametrize("strength", [1.0, 0.3, 0.0])
def test_a_mask_is_each_frames_own_and_never_masks_other_frames_keys(strength):
    q, k, v = qkv()
    mask = torch.zeros(FRAMES, TOTAL, dtype=torch.double)
    mask[0, :2], mask[1, 3], mask[2, 7] = -torch.inf, -1.5, 0.7
    result = attended(q, k, v, subject_positions(labels(), True, layer=LAYER), strength=strength, mask=mask)
    plain = plain_attention(q, k, v, HEADS, mask)
    assert_close(result, torch.lerp(plain, dense(q, k, v, mask=mask), strength), 1e-12)
    assert largest_difference(plain, plain_attention(q, k, v, HEADS)) > 1e-3


def test_moved_keys_are_those_at_the_places_of_the_frame_that_looks():
    """With a `move` that can be written out: a key grows by a vector per cell."""
    q, k, v = qkv()
    growth = random(2, HEADS * WIDTH, seed=9)
    result = attended(
        q,
        k,
        v,
        subject_positions(labels(), True, None, LAYER, True),
        move=lambda k, by, heads: k + by.double() @ growth,
    )
    places = torch.stack(torch.meshgrid(*map(torch.arange, GRID), indexing="ij"), dim=2).double()

    def keys_for(frame):
        keys = k.clone()
        for label in (0, 1):
            here = (labels()[frame] == label).nonzero()
            for other in range(FRAMES):
                there = labels()[other] == label
                if other != frame and len(here) and there.any():
                    by = (here.double().mean(0) - places[there].mean(0)).round()
                    keys[other, LAYER.picture][there.flatten()] += by @ growth
        return keys

    assert_close(result, dense(q, k, v, keys_for=keys_for), 1e-12)
    assert largest_difference(result, dense(q, k, v)) > 1e-3


def test_frames_one_by_one_see_those_before_them():
    q, k, v = qkv()
    bank, results = CallBank(), []
    for frame in range(FRAMES):
        row = slice(frame, frame + 1)
        positions = subject_positions(labels()[row], True, layer=LAYER)
        found = positions.gather(k[row], v[row])
        seen = bank.find(0, "layer")
        results.append(attend_across_frames(q[row], k[row], v[row], HEADS, positions, found, 1.0, seen))
        bank.put(0, "layer", found)
    for frame in range(FRAMES):
        before = labels().clone()
        before[frame + 1 :] = -1
        together = attended(q, k, v, subject_positions(before, True, layer=LAYER))
        assert_close(results[frame][0], together[frame], 1e-12)
    assert bank.nbytes == 2 * int((labels() >= 0).sum()) * HEADS * WIDTH * 8
    bank.clear()
    assert bank.find(0, "layer") is None


def test_tokens_that_are_joined_keep_their_labels_and_middles():
    _, k, v = qkv()
    parts = [
        subject_positions(labels()[i : i + 1], True, None, LAYER, True).gather(k[i : i + 1], v[i : i + 1])
        for i in (1, 2)
    ]
    joined, whole = (
        parts[0].joined(parts[1]),
        subject_positions(labels()[1:], True, None, LAYER, True).gather(k[1:], v[1:]),
    )
    for label in (0, 1):
        ours, theirs = (torch.cat([each.k[part] for part in each.of(label)]) for each in (joined, whole))
        assert torch.equal(ours, theirs)
        assert joined.centers is not None
        assert whole.centers is not None
        ours, theirs = (torch.cat([each.centers[part] for part in each.of(label)]) for each in (joined, whole))
        assert torch.equal(ours, theirs)
    nobody = SubjectPositions.of(torch.zeros(1, TOTAL, dtype=torch.bool)).gather(k[:1], v[:1])
    assert len(nobody.joined(nobody).k) == 0


def test_masked_text_is_no_part_of_the_softmax():
    q, k = random(2, 6, HEADS * WIDTH, seed=3), random(2, 5, HEADS * WIDTH, seed=4)
    mask = torch.zeros(2, 5)
    mask[:, 3:] = -torch.inf
    assert_close(token_maps(q, k, [[0, 2]], HEADS, mask), token_maps(q, k[:, :3], [[0, 2]], HEADS), 1e-6)
