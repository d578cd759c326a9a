"""Where a file of the toy world's weights lies: most come with the product, some only measurements read."""

from pathlib import Path

from ...core.toyworld.models import WEIGHTS

LAB_WEIGHTS = Path(__file__).parent / "weights"
_LAB_ONLY = ("probe", "synchronizer_without_mask_loss", "injector_aligned", "injector_average", "injector_stacked")


def weight_file(name: str, folder: Path = WEIGHTS) -> Path:
    """The file of the network `name` in a folder of toy world weights.

    The pack's own weights are split: the networks that only the laboratory reads lie with the laboratory. Any other
    folder, such as the output of a training, holds all of them.
    """
    place = LAB_WEIGHTS if folder == WEIGHTS and name in _LAB_ONLY else folder
    return place / f"{name}.safetensors"
