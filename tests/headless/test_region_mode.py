"""The identity generator sees a region around each mask: what it costs, what stays, and what SDXL is told."""

from types import SimpleNamespace

import pytest
import torch
from story_identity.core.guidance import OWN, TEMPLATES, redenoising_evaluations
from story_identity.core.redenoise import ProgressiveMasks, scaled_kernel, to_latent_grid
from story_identity.core.region import regions_around
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.headless.option_values import SAMPLERS
from story_identity.headless.prompts import Prompt, encode_prompt
from story_identity.headless.run import run_story
from story_identity.headless.run_settings import settings_of, toyworld_settings
from story_identity.headless.sampling import SamplingPlan, redenoise, sample_template, starting_noise
from torch.utils.flop_counter import FlopCounterMode

from tests.closeness import largest_difference

from .stories import STORY, PlaceDetector, settings, story
from .test_sampling import CFG, PROMPT, START, STEPS, layout_of, plan_of

MIRA, BEN = (20, 20, 30, 32), (40, 44, 56, 60)


@pytest.fixture
def prompts(pipe):
    return encode_prompt(pipe, PROMPT, "frame 1"), encode_prompt(pipe, "a robot", "frame 1")


@pytest.fixture
def noise():
    return starting_noise([7], TOY_WORLD.latent_channels, 16, 16)


@pytest.fixture
def seen(pipe):
    """The sizes of the latents that the UNet is given, one per picture."""
    sizes = []
    hook = pipe.unet.register_forward_pre_hook(
        lambda module, given: sizes.extend([tuple(given[0].shape[-2:])] * len(given[0]))
    )
    yield sizes
    hook.remove()


def regions_of(pipe, layout, margin=0, kernel=0, grid=(16, 16)):
    masks = ProgressiveMasks(layout.masks, STEPS, START, scaled_kernel(kernel, *layout.size))
    return regions_around(masks, grid, plan_of(pipe).cells_per_step(), margin)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("guidance", [OWN, TEMPLATES])
def test_the_background_is_the_templates_and_the_cost_is_the_regions(pipe, prompts, noise, seen, sampler, guidance):
    plan, layout = plan_of(pipe, sampler), layout_of(MIRA, BEN)
    cache = sample_template(plan, *prompts, noise, 7, keep_unconditional=True)
    seen.clear()
    words = dict.fromkeys(layout.names, (prompts[1], prompts[0]))
    found = redenoise(
        plan, cache, layout, words, start=START, max_kernel=0, soft_edge=True, guidance=guidance, region_margin=0
    )
    regions = regions_of(pipe, layout)
    assert len(set(regions)) == 2
    assert sorted(set(seen)) == sorted({(region.height, region.width) for region in regions})
    assert len(seen) == redenoising_evaluations(2, STEPS - START, guidance, CFG)
    assert all(region.share == 0.25 for region in regions)
    inside = (to_latent_grid(layout.masks, 16, 16, soft=True) > 0).any(dim=0)[0]
    assert torch.equal(found[..., ~inside], cache.final[..., ~inside])
    assert largest_difference(found[..., inside], cache.final[..., inside]) > 1e-4


@pytest.mark.parametrize(("boxes", "margin"), [([(0, 0, 64, 64)], 0), ([MIRA, BEN], 1024)])
@pytest.mark.parametrize("guidance", [OWN, TEMPLATES])
def test_a_region_of_everything_is_no_region(pipe, prompts, noise, boxes, margin, guidance):
    plan, layout = plan_of(pipe), layout_of(*boxes)
    cache = sample_template(plan, *prompts, noise, 7, keep_unconditional=True)
    words = dict.fromkeys(layout.names, (prompts[1], prompts[0]))
    one, two = (
        redenoise(plan, cache, layout, words, start=START, max_kernel=50, guidance=guidance, region_margin=each)
        for each in (None, margin)
    )
    assert torch.equal(one, two)


