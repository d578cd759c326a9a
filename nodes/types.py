"""The pack's own socket types."""

from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from ..core.character_mentions import Character
from ..core.identity import Identity
from ..core.injector import ReferenceFeatures
from ..core.story import Story

StorySocket = io.Custom("STORY")
CharactersSocket = io.Custom("STORY_CHARACTERS")
StoryFrameSocket = io.Custom("STORY_FRAME")
IdentitySocket = io.Custom("IDENTITY")
NoisyLatentCacheSocket = io.Custom("NOISY_LATENT_CACHE")
LayoutSocket = io.Custom("STORY_LAYOUT")
CastSocket = io.Custom("CAST")
DetectorSocket = io.Custom("STORY_DETECTOR")
IDAdapterSocket = io.Custom("ID_ADAPTER")
FaceFeaturesSocket = io.Custom("FACE_FEATURES")
FaceRecogniserSocket = io.Custom("FACE_RECOGNISER")
ImageTextEncoderSocket = io.Custom("IMAGE_TEXT_ENCODER")

Characters = tuple[Character, ...]
"""What travels through a STORY_CHARACTERS socket: one character or more."""

Conditioning = list[list[Any]]
"""ComfyUI's CONDITIONING."""


@dataclass(frozen=True)
class CastMember:
    """One character of one frame, with what the identity generator gets for them.

    Args:
        identity: The identity, or only the character's name.
        positive: What the character is drawn from.
        negative: What the character is drawn away from.
        model: A MODEL that draws this character in place of the one of Progressive-Mask Re-denoise, if there is one.
    """

    identity: Identity | str
    positive: Conditioning
    negative: Conditioning
    model: Any | None = None

    @property
    def name(self) -> str:
        return self.identity if isinstance(self.identity, str) else self.identity.name


Cast = tuple[CastMember, ...]
"""What travels through a CAST socket."""


@dataclass(frozen=True)
class FaceFeatures:
    """What the pictures of one character have become.

    Args:
        name: As in the story; empty where the story has only one.
        features: One row per picture.
    """

    name: str
    features: ReferenceFeatures


Faces = tuple[FaceFeatures, ...]
"""What travels through a FACE_FEATURES socket: everybody whose face is known."""


def characters_of(people: Characters | Story) -> Characters:
    """The characters that came through a socket which takes a STORY as well."""
    return people.characters if isinstance(people, Story) else people
