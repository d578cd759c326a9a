"""What decides which pictures a StoryDB keeps."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from ...core.quoting import quote
from ...core.toyworld.vocabulary import CLASS_WORDS
from ...headless.schema import Settings, setting

_MOST = 10**6


def _share(default: float, meaning: str) -> Any:
    return setting(default, meaning, ge=0, le=1)


def _cosine(default: float, meaning: str) -> Any:
    return setting(default, f"{meaning} It is a cosine.", ge=-1, le=1)


class StoryDBSettings(Settings):
    """How groups are made; each field says what it means, and the command line has an option for most.

    The thresholds' scales are those of the models that a user gives. The defaults are starting points for ArcFace
    (identity), CLIP ViT-L/14 (look, agreement) and the LAION aesthetic predictor; they are not measured, so look at the
    table of drops.

    Raises:
        ValueError: If a value is out of range.
    """

    least: int = setting(5, "Pictures that a group has at least (paper: 5).", ge=2, le=_MOST)
    most: int = setting(12, "Pictures that a group has at most (paper: 12); more are divided evenly.", le=_MOST)
    words: tuple[str, ...] = setting(
        ("woman", "man", "girl", "boy", "person", "robot", "dog", "cat", "animal"),
        "Class words to look for in captions; of two that are equally frequent the earlier one counts.",
        min_length=1,
    )
    phrase_share: float = _share(0.8, "Share of a group's captions that must have the character's phrase.")
    least_side: int = setting(512, "Least shorter side of a picture, in pixels.", ge=1, le=_MOST)
    contrast: float = _share(0.02, "Least standard deviation of a picture's colours, which are in [0, 1].")
    aesthetic: float = setting(4.5, "Least aesthetic score.")
    agreement: float = setting(0.18, "Least agreement of caption and picture.")
    identity: float = _cosine(0.35, "Least median cosine of a face to the character's other faces.")
    look: float = _cosine(0.6, "Least median cosine of a character's look to the others of the group.")
    cluster: float = _cosine(0.4, "Least mean cosine between loose pictures of one character.")
    box_threshold: float = _share(0.3, "Least score of a box.")
    text_threshold: float = _share(0.25, "Least score of the word itself.")
    least_mask: float = _share(0.01, "Least share of the picture that a character covers.")
    form: Literal["tar", "folder"] = setting("tar", "tar (webdataset) or folder.")

    @model_validator(mode="after")
    def _check_sizes(self) -> "StoryDBSettings":
        if 2 * self.least > self.most + 1:
            raise ValueError(
                f"least is {quote(self.least)} and most {quote(self.most)}; most must be at least twice as much less "
                "one, so that every larger folder can be divided."
            )
        return self

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return self.model_dump(mode="json")


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
