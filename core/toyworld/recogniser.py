"""The toy world's face recogniser: what `core.detectors.faces.FaceRecogniser` is to photographs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..detectors.faces import Face
from ..shapes import Bool, Float
from .detector import ToyDetector, load_detector
from .identity_encoder import WIDTH, IdentityEncoder, face_crops, load_identity_encoder
from .models import WEIGHTS
from .sizes import TOY_WORLD

MARGIN = 1.2
"""Side of a crop, in longer sides of the head's box: as much as the world's portraits show."""


@dataclass(frozen=True)
class ToyRecogniser:
    """Finds heads with the toy world's detector and tells faces with its identity encoder."""

    detector: ToyDetector
    encoder: IdentityEncoder
    width: int = WIDTH
    name: str = "toyworld"

    def find(self, image: Float[Tensor, "h w 3"]) -> Face | None:
        """The largest head of a picture in [0, 1], or None."""
        return self.find_all([image], [None])[0]

    def find_all(
        self, images: Sequence[Float[Tensor, "_ _ 3"]], masks: Sequence[Bool[Tensor, "_ _"] | None]
    ) -> list[Face | None]:
        """One head per picture: where there is a mask that of whoever covers it best, else the largest."""
        faces: list[Face | None] = [None] * len(images)
        for size in {image.shape for image in images}:
            rows = [row for row, image in enumerate(images) if image.shape == size]
            pictures = torch.stack([images[row].detach().cpu().float() for row in rows])
            heads = self.detector.heads_of(pictures, [masks[row] for row in rows])
            for row, face in zip(rows, self._faces(pictures, heads), strict=True):
                faces[row] = face
        return faces

    def embedding_of(self, image: Float[Tensor, "h w 3"], mask: Bool[Tensor, "h w"]) -> Float[Tensor, " d"] | None:
        """The unit vector of the face of whoever covers the mask best; None where nobody does.

        Args:
            image: In [0, 1].
            mask: Where the person is, or was in the template.
        """
        face = self.find_all([image], [mask])[0]
        return None if face is None else face.embedding

    def _faces(self, pictures: Float[Tensor, "n h w 3"], heads: Sequence[Tensor | None]) -> list[Face | None]:
        seen = [row for row, head in enumerate(heads) if head is not None]
        faces: list[Face | None] = [None] * len(heads)
        if seen:
            boxes = torch.stack([head for head in heads if head is not None])
            side = TOY_WORLD.picture_side
            embeddings = self.encoder.embed(pictures[seen], boxes)
            for row, box, embedding in zip(seen, boxes, embeddings, strict=True):
                crop = face_crops(pictures[row], box.unsqueeze(0), side, MARGIN)[0]
                faces[row] = Face(embedding, crop.movedim(0, -1).clamp(0, 1))
        return faces


def load_recogniser(folder: Path = WEIGHTS, device: torch.device | str = "cpu") -> ToyRecogniser:
    """The recogniser with its trained weights.

    Raises:
        FileNotFoundError: If the weights are not there.
        ValueError: If a file cannot be read, or has other tensors.
    """
    detector, encoder = load_detector(folder), load_identity_encoder(folder)
    detector.module.to(device)
    return ToyRecogniser(detector, encoder.to(device))
