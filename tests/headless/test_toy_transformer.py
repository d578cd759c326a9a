"""One call of the transformer under diffusers, and flow matching's solver: laws that need no other host."""

from dataclasses import replace

import pytest
import torch
from story_identity.core.attention_hooks import Layer
from story_identity.core.map_reader import MapReader
from story_identity.core.toyworld.transformer import TransformerSizes
from story_identity.headless.flow_sampling import FlowPrompt
from story_identity.headless.solvers import FlowSolver
from story_identity.headless.toy_transformer import new_transformer, predict_velocity
from story_identity.headless.transformer_attention import hooked_transformer

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


@pytest.mark.parametrize("count", [0, 1])
@torch.no_grad()
def test_a_hook_that_changes_nothing_changes_nothing_and_sees_every_block(network, count):
    latents, references, layers = torch.randn(2, 16, 8, 6), [torch.randn(2, 16, 4, 4)] * count, []
    own = [block.attn.processor for block in (*network.transformer_blocks, *network.single_transformer_blocks)]
    plain = predict(network, latents, references)

    def hook(q, k, v, heads, layer, attend):
        layers.append(layer)
        assert q.shape == k.shape == v.shape == (2, 5 + 12 + 4 * count, 128)
        return attend(q, k, v, heads)

    with hooked_transformer(network, (4, 3), 5, joint_attention=hook):
        assert_close(predict(network, latents, references), plain)
    assert layers == [Layer(number, (4, 3), 5, 4 * count, number) for number in (0, 1)]
    assert own == [block.attn.processor for block in (*network.transformer_blocks, *network.single_transformer_blocks)]


@torch.no_grad()
def test_the_reader_sees_the_pictures_queries_and_the_texts_keys(network):
    latents, seen = torch.randn(2, 16, 8, 6), []

    class Reader(MapReader):
        def look(self, q, k, heads, grid, text):
            seen.append((q, k, heads, grid, text))

    def hook(q, k, v, heads, layer, attend):
        assert torch.equal(seen[-1][0], q[:, 5:17])
        assert torch.equal(seen[-1][1], k[:, :5])
        assert seen[-1][2:] == (heads, (4, 3), 5)
        return attend(q, k, v, heads)

    with hooked_transformer(network, (4, 3), 5, Reader(2, {}, 0.5), hook):
        predict(network, latents, [torch.randn(2, 16, 4, 4)])
    assert len(seen) == 2


def test_prompts_are_joined_with_their_references():
    prompts = [
        FlowPrompt(torch.full((1, 5, 24), n), torch.full((1, 12), n), (torch.full((1, 2), n),)) for n in (1.0, 2.0)
    ]
    both = FlowPrompt.of_rows(prompts)
    assert [len(each) for each in (both.embeddings, both.pooled, *both.references)] == [2, 2, 2]
    assert both.references[0].tolist() == [[1.0, 1.0], [2.0, 2.0]]
    with pytest.raises(ValueError, match="argument"):
        FlowPrompt.of_rows([prompts[0], replace(prompts[1], references=())])
