"""Laws of the recorder, the cache and the replay."""

from dataclasses import replace

import pytest
import torch
from story_identity.core.latent_cache import CacheReplay, LatentRecorder, ModelCall, NoisyLatentCache, Recipe

SHAPE = (1, 3, 5, 7)
SIGMAS = [9.5, 4.25, 1.5]


def recorded(**settings) -> LatentRecorder:
    recorder = LatentRecorder(**settings)
    for index, sigma in enumerate(SIGMAS):
        generator = torch.Generator().manual_seed(index)
        recorder.add(sigma, torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator))
    return recorder


def cache(recorder: LatentRecorder) -> NoisyLatentCache:
    blank = torch.zeros(SHAPE)
    return NoisyLatentCache(
        calls=tuple(recorder.calls),
        sigmas=torch.tensor([*SIGMAS, 0.0]),
        noise=blank,
        initial=blank,
        final=blank,
        noise_mask=None,
        recipe=Recipe("SDXL", (0.03, 14.6), "euler", 1, 7, None),
    )


def test_what_is_recorded_is_a_copy():
    recorder, tensor = LatentRecorder(), torch.ones(SHAPE)
    recorder.add(1.0, tensor, tensor, tensor)
    tensor.mul_(5)
    call = recorder.calls[0]
    assert call.latent is not None
    assert call.unconditional is not None
    assert call.prediction.sum() == call.latent.sum() == call.unconditional.sum() == 105


def test_latents_above_the_level_are_dropped_and_predictions_never():
    calls = recorded(keep_from=4.25).calls
    assert [call.latent is None for call in calls] == [True, False, False]
    assert all(call.prediction is not None for call in calls)


def test_half_precision_halves_the_bytes_of_the_calls():
    blanks = 3 * 105 * 4 + 16
    assert cache(recorded()).nbytes == 6 * 105 * 4 + blanks
    assert cache(recorded(dtype=torch.float16)).nbytes == 6 * 105 * 2 + blanks
    error = recorded().calls[0].prediction - recorded(dtype=torch.float16).calls[0].prediction.float()
    assert 0 < error.abs().max() < 2e-3


def test_maps_are_counted_and_may_be_missing():
    made = cache(recorded())
    assert made.maps is None
    assert replace(made, maps={"Mira": torch.zeros(3, 5)}).nbytes == made.nbytes + 60


def test_a_noise_level_belongs_to_the_step_it_is_reached_in():
    made = cache(recorded())
    assert made.steps == 3
    assert [made.step_of(sigma) for sigma in (12.0, 9.5, 7.0, 4.25, 2.0, 1.5, 0.1)] == [0, 0, 0, 1, 1, 2, 2]


def test_calls_are_answered_in_order_and_another_path_is_refused():
    calls = recorded().calls
    replay = CacheReplay(calls, "wanderer")
    assert replay.answer(9.5) is calls[0]
    with pytest.raises(ValueError, match=r'"wanderer" took another .* call 2 the cache holds sigma 4.25, .* sigma 3.0'):
        replay.answer(3.0)
    assert replay.answer(4.25) is calls[1]
    assert replay.answer(1.5) is calls[2]
    with pytest.raises(ValueError, match="holds no further call"):
        replay.answer(1.5)


def test_a_cache_of_nothing_or_of_mixed_sizes_is_refused():
    with pytest.raises(ValueError, match="at least one model call"):
        cache(LatentRecorder())
    recorder = recorded()
    recorder.calls[1] = ModelCall(4.25, torch.zeros(1, 3, 5, 8))
    with pytest.raises(ValueError, match=r"Call 1 predicted shape \(1, 3, 5, 8\)"):
        cache(recorder)
