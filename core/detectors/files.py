"""Reading weight files in their authors' format, and saying what is wrong with one that cannot be used."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from ..quoting import printable, quote_all
from ..state_dict import WeightFileError, read_tensors, tensors_of

StateDict = dict[str, Tensor]

_WHOLE = "relative_position_index"  # what GroundingDINO's files hold of whole numbers

# A key that only this kind of file has, and the kind.
SIGNATURES = {
    "transformer.encoder.fusion_layers.0.gamma_v": "GroundingDINO",
    "image_encoder.pos_embed": "SAM",
    "model.encoder.layers.0.fusion_layer.vision_param": "GroundingDINO in the format of transformers",
    "vision_encoder.pos_embed": "SAM in the format of transformers",
    "image_encoder.trunk.patch_embed.proj.weight": "SAM 2",
    "model.diffusion_model.input_blocks.0.0.weight": "a Stable Diffusion checkpoint",
}


def require_file(path: Path, model: str, folder: str, names: str) -> None:
    """Check that the weights exist.

    Args:
        path: Where they should be.
        model: What they are, for the message.
        folder: The folder under models/ they belong in, for the message.
        names: The files that would do, for the message.

    Raises:
        FileNotFoundError: In one sentence: what is missing, where it belongs and how to get it there.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{model} is missing: there is no file {printable(str(path))}; put {names} into models/{folder}."
        )


@contextmanager
def require_package(package: str, purpose: str) -> Iterator[None]:
    """Around an import: say what to install if a package is missing.

    Args:
        package: What to install, as pip calls it.
        purpose: What it is needed for, for the message.

    Raises:
        ModuleNotFoundError: In one sentence: what is missing, for what, and how to get it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"The package {error.name} is missing, which {purpose} needs: run pip install {package}."
        ) from error


def read_state_dict(path: Path, expected: str) -> StateDict:
    """Read tensors by name, on the CPU and in float32, without running code from the file.

    Args:
        path: A `.safetensors`, or a pickled state dict, bare or under the key `model`. A `module.` before every name,
            left by data-parallel training, is taken off.
        expected: "GroundingDINO" or "SAM".

    Raises:
        ValueError: If the file cannot be read or holds another kind of model.
    """
    name = printable(str(path))
    content = read_tensors(path, f"{expected} in its authors' format")
    state: Any = content.get("model", content)
    found = describe(state)
    if found != expected:
        raise WeightFileError(f"{name} holds {found}; {expected} in its authors' format was expected.")
    plain = tensors_of({key.removeprefix("module."): value for key, value in state.items()}, name)
    whole = [key for key, value in plain.items() if not (value.is_floating_point() or key.endswith(_WHOLE))]
    if whole:
        raise WeightFileError(
            f"{name} holds whole numbers where {expected} has fractions: {quote_all(sorted(whole), 3)}."
        )
    return {key: value.float() if value.is_floating_point() else value for key, value in plain.items()}


def describe(state: object) -> str:
    """Name the model a state dict belongs to, or show some of its keys."""
    if not isinstance(state, Mapping) or not state:
        return "no tensors"
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        return "something other than named tensors"
    keys = {key.removeprefix("module.") for key in state}
    for signature, kind in SIGNATURES.items():
        if signature in keys:
            return kind
    return f"an unknown model with tensors such as {quote_all(sorted(keys)[:3])}"
