"""Laws of the recorder, the cache and the replay."""

from dataclasses import replace

import pytest
import torch
from story_identity.core.latent_cache import CacheReplay, LatentRecorder, ModelCall, NoisyLatentCache, Recipe

from tests.closeness import largest_difference

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
        recipe=Recipe("SDXL", "SDXL", "diffusion", (0.03, 14.6), "euler", 1, 7, None),
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
    exact, rounded = recorded().calls[0].prediction, recorded(dtype=torch.float16).calls[0].prediction
    assert 0 < largest_difference(rounded.float(), exact) < 1e-3


def test_maps_are_counted_and_may_be_missing():
    made = cache(recorded())
    assert made.maps is None
    assert replace(made, maps={"Mira": torch.zeros(3, 5)}).nbytes == made.nbytes + 60


def test_a_noise_level_belongs_to_the_step_it_is_reached_in():
    made = cache(recorded())
    assert made.steps == 3
    assert [made.step_of(sigma) for sigma in (12.0, 9.5, 7.0, 4.25, 2.0, 1.5, 0.1)] == [0, 0, 0, 1, 1, 2, 2]


def heun_calls(recorder: LatentRecorder, report) -> tuple[ModelCall, ...]:
    """The calls of Heun's method over SIGMAS and 0: two per step, the second at the next level; the last step has one.

    `report` hears the recorder, the step and which of its calls has just been made.
    """
    for step, levels in enumerate(([9.5, 4.25], [4.25, 1.5], [1.5])):
        for number, sigma in enumerate(levels):
            recorder.add(sigma, torch.zeros(SHAPE), torch.zeros(SHAPE))
            report(recorder, step, number)
    return recorder.calls_of(torch.tensor([*SIGMAS, 0.0]))


def test_a_second_call_at_the_next_level_belongs_to_the_step_that_made_it():
    recorder = LatentRecorder()
    calls = heun_calls(recorder, lambda recorder, step, number: recorder.begin_step(step) if number == 0 else None)
    assert [call.step for call in calls] == [0, 0, 1, 1, 2]
    made = replace(cache(recorder), calls=calls)
    assert [made.step_of_call(call) for call in calls] == [0, 0, 1, 1, 2]
    assert [made.step_of(call.sigma) for call in calls] == [0, 1, 1, 2, 2]  # what noise levels alone would say


@pytest.mark.parametrize(
    "report",
    [
        pytest.param(lambda recorder, step, number: None, id="says nothing"),
        pytest.param(lambda recorder, step, number: recorder.begin_step(step) if number == 1 else None, id="late"),
        pytest.param(lambda recorder, step, number: recorder.begin_step(step), id="twice per step"),
        pytest.param(lambda recorder, step, number: recorder.begin_step(step) if step else None, id="not the first"),
        pytest.param(lambda recorder, step, number: recorder.begin_step(5 - step), id="other numbers"),
    ],
)
def test_a_solver_that_does_not_report_its_steps_is_read_by_noise_level(report):
    recorder = LatentRecorder()
    calls = heun_calls(recorder, report)
    assert [call.step for call in calls] == [None] * 5
    made = replace(cache(recorder), calls=calls)
    assert [made.step_of_call(call) for call in calls] == [0, 1, 1, 2, 2]


def test_noise_added_before_a_step_leaves_its_calls_in_it():
    """Heun with churn calls the model above the level of the step."""
    recorder = LatentRecorder()
    for step, sigma in enumerate(SIGMAS):
        recorder.add(1.2 * sigma, torch.zeros(SHAPE), torch.zeros(SHAPE))
        recorder.begin_step(step)
    assert [call.step for call in recorder.calls_of(torch.tensor([*SIGMAS, 0.0]))] == [0, 1, 2]


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
