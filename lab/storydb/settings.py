"""What decides which pictures a StoryDB keeps."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ...core.quoting import quote
from ...core.toyworld.vocabulary import CLASS_WORDS
from ..training.settings import setting

_MOST = 10**6
FORMS = ("tar", "folder")


@dataclass(frozen=True, kw_only=True)
class StoryDBSettings:
    """How groups are made; each field says what it means, and the command line has an option for most.

    The thresholds' scales are those of the models that a user gives. The defaults are starting points for ArcFace
    (identity), CLIP ViT-L/14 (look, agreement) and the LAION aesthetic predictor; they are not measured, so look at the
    table of drops.

    Raises:
        ValueError: If a value is out of range.
    """

    least: int = setting(5, "Pictures that a group has at least (paper: 5).")
    most: int = setting(12, "Pictures that a group has at most (paper: 12); more are divided evenly.")
    words: tuple[str, ...] = setting(
        ("woman", "man", "girl", "boy", "person", "robot", "dog", "cat", "animal"),
        "Class words to look for in captions; of two that are equally frequent the earlier one counts.",
    )
    phrase_share: float = setting(0.8, "Share of a group's captions that must have the character's phrase.")
    least_side: int = setting(512, "Least shorter side of a picture, in pixels.")
    contrast: float = setting(0.02, "Least standard deviation of a picture's colours, which are in [0, 1].")
    aesthetic: float = setting(4.5, "Least aesthetic score.")
    agreement: float = setting(0.18, "Least agreement of caption and picture.")
    identity: float = setting(0.35, "Least median cosine of a face to the character's other faces.")
    look: float = setting(0.6, "Least median cosine of a character's look to the others of the group.")
    cluster: float = setting(0.4, "Least mean cosine between loose pictures of one character.")
    box_threshold: float = setting(0.3, "Least score of a box.")
    text_threshold: float = setting(0.25, "Least score of the word itself.")
    least_mask: float = setting(0.01, "Least share of the picture that a character covers.")
    form: str = setting("tar", "tar (webdataset) or folder.")

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{each.name} is {value}; it must be a finite number.")
        for name in ("least", "most", "least_side"):
            if getattr(self, name) > _MOST:
                raise ValueError(f"{name} is {quote(getattr(self, name))}; it must be {_MOST} or less.")
        if not 2 <= self.least <= self.most or 2 * self.least > self.most + 1:
            raise ValueError(
                f"least is {quote(self.least)} and most {quote(self.most)}; least must be 2 or more and most at least "
                "twice as much less one, so that every larger folder can be divided."
            )
        for name in ("phrase_share", "contrast", "box_threshold", "text_threshold", "least_mask"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 0 to 1.")
        for name in ("identity", "look", "cluster"):
            if not -1 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a cosine and must be from -1 to 1.")
        if self.form not in FORMS:
            raise ValueError(f"form is {quote(self.form)}; it must be one of {', '.join(FORMS)}.")
        if not self.words or self.least_side < 1:
            raise ValueError("words needs at least one class word, and least_side must be 1 or more.")

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "words": list(self.words)}


TOYWORLD_STORYDB: Mapping[str, Any] = {
    "words": CLASS_WORDS,
    "least_side": 64,
    "agreement": 0.3,
    "identity": 0.7,
    "cluster": 0.75,
    "box_threshold": 0.01,
    "text_threshold": 0.01,
}
"""What suits the toy world where it differs from the defaults.

Chosen by looking at people whose looks its networks were trained on. Identity, 40 people with 8 pictures each: the
median cosine to the same person's other faces was above 0.78 for 99.5 % (least 0.72); that of somebody else with
the same caption, below 0.64 for 99 % (most 0.74). Agreement, 320 pictures: their own captions had 0.48 or more, those
of other scenes 0.22 or less for 98 % (most 0.46). Cluster: 10 people with 8 pictures each came apart as they should in
all of five draws at 0.75 and 0.8, and in three of them at 0.6.
"""
