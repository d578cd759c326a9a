"""Face-Sim in the toy world: how alike a character's faces are over the frames of a story."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
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


@dataclass(frozen=True)
class Likeness:
    """Face-Sim of one character in one story.

    Args:
        to_others: Per frame, the mean cosine of the face to the same character's faces in the other frames; None where
            the frame has no face of theirs, or no other frame has.
        mean: Over every two faces, which is the mean of `to_others` as well; None for fewer than two.
        faces: How many were found.
    """

    to_others: tuple[float | None, ...]
    mean: float | None
    faces: int


def likeness(faces: Sequence[Float[Tensor, " d"] | None]) -> Likeness:
    """Compare one character's faces, one unit vector per frame or None where there is no face."""
    seen = [frame for frame, face in enumerate(faces) if face is not None]
    if len(seen) < 2:
        return Likeness((None,) * len(faces), None, len(seen))
    vectors = torch.stack([face for face in faces if face is not None])
    cosines = vectors @ vectors.T
    others = (cosines.sum(dim=1) - cosines.diagonal()) / (len(seen) - 1)
    to_others: list[float | None] = [None] * len(faces)
    for frame, value in zip(seen, others.tolist(), strict=True):
        to_others[frame] = value
    return Likeness(tuple(to_others), float(others.mean()), len(seen))
