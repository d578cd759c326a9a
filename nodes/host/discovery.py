"""From portraits to an identity, with the portraits that go with it."""

from dataclasses import asdict, dataclass
from typing import Any

import comfy.utils
from torch import Tensor

from ...core.identity import Identity, discover_identity, largest_usable_rank, nearest_portraits
from ...core.identity_discovery import describe_discovery
from .identity_encoders import encode_portraits


@dataclass(frozen=True)
class Found:
    """What a discovery comes to.

    Args:
        identity: The identity, with the portraits nearest to it.
        kept: The portraits that agree, `(n, h, w, 3)` in [0, 1].
        best: Those that represent the identity, best first.
        report: How it came about.
    """

    identity: Identity
    kept: Tensor
    best: Tensor
    report: str


def find_identity(
    encoder: Any,
    portraits: Tensor,
    name: str,
    description: str,
    rank: int,
    keep_ratio: float,
    iterations: int,
    representatives: int,
    lower_rank: bool,
) -> Found:
    """Find the identity that most portraits agree on.

    Args:
        encoder: A PHOTOMAKER, a CLIP_VISION or a FACE_RECOGNISER.
        portraits: One batch `(m, h, w, c)` in [0, 1].
        name: The character's.
        description: Kept in the identity.
        rank: The paper's k.
        keep_ratio: The paper's r.
        iterations: The paper's p.
        representatives: How many portraits go with the identity.
        lower_rank: Whether a rank that is too large for so few portraits is lowered, or refused.

    Raises:
        ValueError: If a setting is out of range, or the encoder finds no face.
    """
    portraits = portraits[..., :3]
    encoded = encode_portraits(encoder, portraits, comfy.utils.ProgressBar(len(portraits)).update)
    used = rank
    if lower_rank:
        count, width = encoded.embeddings.shape
        used = max(1, min(rank, largest_usable_rank(count, width, keep_ratio, iterations)))
    found = discover_identity(encoded.embeddings, used, keep_ratio, iterations)
    nearest, cosines = nearest_portraits(encoded.embeddings, found.embedding, representatives)
    best = portraits[[encoded.rows[row] for row in nearest]]
    about = {
        "discovery": {
            "portraits": len(portraits),
            "rank": used,
            "keep_ratio": keep_ratio,
            "iterations": iterations,
            "rounds": [asdict(each) for each in found.rounds],
        },
        "representatives": {"numbers": [encoded.rows[row] + 1 for row in nearest], "cosines": cosines},
        **encoded.about,
    }
    levels = (255 * best).round().clamp(0, 255).byte().cpu()
    identity = Identity(name, description, encoded.encoder, found.embedding, about, levels)
    kept = portraits[[encoded.rows[row] for row in found.kept]]
    report = describe_discovery(name, found, rank, encoded.rows, len(portraits), nearest, cosines)
    return Found(identity, kept, best, report)
