"""Reference pictures as an adapter's image side reads them: hidden states of an image encoder, face embeddings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from ..core.detectors.faces import Recogniser, load_face_recogniser
from ..core.injector import ReferenceFeatures
from ..core.photomaker import look_at, split_file
from ..core.quoting import printable
from ..core.shapes import Bool, Float
from ..core.toyworld.models import load_weights, weights_file
from ..core.toyworld.recogniser import load_recogniser
from .components import load_network
from .identity_generator import vision_tower
from .option_values import TOYWORLD

_BEFORE_LAST = -2
_TEXT_SIDE = r"^(text_model\.|text_projection\.|logit_scale$)"
"""What files of both of CLIP's towers have in addition to the image encoder."""


@runtime_checkable
class FeatureReader(Protocol):
    """Pictures of people to the features that an adapter reads.

    Args:
        clip_width: The width of the image encoder's hidden states.
        face_width: The width of face embeddings; None if there are none.
    """

    @property
    def clip_width(self) -> int: ...

    @property
    def face_width(self) -> int | None: ...

    def read(
        self, pictures: Sequence[Float[Tensor, "_ _ 3"]], masks: Sequence[Bool[Tensor, "_ _"] | None]
    ) -> tuple[ReferenceFeatures, list[bool]]:
        """Look at one person in each picture.

        Args:
            pictures: In [0, 1], of any sizes.
            masks: Where the person is; None: nobody else is there.

        Returns:
            Features, float32, and per picture whether the person was found. Where not, the features are those of no
            reference.
        """
        ...


class ReferenceReader:
    """A reader by CLIP's image encoder and a face recogniser.

    The image encoder sees the face that the recogniser finds, cut out as it does it. Without a recogniser it sees the
    square at the top of the person's box, as wide as the box or as high, whichever is less, and without a mask the
    middle square of the picture. What else is in that square stays.

    Args:
        tower: CLIP's image encoder, as transformers has it.
        recogniser: None for adapters that read no face embeddings.
    """

    def __init__(self, tower: Any, recogniser: Recogniser | None = None) -> None:
        self.tower, self.recogniser = tower, recogniser

    @property
    def clip_width(self) -> int:
        return self.tower.config.hidden_size

    @property
    def face_width(self) -> int | None:
        return None if self.recogniser is None else self.recogniser.width

    @torch.no_grad()
    def read(
        self, pictures: Sequence[Float[Tensor, "_ _ 3"]], masks: Sequence[Bool[Tensor, "_ _"] | None]
    ) -> tuple[ReferenceFeatures, list[bool]]:
        """See `FeatureReader`; the features are on the encoder's device."""
        embeddings = None
        if self.recogniser is None:
            crops = [_upper_square(*each) for each in zip(pictures, masks, strict=True)]
        else:
            faces = self.recogniser.find_all(pictures, masks)
            crops = [None if face is None else face.crop for face in faces]
            embeddings = torch.zeros(len(faces), self.recogniser.width)
            for row, face in enumerate(faces):
                if face is not None:
                    embeddings[row] = face.embedding
        hidden = self._hidden_states([crop for crop in crops if crop is not None])
        found = torch.tensor([crop is not None for crop in crops], dtype=torch.bool, device=hidden.device)
        clip = hidden[found.cumsum(dim=0) * found]  # row 0 is the blank picture's
        face = None if embeddings is None else embeddings.to(hidden)
        return ReferenceFeatures(clip, hidden[:1], face), found.tolist()

    def _hidden_states(self, crops: Sequence[Tensor]) -> Float[Tensor, "n t c"]:
        """Before the last layer; the first row is of pixels that are 0 after normalisation."""
        side, weight = self.tower.config.image_size, next(self.tower.parameters())
        looks = [look_at(crop.unsqueeze(0).to(weight.device, torch.float32), side) for crop in crops]
        pixels = torch.cat([torch.zeros(1, 3, side, side, device=weight.device), *looks])
        return self.tower(pixels.to(weight.dtype), output_hidden_states=True).hidden_states[_BEFORE_LAST].float()


def load_reader(
    image_encoder: str, face_models: str = "", device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> ReferenceReader:
    """Load a reader; nothing is downloaded.

    Args:
        image_encoder: A folder of transformers' CLIPVisionModelWithProjection, or "toyworld".
        face_models: A folder of insightface's models, "toyworld", or "" for none.
        device: Where it runs; insightface stays on the CPU.
        dtype: The number type of the image encoder.

    Raises:
        FileNotFoundError: If files are missing.
        ValueError: If the folder is not of a CLIP image encoder, or not all of it.
    """
    if image_encoder == TOYWORLD:
        tower: Any = vision_tower(split_file(load_weights("photomaker"), printable(str(weights_file("photomaker"))))[0])
    else:
        tower = _load_tower(Path(image_encoder))
    recogniser: Recogniser | None = None
    if face_models == TOYWORLD:
        recogniser = load_recogniser(device=device)
    elif face_models:
        recogniser = load_face_recogniser(Path(face_models))
    return ReferenceReader(tower.to(device, dtype).eval().requires_grad_(False), recogniser)


def _load_tower(folder: Path) -> CLIPVisionModelWithProjection:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"There is no image encoder in {printable(str(folder))}: expected config.json and model.safetensors of "
            "CLIP's, as in the folder models/image_encoder of the public IP-Adapter files."
        )
    return load_network(CLIPVisionModelWithProjection, folder, "CLIP's image encoder", strangers=_TEXT_SIDE)


def _upper_square(picture: Float[Tensor, "h w 3"], mask: Bool[Tensor, "h w"] | None) -> Float[Tensor, "_ _ 3"] | None:
    """What is shown without a recogniser: the whole picture without a mask, nothing where the mask is empty."""
    if mask is None or not mask.any():
        return picture if mask is None else None
    rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
    top, bottom, left, right = (int(each) for each in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
    side = min(bottom - top, right - left)
    left += (right - left - side) // 2
    return picture[top : top + side, left : left + side]