def test_a_network_that_looks_at_each_cell_alone_draws_the_same(pipe, noise):
    class Pointwise(torch.nn.Module):
        dtype, device, config = torch.float32, torch.device("cpu"), SimpleNamespace(block_out_channels=(1, 1, 1))

        def forward(self, latent, timestep, encoder_hidden_states, added_cond_kwargs):
            return SimpleNamespace(sample=torch.tanh(latent * encoder_hidden_states.mean(dim=(1, 2)).view(-1, 1, 1, 1)))

    fake = SimpleNamespace(unet=Pointwise(), scheduler=pipe.scheduler, vae_scale_factor=4, vae=pipe.vae)
    plan, layout = SamplingPlan(fake, "dpmpp_2m_sde", "simple", STEPS, CFG), layout_of(MIRA, BEN)
    words = [(Prompt(torch.full((1, 3, 2), each)), Prompt(torch.zeros(1, 3, 2))) for each in (0.5, 0.9, 1.3)]
    cache = sample_template(plan, *words[0], noise, 7)
    pairs = dict(zip(layout.names, words[1:], strict=True))
    one, two = (
        redenoise(plan, cache, layout, pairs, start=START, max_kernel=60, soft_edge=True, region_margin=each)
        for each in (None, 0)
    )
    assert torch.equal(one, two)
    assert largest_difference(one, cache.final) > 1e-3


@pytest.mark.parametrize("name", ["sd15", "pipe"])
def test_an_evaluation_costs_what_its_region_is_of_the_picture(request, name):
    """Counted in floating-point operations; the prompt's own share does not shrink."""
    pipe = request.getfixturevalue(name)
    words, counts = encode_prompt(pipe, PROMPT, "frame 1"), []
    for side in (32, 16):
        with FlopCounterMode(display=False) as flops:
            plan_of(pipe, cfg=1).denoiser(words, words)(torch.zeros(1, pipe.unet.config.in_channels, side, side), 1.0)
        counts.append(flops.get_total_flops())
    assert 0.1 < counts[1] / counts[0] < 0.27


def test_sdxl_is_told_where_the_picture_was_cropped(sdxl):
    told, layout = [], layout_of(BEN)
    hook = sdxl.unet.register_forward_pre_hook(
        lambda module, given, more: told.append(more["added_cond_kwargs"]["time_ids"]), with_kwargs=True
    )
    pair = encode_prompt(sdxl, "a boy", "frame 1"), encode_prompt(sdxl, "", "frame 1")
    plan, grid = plan_of(sdxl), (64 // sdxl.vae_scale_factor,) * 2
    try:
        cache = sample_template(plan, *pair, starting_noise([7], 4, *grid), 7)
        assert all(rows.tolist() == [[64, 64, 0, 0, 64, 64]] * 2 for rows in told)
        told.clear()
        redenoise(plan, cache, layout, {"person 0": pair}, start=START, max_kernel=0, region_margin=0)
    finally:
        hook.remove()
    (region,) = regions_of(sdxl, layout, grid=grid)
    cell = sdxl.vae_scale_factor
    assert region.top > 0
    expected = [64, 64, *(cell * each for each in (region.top, region.left, region.height, region.width))]
    assert told
    assert all(rows.tolist() == [expected] * 2 for rows in told)


def test_a_run_with_regions_is_another_run_and_its_manifest_says_so(toyworld_folder, tmp_path):
    frames, pictures = STORY["frames"][:1], []
    for name, changes in (("off", {}), ("on", {"region": True, "region_margin": 0})):
        chosen = settings(toyworld_folder, **changes)
        folder = run_story(story(frames), chosen, tmp_path / name, detector=PlaceDetector())
        manifest = folder.read_manifest()
        assert {key: manifest["settings"].get(key) for key in ("region", "region_margin")} == {
            "region": changes.get("region"), "region_margin": changes.get("region_margin")
        }  # fmt: skip
        assert settings_of(manifest) == chosen
        pictures.append((tmp_path / name / "frame_0001.png").read_bytes())
    assert pictures[0] != pictures[1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"region": True, "guidance": "shared"}, 'guidance is "shared".*leave out --region'),
        ({"region": True, "together": True}, "region is for re-denoising"),
        ({"region_margin": -1}, "region_margin is -1"),
    ],
)
def test_what_regions_do_not_go_with_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        toyworld_settings(**changes)
