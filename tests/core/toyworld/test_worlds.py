"""Which world a folder of weights is of, and what the sizes say."""

import pytest
import torch
from story_identity.core.toyworld.vae import ToyVAE
from story_identity.core.toyworld.worlds import (
    NOTE,
    TOY_WORLD_1,
    TOY_WORLD_2,
    WORLDS,
    claim_folder,
    world_called,
    world_of,
)

from tests.closeness import assert_close


def test_a_folder_without_a_note_is_of_the_first_world(tmp_path):
    assert world_of(tmp_path) == world_of(tmp_path / "missing") == TOY_WORLD_1


@pytest.mark.parametrize("world", WORLDS.values(), ids=lambda world: world.name)
def test_a_claimed_folder_says_its_world(world, tmp_path):
    claim_folder(world, tmp_path / "weights")
    assert world_of(tmp_path / "weights") == world


def test_a_folder_with_weights_is_not_claimed_for_another_world(tmp_path):
    (tmp_path / "vae.safetensors").touch()
    claim_folder(TOY_WORLD_1, tmp_path)
    with pytest.raises(ValueError, match="holds weights of toy-world-1, not of toy-world-2: choose another folder"):
        claim_folder(TOY_WORLD_2, tmp_path)


@pytest.mark.parametrize("content", ["", "[", "[]", "{}", '{"world": 2}', '{"world": "toy-world-3"}', "[" * 9999])
def test_a_note_that_names_no_world_is_refused(content, tmp_path):
    (tmp_path / NOTE).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"world\.json does not say which toy world"):
        world_of(tmp_path)


def test_a_name_of_no_world_is_refused():
    with pytest.raises(ValueError, match='no toy world "toy-world-3". There are "toy-world-1", "toy-world-2"'):
        world_called("toy-world-3")


def test_the_worlds_differ_in_what_tells_their_encoders():
    assert len({world.text_width for world in WORLDS.values()}) == len(WORLDS)
    assert [world.latent_side for world in WORLDS.values()] == [16, 16]


@torch.no_grad()
def test_the_decoders_finer_grid_lies_over_its_own_cells():
    """What is added at one place of the finer grid is added to the 4 x 4 pixels there."""
    torch.manual_seed(0)
    vae, place = ToyVAE(TOY_WORLD_2), (5, 18)
    latents = torch.zeros(1, 16, 16, 16)
    before = vae.decode(latents)
    added = torch.zeros(1, 64, 32, 32)
    added[0, :, place[0], place[1]] = 1
    vae.decoder.blocks = Constant(added)
    vae.decoder.leave.weight.fill_(1 / 64)
    change = (vae.decode(latents) - before)[0]
    expected = torch.zeros(3, 128, 128)
    expected[:, 4 * place[0] : 4 * place[0] + 4, 4 * place[1] : 4 * place[1] + 4] = 1
    assert_close(change, expected)


class Constant(torch.nn.Module):
    """Gives one value, whatever it is given."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, _):
        return self.value
