"""Attention in training: who sees whom, and maps that are those of inference."""

from dataclasses import replace

import pytest
import torch
from story_identity.core.automask import TokenMaps
from story_identity.core.frame_sharing import Sharing
from story_identity.headless.sampling import CONDITIONAL
from story_identity.headless.shared_frames import new_sharing
from story_identity.headless.unet_attention import hooked_attention
from story_identity.lab.step_random import StepRandom
from story_identity.lab.training.batch import batch_of
from story_identity.lab.training.denoising_task import make_task
from story_identity.lab.training.group_attention import TrainingAttention

from tests.closeness import assert_close, largest_difference

from .pieces import group, synchronizer_settings

PLACES = [[[2, 3], [2], [4], []], [[], [5], [5], [6, 7]]]


@pytest.fixture
def unet_inputs():
    """Latents, times and prompts of two groups of two pictures."""
    random = torch.Generator().manual_seed(3)
    return torch.randn(4, 4, 8, 8, generator=random), 300, torch.randn(4, 77, 32, generator=random)


@pytest.fixture
def masks():
    return torch.cat([group(0, 2, 2).masks, group(1, 2, 2).masks]).float()


def predicted(unet, unet_inputs, attention):
    with hooked_attention(unet, attention.share, attention.read):
        return unet(*unet_inputs).sample


def of(masks, shares=True, places=(), frames=2):
    """Attention that finds the characters where masks are."""
    attention, seen = TrainingAttention(), TokenMaps((8, 8))
    seen.add(torch.nn.functional.adaptive_avg_pool2d(masks, 8).flatten(2), (8, 8))
    attention.begin(places, seen, [shares] * (len(masks) // frames))
    return attention


@torch.no_grad()
def test_frames_see_their_group_and_nothing_else(two_grids, unet_inputs, masks):
    plain = predicted(two_grids.unet, unet_inputs, of(masks))
    for changed, same in ((slice(0, 1), slice(2, 4)), (slice(3, 4), slice(0, 2))):
        latents = unet_inputs[0].clone()
        latents[changed] += 1
        other = predicted(two_grids.unet, (latents, *unet_inputs[1:]), of(masks))
        assert torch.equal(other[same], plain[same])
        neighbour = 1 - changed.start if changed.start < 2 else 2
        assert largest_difference(other[neighbour], plain[neighbour]) > 1e-4


@torch.no_grad()
def test_a_group_alone_is_the_group_among_others(two_grids, unet_inputs, masks):
    both = predicted(two_grids.unet, unet_inputs, of(masks))
    alone = predicted(two_grids.unet, (unet_inputs[0][2:], 300, unet_inputs[2][2:]), of(masks[2:]))
    assert_close(both[2:], alone)


@pytest.mark.parametrize("shares", [True, False])
@torch.no_grad()
def test_without_masks_or_sharing_it_is_plain_attention_bit_for_bit(two_grids, unet_inputs, masks, shares):
    with hooked_attention(two_grids.unet):
        plain = two_grids.unet(*unet_inputs).sample
    nobody = torch.zeros_like(masks) if shares else masks
    assert torch.equal(predicted(two_grids.unet, unet_inputs, of(nobody, shares, PLACES)), plain)
    unseen = TrainingAttention()
    unseen.begin(shares=[shares] * 2)
    assert torch.equal(predicted(two_grids.unet, unet_inputs, unseen), plain)
    assert torch.equal(predicted(two_grids.unet, unet_inputs, TrainingAttention()), plain)


@torch.no_grad()
def test_single_groups_can_be_plain(two_grids, unet_inputs, masks):
    plain, shared = (predicted(two_grids.unet, unet_inputs, of(masks, shares)) for shares in (False, True))
    attention = of(masks)
    attention.begin(seen=attention._seen, shares=[True, False])
    mixed = predicted(two_grids.unet, unet_inputs, attention)
    assert torch.equal(mixed[:2], shared[:2])
    assert largest_difference(mixed[:2], plain[:2]) > 1e-4
    assert torch.equal(mixed[2:], plain[2:])


@torch.no_grad()
def test_looking_finds_what_sampling_knows_after_its_first_step(pipe_and_batch):
    """`FrameSharing`, called once on the same task, makes the same masks for the next call."""
    pipe, batch, task = pipe_and_batch
    attention, places = TrainingAttention(), batch.places(pipe, batch.whole_captions)
    together = new_sharing(Sharing(), places, 4)
    with hooked_attention(pipe.unet, together.share, together.reader.read):
        together.begin_call((CONDITIONAL,), 2.0)
        task.predict(pipe)
        together.begin_call((CONDITIONAL,), 1.0)
    blank = task.with_captions(pipe, [""] * 4, batch.labels)
    with hooked_attention(pipe.unet, attention.share, attention.read):
        seen = attention.look(pipe, blank, replace(batch, captions=[""] * 4))
    for grid in ((8, 8), (4, 4)):
        assert torch.equal(seen.labels(grid), together.reader.maps.labels(grid))
    assert seen.labels((8, 8)).unique().tolist() == [-1, 0, 1]


@pytest.fixture
def pipe_and_batch(two_grids):
    random = StepRandom.of(0, 0, 0)
    batch = batch_of([group(2, 3, 2), group(3, 3, 2)], synchronizer_settings(), random)
    return two_grids, batch, make_task(two_grids, batch.pictures, batch.captions, batch.labels, 2, random)


@torch.no_grad()
def test_maps_are_those_that_sampling_reads_layer_by_layer(two_grids, unet_inputs, masks):
    """`FrameSharing` averages them over layers on its finest grid; so does this."""
    attention = of(masks, False, PLACES)
    predicted(two_grids.unet, unet_inputs, attention)
    maps = attention.take_maps()
    cross_layers = len(two_grids.unet.attn_processors) // 2
    assert [tuple(each.shape) for each in maps].count((4, 2, 8, 8)) == 3
    assert [tuple(each.shape) for each in maps].count((4, 2, 4, 4)) == cross_layers - 3
    together = new_sharing(Sharing(), PLACES, 4)
    together.begin_call((CONDITIONAL,), 1.0)
    with hooked_attention(two_grids.unet, cross_attention=together.reader.read):
        two_grids.unet(*unet_inputs)
    together.reader.maps.next_step()
    fine = [torch.nn.functional.interpolate(each, (8, 8), mode="bilinear", align_corners=False) for each in maps]
    ours, theirs = torch.stack(fine).mean(dim=0), together.reader.maps.maps((8, 8))
    assert_close(stretched(ours), stretched(theirs), 1e-4)


def stretched(maps):
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-9)


def test_maps_carry_gradients_and_what_is_read_again_is_not_kept(two_grids, unet_inputs, masks):
    unet = two_grids.unet
    unet.enable_gradient_checkpointing()
    attention = of(masks, True, PLACES)
    with hooked_attention(unet, attention.share, attention.read):
        unet(*unet_inputs)
        maps = attention.take_maps()
        weight = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q.weight
        (gradient,) = torch.autograd.grad(sum(each.square().sum() for each in maps), weight)
    unet.disable_gradient_checkpointing()
    assert gradient.abs().max() > 0
    assert attention.take_maps() == []
