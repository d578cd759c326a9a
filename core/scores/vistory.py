"""ViStoryBench's scores of a story (arXiv:2505.24862; its code as of February 2026), on features of any encoders.

CIDS of people is on faces, of everybody else on CLIP. Its own code takes boxes of GroundingDINO; what the features are
of is the caller's choice. CSD (style) needs a network of its own and is not here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..shapes import Float
from .cosines import mean_cosine_between, mean_pairwise_cosine

_SMALLEST = 1e-6
UNDECIDED = 0.5


@dataclass(frozen=True)
class CharacterIdentity:
    """One character's part of CIDS.

    Args:
        cross: The mean cosine of all generated features with all references; 0 where the character was never found.
        self_: The mean cosine of every two generated features; 1 for a single one, 0 for none.
        copy_paste: See `copy_paste`; None with fewer than two references, or no feature.
    """

    cross: float
    self_: float
    copy_paste: float | None


def character_identity(found: Float[Tensor, "n d"], references: Float[Tensor, "r d"]) -> CharacterIdentity:
    """CIDS of a character, from the features of the frames in which they were found and those of their references."""
    if not len(found):
        return CharacterIdentity(0.0, 0.0, None)
    cross, own = mean_cosine_between(found, references), mean_pairwise_cosine(found)
    copied = copy_paste(found, references) if len(references) > 1 else None
    return CharacterIdentity(0.0 if cross is None else cross, 1.0 if own is None else own, copied)


def copy_paste(found: Float[Tensor, "n d"], references: Float[Tensor, "r d"]) -> float:
    """Whether pictures are nearer to the reference they were drawn from, the first one, than to the others.

    The mean over pictures and other references of (1 + (|g - t| - |g - r|) / |t - r|) / 2, where g is a picture, t the
    first reference and r another one, as chords of the unit sphere: 0 for a copy of t, 1 for a copy of r, 0.5 for
    neither.

    Args:
        found: Of generated pictures, at least one.
        references: At least two.
    """
    generated, known = (F.normalize(each.double(), dim=1) for each in (found, references))
    first, others = known[:1], known[1:]
    near, far = _chords(generated, first), _chords(generated, others)
    between = _chords(first, others)
    rates = (1 + (near - far) / between) / 2
    same = (between <= math.sqrt(_SMALLEST)).expand_as(rates)
    return float(torch.where(same, torch.full_like(rates, UNDECIDED), rates).mean())


def character_count_match(found: int, wanted: int) -> float:
    """OCCM of a frame: 100 exp(-|found - wanted| / wanted), 100 where nobody is missing."""
    return 100 * math.exp(-abs(found - wanted) / (_SMALLEST + wanted))


def mean_identity(characters: Sequence[CharacterIdentity]) -> dict[str, float | None]:
    """A story's means over its characters; copy-paste over those who have one."""
    copied = [each.copy_paste for each in characters if each.copy_paste is not None]
    count = len(characters)
    return {
        "cids_cross": sum(each.cross for each in characters) / count if count else None,
        "cids_self": sum(each.self_ for each in characters) / count if count else None,
        "copy_paste": sum(copied) / len(copied) if copied else None,
    }


def _chords(ones: Float[Tensor, "n d"], others: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    return (2 * (1 - (ones @ others.T).clamp(-1, 1))).clamp(min=_SMALLEST).sqrt()
