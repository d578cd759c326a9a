"""The toy world's face recognition: a head to a unit vector, near to the vectors of the same face.

What ArcFace (Deng et al. 2019, arXiv:1801.07698) is to photographs. It looks at the head alone: a person in another
coat is the same person. `training.identity` makes the weights.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..shapes import Float
from .convolutions import Block, halve
from .models import WEIGHTS, load_network
from .sizes import TOY_WORLD

WIDTH = 64
MARGIN = 1.1
"""Side of a crop, in longer sides of the face box."""


class IdentityEncoder(nn.Module):
    """Head crops to unit vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(TOY_WORLD.patch),  # nothing lost, a quarter of the work or less
            nn.Conv2d(3 * TOY_WORLD.patch**2, 48, 3, padding=1),
            Block(48),
            halve(48, 96),
            Block(96),
            halve(96, 96),
            nn.GroupNorm(8, 96),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(96 * 4**2, WIDTH),
        )

    def forward(self, crops: Float[Tensor, "n 3 side side"]) -> Float[Tensor, "n d"]:
        """Crops in [0, 1] from `face_crops` to unit vectors; the cosine of two says how alike the faces are."""
        return F.normalize(self.layers(crops * 2 - 1).float(), dim=-1)

    @torch.no_grad()
    def embed(self, images: Float[Tensor, "n h w 3"], boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n d"]:
        """Unit vectors of one face per picture, on the CPU.

        Args:
            images: In [0, 1]. For several faces in one picture: `image.expand(n, -1, -1, -1)`.
            boxes: x0 y0 x1 y1 of the heads in pixels, hair and hat included, as `Scene.face_boxes` and the detector's
                heads are.

        Raises:
            ValueError: If a box is empty.
        """
        weight = next(self.parameters())
        crops = _crops(images.permute(0, 3, 1, 2).to(weight), boxes.to(weight), TOY_WORLD.crop_side, MARGIN)
        return self(crops).float().cpu()


def load_identity_encoder(folder: Path = WEIGHTS) -> IdentityEncoder:
    """The encoder with its trained weights, on the CPU.

    Raises:
        FileNotFoundError: If the weights are not there.
        ValueError: If the file cannot be read, or has other tensors.
    """
    network = IdentityEncoder()
    load_network(network, "identity_encoder", folder)
    return network


def face_crops(
    image: Float[Tensor, "h w 3"],
    boxes: Float[Tensor, "n 4"],
    side: int = TOY_WORLD.crop_side,
    margin: int | float = MARGIN,
) -> Float[Tensor, "n 3 {side} {side}"]:
    """Cut heads out of a picture: square, `margin` times the longer side of the box, scaled to `side` pixels.

    Beyond the picture's edge its outermost pixels are repeated.

    Raises:
        ValueError: If a box is empty.
    """
    return _crops(image.permute(2, 0, 1).expand(len(boxes), -1, -1, -1), boxes, side, margin)


def _crops(
    images: Float[Tensor, "n 3 h w"], boxes: Float[Tensor, "n 4"], side: int, margin: int | float
) -> Float[Tensor, "n 3 {side} {side}"]:
    corners, far_corners = boxes[:, :2], boxes[:, 2:]
    empty = (far_corners <= corners).any(dim=1).nonzero()
    if len(empty):
        number = int(empty[0])
        corners_text = ", ".join(f"{value:g}" for value in boxes[number].tolist())
        raise ValueError(f"Face box {number} is empty: ({corners_text}). It must be x0 y0 x1 y1, x0 < x1 and y0 < y1.")
    height, width = images.shape[2:]
    picture = torch.tensor([width, height], dtype=boxes.dtype, device=boxes.device)
    middles = (corners + far_corners) / picture - 1
    reach = margin * (far_corners - corners).amax(dim=1, keepdim=True) / picture
    # Two samples per pixel and side, then their mean: a close-up is scaled down without losing every other line.
    steps = (torch.arange(2 * side, dtype=boxes.dtype, device=boxes.device) + 0.5) / side - 1
    x = middles[:, None, None, 0] + reach[:, None, None, 0] * steps[None, None, :]
    y = middles[:, None, None, 1] + reach[:, None, None, 1] * steps[None, :, None]
    grid = torch.stack(torch.broadcast_tensors(x, y), dim=-1)
    return F.avg_pool2d(F.grid_sample(images, grid.to(images), padding_mode="border", align_corners=False), 2)
