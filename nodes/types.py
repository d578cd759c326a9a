"""The pack's own socket types."""

from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from ..core.identity import Identity

StorySocket = io.Custom("STORY")
StoryFrameSocket = io.Custom("STORY_FRAME")
IdentitySocket = io.Custom("IDENTITY")
NoisyLatentCacheSocket = io.Custom("NOISY_LATENT_CACHE")
LayoutSocket = io.Custom("STORY_LAYOUT")
CastSocket = io.Custom("CAST")
DetectorSocket = io.Custom("STORY_DETECTOR")

Conditioning = list[tuple[Any, dict[str, Any]]]
"""ComfyUI's CONDITIONING."""


@dataclass(frozen=True)
class CastMember:
    """One character of one frame, with what the identity generator is told about them."""

    identity: Identity
    positive: Conditioning
    negative: Conditioning

    @property
    def name(self) -> str:
        return self.identity.name


Cast = tuple[CastMember, ...]
"""What travels through a CAST socket."""
