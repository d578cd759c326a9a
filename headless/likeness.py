"""Faces of the toy world as vectors, which `core.scores` compares."""

from dataclasses import dataclass

from torch import Tensor

from ..core.shapes import Bool, Float
from ..core.toyworld.detector import ToyDetector
from ..core.toyworld.identity_encoder import IdentityEncoder


@dataclass(frozen=True)
class FaceReader:
    """Pictures and masks to the vectors of faces."""

    detector: ToyDetector
    encoder: IdentityEncoder

    def __call__(self, image: Float[Tensor, "h w 3"], mask: Bool[Tensor, "h w"]) -> Float[Tensor, " d"] | None:
        """The unit vector of the face of whoever covers the mask best; None where nobody does.

        Args:
            image: In [0, 1].
            mask: Where the person is, or was in the template.
        """
        head = self.detector.head_of(image, mask)
        return None if head is None else self.encoder.embed(image.unsqueeze(0), head.unsqueeze(0))[0]
