"""Ratings of whole frames that are no cosines: Q-Align's, and those of a judge model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .statistics import Interval, bootstrap_frames

LABELS: Mapping[str, tuple[str, str]] = {
    "qalign_aesthetic": ("Q-Align-Aes", "1 to 5"),
    "qalign_general": ("Q-Align-Gen", "1 to 5"),
    "text_alignment": ("judge: text alignment", "0 to 100"),
    "character_consistency": ("judge: character consistency", "0 to 100"),
    "image_quality": ("judge: image quality", "0 to 100"),
}
"""What the papers call each, and its range."""


@dataclass(frozen=True)
class Ratings:
    """The ratings of a story's frames.

    Args:
        of_frames: By rating, one number per frame; None where there is none. What was not asked for is left out.
    """

    of_frames: Mapping[str, Sequence[float | None]] = field(default_factory=dict)

    def interval(self, key: str, seed: int = 0) -> Interval | None:
        """The mean over the frames, with a bootstrap interval over them; None where no frame has this rating."""
        values = [torch.nan if each is None else each for each in self.of_frames[key]]
        return bootstrap_frames(torch.tensor([values], dtype=torch.double), seed)

    def as_mapping(self, seed: int = 0) -> dict[str, Any]:
        """Everything, in JSON's own types."""
        found = {}
        for key, values in self.of_frames.items():
            interval = self.interval(key, seed)
            mean = None if interval is None else vars(interval)
            found[key] = {"mean": mean, "of_frames": list(values), "missing": sum(each is None for each in values)}
        return found

    def lines(self, seed: int = 0) -> list[tuple[str, str]]:
        """Per rating its label with the range, and the mean with its interval and how many frames have none."""
        found = []
        for key, values in self.of_frames.items():
            label, span = LABELS[key]
            interval, missing = self.interval(key, seed), sum(each is None for each in values)
            said = "no answer that could be read" if interval is None else _text(interval)
            if interval is not None and missing:
                said += f", of {len(values) - missing} of {len(values)} frames"
            found.append((f"{label} ({span})", said))
        return found


NO_RATINGS = Ratings()


def _text(interval: Interval) -> str:
    text = f"{interval.mean:.2f}"
    return f"{text} ({interval.low:.2f} to {interval.high:.2f})" if interval.low < interval.high else text
