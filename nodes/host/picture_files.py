"""Pictures from files, as one batch."""

from collections.abc import Sequence
from pathlib import Path

import comfy.utils
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ...core.quoting import printable, quote


def pictures_of_one_size(paths: Sequence[Path], width: int, height: int) -> Tensor:
    """Pictures `(n, height, width, 3)` in [0, 1], scaled to cover the size and cut at the centre.

    Args:
        paths: Picture files.
        width: In pixels.
        height: In pixels.

    Raises:
        ValueError: If a file is no picture.
    """
    found = []
    for path in paths:
        try:
            with Image.open(path) as file:
                levels = np.asarray(ImageOps.exif_transpose(file).convert("RGB"), dtype=np.float32)
        except OSError as problem:
            raise ValueError(
                f"{quote(path.name)} cannot be read as a picture: {printable(str(problem), 200)}"
            ) from None
        picture = torch.from_numpy(levels / 255).movedim(-1, 0).unsqueeze(0)
        found.append(comfy.utils.common_upscale(picture, width, height, "bicubic", "center").movedim(1, -1).clamp(0, 1))
    return torch.cat(found)
