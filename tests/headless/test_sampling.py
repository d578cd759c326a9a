"""The two passes: their cost, what they leave alone, and predictions worked by hand."""

from types import SimpleNamespace

import pytest
import torch
from story_identity.core.guidance import GUIDANCE, OWN, SHARED, TEMPLATES, redenoising_evaluations
from story_identity.core.layout import Layout
from story_identity.core.redenoise import ProgressiveMasks, scaled_kernel, to_latent_grid
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.headless.identity_generator import identity_generator
from story_identity.headless.option_values import SAMPLERS
from story_identity.headless.prompts import Prompt, encode_prompt
from story_identity.headless.sampling import (
    Denoiser,
    Predictor,
    SamplingPlan,
    decode,
    redenoise,
    sample_template,
    starting_noise,
)

from tests.closeness import assert_close

STEPS, START, CFG = 5, 2, 4.0
PROMPT = "a woman with red hair and a boy with black hair on a beach"


@pytest.fixture
def prompts(pipe):
    return encode_prompt(pipe, PROMPT, "frame 1"), encode_prompt(pipe, "", "frame 1")


@pytest.fixture
def noise():
    return starting_noise([7], TOY_WORLD.latent_channels, 16, 16)


@pytest.fixture
def count(generator):
    """How many samples have gone through the UNet so far."""
    seen = []
    hook = generator[0].unet.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    yield lambda: sum(seen)
    hook.remove()


def plan_of(pipe, sampler="euler", cfg=CFG):
    return SamplingPlan(pipe, sampler, "simple", STEPS, cfg)


def layout_of(*boxes):
    masks = torch.zeros((len(boxes), 64, 64), dtype=torch.bool)
    for mask, (top, left, bottom, right) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return Layout(tuple(f"person {number}" for number in range(len(boxes))), masks)


def touched(layout):
    """Latent cells that are some character's at the last step, where masks are largest."""
    masks = ProgressiveMasks(layout.masks, STEPS, START, scaled_kernel(50, *layout.size)).at(STEPS - 1)
    return to_latent_grid(masks, 16, 16).any(dim=0)[0]


@pytest.mark.parametrize("people", [0, 1, 2])
def test_a_frame_costs_two_evaluations_per_step_and_character(generator, prompts, noise, count, people):
    pipe, photomaker = generator
    plan, layout = plan_of(pipe), layout_of(*[(4, 4, 40, 24), (8, 36, 44, 60)][:people])
    cache = sample_template(plan, *prompts, noise, 7)
    assert count() == 2 * STEPS
    with identity_generator(pipe, photomaker):
        redenoise(plan, cache, layout, dict.fromkeys(layout.names, prompts), start=START, max_kernel=50)
    assert count() == 2 * STEPS + 2 * people * (STEPS - START)


def test_without_guidance_the_negative_prompt_is_not_evaluated(generator, prompts, noise, count):
    sample_template(plan_of(generator[0], cfg=1), *prompts, noise, 7)
    assert count() == STEPS


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("soft_edge", [False, True])
def test_the_background_is_the_templates_bit_for_bit(generator, prompts, noise, sampler, soft_edge):
    pipe, photomaker = generator
    plan, layout = plan_of(pipe, sampler), layout_of((20, 20, 30, 32))
    cache = sample_template(plan, *prompts, noise, 7)
    face = torch.randn(TOY_WORLD.text_width, generator=torch.Generator().manual_seed(0))
    positive = photomaker.fuse(prompts[0], 2, face)
    with identity_generator(pipe, photomaker):
        found = redenoise(
            plan,
            cache,
            layout,
            {"person 0": (positive, prompts[1])},
            start=START,
            max_kernel=50,
            soft_edge=soft_edge,
        )
    differs = (found != cache.final).any(dim=1)[0]
    inside = touched(layout)
    assert differs.any()
    assert 0 < int(inside.sum()) < 256
    if soft_edge:
        inside = torch.nn.functional.max_pool2d(inside[None].float(), 3, 1, 1)[0] > 0
    assert not (differs & ~inside).any()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_prompt_and_model_everywhere_give_the_template(pipe, prompts, noise, sampler):
    cache = sample_template(plan_of(pipe, sampler), *prompts, noise, 7)
    everywhere = layout_of((0, 0, 64, 64))
    found = redenoise(plan_of(pipe, sampler), cache, everywhere, {"person 0": prompts}, start=0, max_kernel=0)
    assert torch.equal(found, cache.final)


@pytest.mark.parametrize("people", [1, 2])
@pytest.mark.parametrize("guidance", GUIDANCE)
def test_evaluations_by_guidance(generator, prompts, noise, count, people, guidance):
    pipe, _ = generator
    plan, layout = plan_of(pipe), layout_of(*[(4, 4, 40, 24), (8, 36, 44, 60)][:people])
    cache = sample_template(plan, *prompts, noise, 7, keep_unconditional=True)
    before, steps = count(), STEPS - START
    words = dict.fromkeys(layout.names, prompts)
    redenoise(plan, cache, layout, words, start=START, max_kernel=50, guidance=guidance)
    assert count() - before == redenoising_evaluations(people, steps, guidance, CFG)
    assert redenoising_evaluations(people, steps, guidance, CFG) == steps * {
        "own": 2 * people, "shared": people + 1, "template's": people
    }[guidance]  # fmt: skip


