"""Images between tensors and Pillow: both models were trained on images that Pillow scaled in 8 bits."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..shapes import Float


def scaled_colours(image: Float[Tensor, "h w 3"], height: int, width: int) -> Float[Tensor, "3 {height} {width}"]:
    """Scale an image bilinearly in 8 bits.

    Args:
        image: In [0, 1]; what is outside is clipped.
        height: The result's height in pixels.
        width: The result's width in pixels.

    Returns:
        Whole numbers in [0, 255], on the CPU.
    """
    eight_bits = (image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    scaled = Image.fromarray(eight_bits.numpy()).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(scaled)).permute(2, 0, 1).float()


def normalised(
    colours: Float[Tensor, "3 h w"], mean: tuple[float, float, float], deviation: tuple[float, float, float]
) -> Float[Tensor, "3 h w"]:
    """Subtract the mean of each colour and divide by its deviation."""
    return (colours - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]
