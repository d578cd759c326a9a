"""The toy VAE: pictures to latents of 16 x 16 cells and back.

Both hosts run this module: at this size the architecture of Stable Diffusion's VAE is slow to train, because most of
its work is done at the picture's full resolution. Here all work is done on patches. A linear map, which training starts
at the patches' principal components, does the coarse part, and residual convolutions parallel to it do the rest.
"""

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from ..shapes import Float
from .convolutions import Block
from .models import WEIGHTS, load_network
from .sizes import TOY_WORLD


class _Side(nn.Module):
    """A linear map of every cell plus what residual convolutions add to it; they add nothing before training.

    Args:
        width_in: Channels of a cell.
        width_out: Channels of a cell afterwards.
        blocks: How many residual blocks.
        fine_blocks: How many more on a grid twice as fine.
    """

    def __init__(self, width_in: int, width_out: int, blocks: int, fine_blocks: int = 0) -> None:
        super().__init__()
        width, finer = TOY_WORLD.vae_width, 2 if fine_blocks else 1
        self.linear = nn.Conv2d(width_in, width_out, 1)
        self.enter = nn.Conv2d(width_in, width, 3, padding=1)
        layers: list[nn.Module] = [Block(width) for _ in range(blocks)]
        if fine_blocks:
            layers += [nn.Conv2d(width, 4 * TOY_WORLD.vae_fine_width, 1), nn.PixelShuffle(2)]
            width = TOY_WORLD.vae_fine_width
            layers += [Block(width) for _ in range(fine_blocks)]
        self.blocks = nn.Sequential(*layers)
        self.leave = nn.Conv2d(width, width_out // finer**2, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the linear map says, and what is to be added to it, on its grid or the finer one."""
        return self.linear(x), self.leave(self.blocks(self.enter(x)))


class ToyVAE(nn.Module):
    """Encodes pictures in [-1, 1]; every latent channel has mean 0 and deviation 1 over the world's pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.ratio = TOY_WORLD.latent_ratio
        patch, cell = 3 * self.ratio**2, TOY_WORLD.latent_channels
        self.encoder = _Side(patch, cell, TOY_WORLD.vae_blocks[0])
        self.decoder = _Side(cell, patch, TOY_WORLD.vae_blocks[1], TOY_WORLD.vae_fine_blocks)

    def encode(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c lh lw"]:
        """Latents; the sides of the pictures must be multiples of the world's latent ratio."""
        coarse, change = self.encoder(F.pixel_unshuffle(pictures, self.ratio))
        return coarse + change

    def decode(self, latents: Float[Tensor, "b c lh lw"]) -> Float[Tensor, "b 3 h w"]:
        """Pictures, a little outside [-1, 1] at times."""
        coarse, change = self.decoder(latents)
        ratio = self.ratio * coarse.shape[-1] // change.shape[-1]
        return F.pixel_shuffle(coarse, self.ratio) + F.pixel_shuffle(change, ratio)


def load_vae(folder: Path = WEIGHTS) -> ToyVAE:
    """The trained VAE, on the CPU, in float32.

    Raises:
        FileNotFoundError: If the weights are not there.
        ValueError: If the file cannot be read, or has other tensors.
    """
    vae = ToyVAE()
    load_network(vae, "vae", folder)
    return vae
