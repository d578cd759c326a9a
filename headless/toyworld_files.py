"""Where the toy world's weights are, and which of them a run reads; without the imports that loading them takes."""

from pathlib import Path

from ..core.toyworld.models import WEIGHTS
from .option_values import TOYWORLD

READ_BY = {
    "checkpoint": ("unet.safetensors", "vae.safetensors", "text_encoder.safetensors", "tokenizer"),
    "photomaker": ("photomaker.safetensors",),
    "detector": ("detector.safetensors",),
    "adapter": ("injector.safetensors",),
    "image_encoder": ("photomaker.safetensors",),
    "face_models": ("detector.safetensors", "identity_encoder.safetensors"),
}
"""By setting; the folder holds more, which no picture depends on."""


def is_toyworld(folder: Path) -> bool:
    """Whether a folder is laid out as the toy world's weights are."""
    return (folder / "unet.safetensors").is_file() and (folder / "text_encoder.safetensors").is_file()


def folder_of(checkpoint: str) -> Path:
    """What "toyworld" means together with this checkpoint: its own folder if it is one, or the weights of the pack."""
    folder = Path(checkpoint)
    return folder if checkpoint != TOYWORLD and is_toyworld(folder) else WEIGHTS


def folder_read(checkpoint: str, setting: str) -> Path:
    """The folder from which a setting that is "toyworld" is read; what adapters need comes from the pack's own."""
    return WEIGHTS if setting in ("adapter", "image_encoder", "face_models") else folder_of(checkpoint)
