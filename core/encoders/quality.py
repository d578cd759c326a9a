"""Q-Align's two ratings of a picture (Wu et al. 2023, arXiv:2312.17090), by pyiqa: of IdentityStory's table 1."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..detectors.files import require_package
from ..shapes import Float

NOTICE = "pyiqa may be used for non-commercial purposes only; it fetches Q-Align's weights (about 15 GB) on first use."
AESTHETIC, GENERAL = "qalign_aesthetic", "qalign_general"
TASKS = {AESTHETIC: "aesthetic", GENERAL: "quality"}
"""What pyiqa calls them."""


class QAlign:
    """Ratings from 1 (bad) to 5 (excellent).

    Args:
        metric: What `pyiqa.create_metric("qalign")` gives.
        device: Where it is.
    """

    name = "qalign"

    def __init__(self, metric: Any, device: torch.device | str) -> None:
        self.metric, self.device = metric, device

    @torch.no_grad()
    def rate(self, images: Sequence[Float[Tensor, "_ _ 3"]]) -> dict[str, list[float]]:
        """Both ratings of every picture in [0, 1], by `AESTHETIC` and `GENERAL`."""
        return {key: [self._rate(image, task) for image in images] for key, task in TASKS.items()}

    def _rate(self, image: Float[Tensor, "h w 3"], task: str) -> float:
        pixels = image.detach().float().clamp(0, 1).movedim(-1, 0).unsqueeze(0)
        return float(self.metric(pixels.to(self.device), task_=task))


def load_qalign(device: torch.device | str = "cpu") -> QAlign:
    """Q-Align by pyiqa, which finds and fetches its weights itself.

    Raises:
        ModuleNotFoundError: If pyiqa is not installed.
    """
    with require_package("pyiqa", "rating pictures with Q-Align"):
        import pyiqa  # pyright: ignore[reportMissingImports]
    return QAlign(pyiqa.create_metric("qalign", device=torch.device(device)), device)