def test_a_shared_unconditional_gives_the_same_picture(generator, prompts, noise):
    pipe, photomaker = generator
    plan, layout = plan_of(pipe), layout_of((4, 4, 40, 24), (8, 36, 44, 60))
    cache = sample_template(plan, *prompts, noise, 7)
    faces = torch.randn(2, TOY_WORLD.text_width, generator=torch.Generator().manual_seed(0))
    words = {
        name: (photomaker.fuse(prompts[0], 2, face), prompts[1]) for name, face in zip(layout.names, faces, strict=True)
    }
    with identity_generator(pipe, photomaker):
        own, shared = (
            redenoise(plan, cache, layout, words, start=START, max_kernel=50, guidance=each) for each in (OWN, SHARED)
        )
    assert_close(shared, own, 1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_templates_unconditional_with_its_prompt_gives_the_template(pipe, prompts, noise, sampler):
    cache = sample_template(plan_of(pipe, sampler), *prompts, noise, 7, keep_unconditional=True)
    everywhere = layout_of((0, 0, 64, 64))
    found = redenoise(
        plan_of(pipe, sampler), cache, everywhere, {"person 0": prompts}, start=0, max_kernel=0, guidance=TEMPLATES
    )
    assert_close(found, cache.final, 1e-4)


def test_a_share_of_the_steps_is_its_step(pipe, prompts, noise):
    cache = sample_template(plan_of(pipe), *prompts, noise, 7)
    layout, words = layout_of((4, 4, 40, 24)), {"person 0": (prompts[1], prompts[0])}
    one, two = (redenoise(plan_of(pipe), cache, layout, words, start=each, max_kernel=50) for each in (2, 0.4))
    assert torch.equal(one, two)


def test_masks_that_touch_nothing_give_the_templates_latent(pipe, prompts, noise):
    cache = sample_template(plan_of(pipe), *prompts, noise, 7)
    for layout in (layout_of(), layout_of((0, 0, 0, 0))):
        assert redenoise(plan_of(pipe), cache, layout, {}, start=START, max_kernel=50) is cache.final


def test_each_character_has_a_mask_of_their_own(pipe, prompts, noise):
    """A character's prompt matters inside their mask, and the other's does not; with start at the last step exactly."""
    layout, other = layout_of((8, 4, 56, 28), (8, 36, 56, 60)), encode_prompt(pipe, "a robot in the snow", "frame 1")
    cache = sample_template(plan_of(pipe), *prompts, noise, 7)
    ends = [
        redenoise(
            plan_of(pipe),
            cache,
            layout,
            {"person 0": prompts, "person 1": second},
            start=STEPS - 1,
            max_kernel=0,
        )
        for second in (prompts, (other, prompts[1]))
    ]
    differs = (ends[0] != ends[1]).any(dim=1)[0]
    assert torch.equal(differs, to_latent_grid(layout.masks[1:], 16, 16)[0, 0])


def test_a_pass_leaves_nothing_behind(generator, prompts, noise):
    pipe, photomaker = generator
    one, two = (sample_template(plan_of(pipe), *prompts, noise, 7) for _ in range(2))
    with identity_generator(pipe, photomaker):
        redenoise(plan_of(pipe), one, layout_of((0, 0, 64, 64)), {"person 0": prompts}, start=START, max_kernel=0)
    three = sample_template(plan_of(pipe), *prompts, noise, 7)
    assert torch.equal(one.final, two.final)
    assert torch.equal(one.final, three.final)
    assert all(torch.equal(a.prediction, b.prediction) for a, b in zip(one.calls, three.calls, strict=True))


@pytest.mark.parametrize(
    ("kind", "guided"),
    # At x = 3, sigma = 2 an output of 1 says x0 = 3 - 2 or 3/5 - 2/5**0.5; the negative's output is 0.
    [("epsilon", 3 + (1 - 3) * CFG), ("v_prediction", 3 / 5 + (-2 / 5**0.5) * CFG)],
)
def test_the_guided_prediction_by_hand(kind, guided):
    class Fake(torch.nn.Module):
        dtype, device = torch.float32, torch.device("cpu")

        def forward(self, latent, timestep, encoder_hidden_states, added_cond_kwargs):
            assert latent.flatten().tolist() == pytest.approx([3 / 5**0.5] * 2)
            assert added_cond_kwargs is None
            return SimpleNamespace(sample=encoder_hidden_states.mean(dim=(1, 2)).view(-1, 1, 1, 1).expand_as(latent))

    config = {"beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000, "beta_schedule": "scaled_linear"}
    config = type("Config", (dict,), {"__getattr__": dict.__getitem__})(**config, prediction_type=kind)
    pipe = SimpleNamespace(unet=Fake(), scheduler=SimpleNamespace(config=config), vae_scale_factor=8)
    denoiser = Denoiser(Predictor(pipe), Prompt(torch.ones(1, 3, 2)), Prompt(torch.zeros(1, 3, 2)), CFG)
    assert denoiser(torch.full((1, 1, 1, 1), 3.0), 2.0).item() == pytest.approx(guided, rel=1e-6)


def test_noise_is_one_stream_per_seed_whatever_the_batch():
    together = starting_noise([3, 4], 2, 5, 7)
    assert torch.equal(together, torch.cat([starting_noise([seed], 2, 5, 7) for seed in (3, 4)]))
    torch.manual_seed(4)
    assert torch.equal(together[1], torch.randn(1, 2, 5, 7)[0])  # what ComfyUI draws


def test_pictures_are_in_range_and_of_the_pictures_size(pipe, noise):
    picture = decode(pipe, 30 * noise)
    assert picture.shape == (1, TOY_WORLD.picture_side, TOY_WORLD.picture_side, 3)
    assert float(picture.min()) == 0
    assert float(picture.max()) == 1
