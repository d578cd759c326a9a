"""DINOv2 and DINOv3 from a folder of transformers' files (Oquab et al. 2023, arXiv:2304.07193): Storynizor's DINO-I."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..shapes import Float
from .folders import batches, model_of, opened, pil_images

KINDS = {
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
}
"""transformers' classes by the model_type of config.json."""


class DinoEncoder:
    """A vision transformer's class token, after its last norm, behind `ImageEncoder`.

    Args:
        name: What reports call it.
        model: One of transformers' classes in `KINDS`.
        processor: Its image processor.
    """

    def __init__(self, name: str, model: Any, processor: Any) -> None:
        self.name, self.model, self.processor = name, model, processor

    @torch.no_grad()
    def embed_images(self, images: Sequence[Float[Tensor, "_ _ 3"]]) -> Float[Tensor, "n d"]:
        """See `ImageEncoder`; pictures pass through the model's own preprocessing."""
        weight = next(self.model.parameters())
        found = [torch.zeros(0, self.model.config.hidden_size)]
        for some in batches(images):
            pixels = self.processor(images=pil_images(some), return_tensors="pt")["pixel_values"]
            found.append(self.model(pixel_values=pixels.to(weight)).last_hidden_state[:, 0].float().cpu())
        return torch.cat(found)


def load_dino(folder: Path, device: torch.device | str = "cpu") -> DinoEncoder:
    """DINOv2, with registers or without, or DINOv3 (ViT) from a local folder.

    Raises:
        ModuleNotFoundError: If transformers is not installed, or a package that the model's preprocessing needs.
        FileNotFoundError: If a file is missing.
        ValueError: If the folder holds another kind of model, or only a part of one, or transformers is too old for it.
    """
    with opened(folder, "DINOv2 or DINOv3", tuple(KINDS)) as transformers:
        model_type = transformers.AutoConfig.from_pretrained(folder, local_files_only=True).model_type
        model = model_of(getattr(transformers, KINDS[model_type]), folder, "DINO")
        processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    return DinoEncoder(folder.name, model.to(device), processor)
