"""One call of the transformer under diffusers, and flow matching's solver: laws that need no other host."""

import pytest
import torch
from story_identity.core.toyworld.transformer import TransformerSizes
from story_identity.headless.solvers import FlowSolver
from story_identity.headless.toy_transformer import new_transformer, predict_velocity

from tests.closeness import assert_close, largest_difference

SMALL = TransformerSizes(width=128, double_blocks=1, single_blocks=1, context=24, pooled=12)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return new_transformer(SMALL).eval()


@torch.no_grad()
def predict(network, latents, references=(), seed=1):
    random = torch.Generator().manual_seed(seed)
    text, pooled = torch.randn(len(latents), 5, 24, generator=random), torch.randn(len(latents), 12, generator=random)
    return predict_velocity(network, latents, torch.linspace(0.2, 0.8, len(latents)), text, pooled, references)


def test_rows_do_not_see_each_other(network):
    latents, reference = torch.randn(2, 16, 8, 6), torch.randn(2, 16, 4, 4)
    both = predict(network, latents, [reference])
    again = predict(network, latents, [torch.cat([reference[:1], torch.randn(1, 16, 4, 4)])])
    assert_close(again[0], both[0])
    assert largest_difference(again[1], both[1]) > 1e-4


def test_a_prediction_is_where_its_latents_are(network):
    """Without what mixes places, one patch of latents gives one patch of the prediction."""
    before = network.transformer_blocks, network.single_transformer_blocks
    network.transformer_blocks, network.single_transformer_blocks = torch.nn.ModuleList(), torch.nn.ModuleList()
    latents = torch.randn(1, 16, 8, 6)
    changed = latents.clone()
    changed[..., 2:4, 4:6] += 1
    moved = (predict(network, latents) - predict(network, changed)).abs().amax(dim=(0, 1)) > 1e-6
    network.transformer_blocks, network.single_transformer_blocks = before
    assert moved.nonzero().tolist() == [[2, 4], [2, 5], [3, 4], [3, 5]]


def test_the_order_of_references_matters_only_by_where_they_lie(network):
    """A second picture lies below a wide first one, so that changing places changes the prediction a little."""
    latents, first, second = torch.randn(1, 16, 8, 8), torch.randn(1, 16, 4, 8), torch.randn(1, 16, 4, 8)
    one, other = predict(network, latents, [first, second]), predict(network, latents, [second, first])
    assert largest_difference(one, other) > 1e-6
    assert largest_difference(one, other) < largest_difference(one, predict(network, latents))


def test_eulers_steps_of_flow_matching_by_hand():
    """A right prediction x0 leads along the straight line to it, from noise at sigma 1."""
    sigmas = torch.tensor([1.0, 0.75, 0.25, 0.0])
    noise, picture = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3)
    solver = FlowSolver("euler", sigmas, 0)
    latent = solver.first_latent(noise, sigmas.flip(0))
    assert torch.equal(latent, noise)
    for index, sigma in enumerate(sigmas[1:].tolist()):
        latent = solver.step(index, latent, picture)
        assert_close(latent, (1 - sigma) * picture + sigma * noise)
