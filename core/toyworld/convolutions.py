"""The block that the toy world's own networks are made of."""

from torch import Tensor, nn
from torch.nn import functional as F

from ..shapes import Float


class Block(nn.Module):
    """Two normed 3x3 convolutions, added to what came in (He et al. 2016, arXiv:1603.05027)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(8, channels) for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        change = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            change = convolution(F.silu(norm(change)))
        return x + change


def halve(narrow: int, wide: int) -> nn.Conv2d:
    """A convolution to half the side."""
    return nn.Conv2d(narrow, wide, 3, stride=2, padding=1)
