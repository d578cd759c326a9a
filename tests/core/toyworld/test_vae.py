"""The sizes of the networks, where a layer's place can be reckoned by hand."""

import torch
from story_identity.core.toyworld.vae import ToyVAE

from tests.closeness import assert_close


@torch.no_grad()
def test_the_decoders_finer_grid_lies_over_its_own_cells():
    """What is added at one place of the finer grid is added to the 4 x 4 pixels there."""
    torch.manual_seed(0)
    vae, place = ToyVAE(), (5, 18)
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
