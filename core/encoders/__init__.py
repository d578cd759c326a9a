"""What turns pictures and words into features that `core.scores` compares.

Two protocols: an encoder of images and texts (CLIP), and one of images (CLIP's image side, DINOv2, DINOv3). The third
kind, face recognisers, is in `core.recognisers`. Networks are read from local folders; nothing is downloaded, and
transformers is imported when a folder is opened.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from ..shapes import Float


@runtime_checkable
class ImageEncoder(Protocol):
    """Pictures to vectors; their cosine says how alike two pictures are."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def embed_images(self, images: Sequence[Float[Tensor, "_ _ 3"]]) -> Float[Tensor, "n d"]:
        """One vector per picture in [0, 1], of any sizes; float32, on the CPU. No pictures give no rows."""
        ...


@runtime_checkable
class ImageTextEncoder(ImageEncoder, Protocol):
    """Pictures and texts to vectors of one space; their cosine says how well a text describes a picture."""

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """One vector per text; float32, on the CPU. Words beyond the encoder's limit do not count."""
        ...

    def tokens_over(self, text: str) -> int:
        """How many tokens of a text lie beyond the encoder's limit."""
        ...
