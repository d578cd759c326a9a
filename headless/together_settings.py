"""The settings of frames that are drawn together: shared attention, and faces from reference pictures (Storynizor)."""

import os
from dataclasses import dataclass, field, fields
from typing import Any

from ..core.frame_sharing import LAYERS
from ..core.quoting import quote
from ..core.shuffle import MODES

_FACE_MODELS = ("image_encoder", "face_models")
_LONGEST_PATH = 1000


def setting(default: Any, meaning: str, least: int | float | None = None, most: int | float | None = None) -> Any:
    """A field with its default, what it means, and its range."""
    return field(default=default, metadata={"meaning": meaning, "least": least, "most": most})


@dataclass(frozen=True, kw_only=True)
class TogetherSettings:
    """How frames are drawn together; names and defaults are those of AMSA Model Patch and Shuffled ID Injector.

    `RunSettings` checks the ranges.
    """

    together: bool = setting(False, "Draw all frames as one batch that shares attention (AMSA), without re-denoising.")
    anchors: int = setting(
        0, "For long stories: frames drawn at a time; all later ones see the first ones. 0 draws all at once.", 0, 64
    )
    strength: int | float = setting(1.0, "How much frames share: 0 not at all, 1 in full.", 0, 1)
    layers: str = setting("all", f"Which resolutions of the UNet share: {', '.join(LAYERS)}.")
    start_percent: int | float = setting(0.0, "Share from this part of sampling on; the first step never does.", 0, 1)
    end_percent: int | float = setting(1.0, "Share until this part of sampling.", 0, 1)
    same_character: bool = setting(True, "Each character sees only themselves in other frames, or everybody.")
    threshold: int | float = setting(0.0, "Where attention maps are cut; 0 finds the place by itself (Otsu).", 0, 0.95)
    decay: int | float = setting(0.5, "Weight of the maps of earlier steps relative to the last step's.", 0, 0.95)
    adapter: str = setting("", 'For faces: an ID adapter (plus-face, FaceID-Plus, train-injector\'s), or "toyworld".')
    references: tuple[tuple[str, str], ...] = setting(
        (), "A picture of a character, or a folder of pictures, NAME=FILE_OR_FOLDER."
    )
    image_encoder: str = setting("", 'For the adapter: a folder of CLIP\'s image encoder, or "toyworld".')
    face_models: str = setting(
        "", 'For FaceID-Plus and PhotoMaker v2: a folder of insightface\'s models; for the toy world "toyworld".'
    )
    mode: str = setting("shuffled", f"Which reference each frame sees: {', '.join(MODES)}.")
    shuffle_seed: int = setting(0, "Seed of the shuffling of references.", 0, 2**64 - 1)
    weight: int | float = setting(1.0, "Weight of the faces: 1 is as trained, 0 leaves the frames as they are.", 0, 3)
    inject_start_percent: int | float = setting(0.0, "Inject faces from this part of sampling on.", 0, 1)
    inject_end_percent: int | float = setting(1.0, "Inject faces until this part of sampling.", 0, 1)
    picture_weight: int | float = setting(1.0, "FaceID-Plus v2: how much of the picture is added to the face.", 0, 5)

    def check_together(self) -> None:
        """Raise a ValueError or FileNotFoundError for settings of frames drawn together that do not go together."""
        if not self.together:
            for each in fields(TogetherSettings):
                value = getattr(self, each.name)
                if each.name not in _FACE_MODELS and value != each.default:
                    raise ValueError(
                        f"{each.name} is {quote(value)}, but it counts only where frames are drawn together: give "
                        "--together too."
                    )
        for name, known in (("layers", tuple(LAYERS)), ("mode", MODES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {quote(getattr(self, name))}; it must be one of {', '.join(known)}.")
        for start, end in (("start_percent", "end_percent"), ("inject_start_percent", "inject_end_percent")):
            if not getattr(self, start) < getattr(self, end):
                raise ValueError(
                    f"{start} is {getattr(self, start)} and {end} {getattr(self, end)}; the end must be greater."
                )
        self._check_faces()

    def _check_faces(self) -> None:
        """Adapter, references and image encoder are given together or not at all; references can be found."""
        if self.adapter and not self.references:
            raise ValueError(
                "adapter is given, but no reference pictures: give --references NAME=FILE_OR_FOLDER, or name "
                "reference_images in the story."
            )
        if self.references and not self.adapter:
            raise ValueError("references are given, but no adapter that reads them: give --adapter too.")
        if self.adapter and not self.image_encoder:
            raise ValueError("adapter is given, but no image_encoder, with which it sees pictures: give its folder.")
        for name, path in self.references:
            if not os.path.exists(path):  # False also for a name that the system does not take
                raise FileNotFoundError(f"references: there is no {quote(path, _LONGEST_PATH)} for {quote(name)}.")
