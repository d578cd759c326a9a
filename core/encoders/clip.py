"""CLIP from a folder of transformers' files (Radford et al. 2021, arXiv:2103.00020): both papers use ViT-L/14."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..shapes import Float
from .folders import batches, model_of, opened, pil_images, vectors_of


class ClipEncoder:
    """CLIP's two towers behind `ImageTextEncoder`.

    Args:
        name: What reports call it.
        model: transformers' CLIPModel.
        processor: Its image processor.
        tokenizer: Its tokenizer.
    """

    def __init__(self, name: str, model: Any, processor: Any, tokenizer: Any) -> None:
        self.name = name
        self.model, self.processor, self.tokenizer = model, processor, tokenizer

    @property
    def longest(self) -> int:
        """How many tokens it reads, with those of start and end: 77 in every published CLIP."""
        return self.model.config.text_config.max_position_embeddings

    @torch.no_grad()
    def embed_images(self, images: Sequence[Float[Tensor, "_ _ 3"]]) -> Float[Tensor, "n d"]:
        """See `ImageEncoder`; pictures pass through CLIP's own preprocessing, which sees the middle square."""
        weight = self.model.visual_projection.weight
        found = [torch.zeros(0, weight.shape[0])]
        for some in batches(images):
            pixels = self.processor(images=pil_images(some), return_tensors="pt")["pixel_values"]
            found.append(vectors_of(self.model.get_image_features(pixel_values=pixels.to(weight))))
        return torch.cat(found)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """See `ImageTextEncoder`."""
        weight = self.model.text_projection.weight
        found = [torch.zeros(0, weight.shape[0])]
        for some in batches(texts):
            read = self.tokenizer(
                list(some), padding=True, truncation=True, max_length=self.longest, return_tensors="pt"
            )
            ids, mask = (read[key].to(weight.device) for key in ("input_ids", "attention_mask"))
            found.append(vectors_of(self.model.get_text_features(input_ids=ids, attention_mask=mask)))
        return torch.cat(found)

    def tokens_over(self, text: str) -> int:
        """See `ImageTextEncoder`."""
        return max(0, len(self.tokenizer(text)["input_ids"]) - self.longest)


def load_clip(folder: Path, device: torch.device | str = "cpu") -> ClipEncoder:
    """CLIP from a local folder: config.json, weights, tokenizer and preprocessor_config.json.

    Raises:
        ModuleNotFoundError: If transformers is not installed.
        FileNotFoundError: If a file is missing.
        ValueError: If the folder holds another kind of model, or only a part of one.
    """
    with opened(folder, "CLIP, with its image and its text side", ("clip",), reads_text=True) as transformers:
        model = model_of(transformers.CLIPModel, folder, "CLIP")
        processor = transformers.CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return ClipEncoder(folder.name, model.to(device), processor, tokenizer)
