"""The toy VAE: pictures to 8 x 16 x 16 latents and back.

Both hosts run this module: at this size the architecture of Stable Diffusion's VAE is slow to train, because most of
its work is done at the picture's full resolution. Here all work is done on 4 x 4 patches. A linear map, which training
starts at the patches' principal components, does the coarse part, and residual convolutions parallel to it do the rest.
"""

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from ..shapes import Float
from .convolutions import Block
from .models import LATENT_CHANNELS, LATENT_RATIO, WEIGHTS, load_network

PATCH_WIDTH = 3 * LATENT_RATIO**2
WIDTH = 96
ENCODER_BLOCKS = 2
DECODER_BLOCKS = 5


class _Side(nn.Module):
    """A linear map of every cell plus what residual convolutions add to it; they add nothing before training."""

    def __init__(self, width_in: int, width_out: int, blocks: int) -> None:
        super().__init__()
        self.linear = nn.Conv2d(width_in, width_out, 1)
        self.enter = nn.Conv2d(width_in, WIDTH, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(WIDTH) for _ in range(blocks)))
        self.leave = nn.Conv2d(WIDTH, width_out, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.leave(self.blocks(self.enter(x)))


class ToyVAE(nn.Module):
    """Encodes pictures in [-1, 1]; every latent channel has mean 0 and deviation 1 over the world's pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = _Side(PATCH_WIDTH, LATENT_CHANNELS, ENCODER_BLOCKS)
        self.decoder = _Side(LATENT_CHANNELS, PATCH_WIDTH, DECODER_BLOCKS)

    def encode(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c lh lw"]:
        """Latents; the sides of the pictures must be multiples of 4."""
        return self.encoder(F.pixel_unshuffle(pictures, LATENT_RATIO))

    def decode(self, latents: Float[Tensor, "b c lh lw"]) -> Float[Tensor, "b 3 h w"]:
        """Pictures, a little outside [-1, 1] at times."""
        return F.pixel_shuffle(self.decoder(latents), LATENT_RATIO)


def load_vae(folder: Path = WEIGHTS) -> ToyVAE:
    """The trained VAE, on the CPU, in float32.

    Raises:
        FileNotFoundError: If the weights are not there.
        ValueError: If the file cannot be read, or has other tensors.
    """
    vae = ToyVAE()
    load_network(vae, "vae", folder)
    return vae
