"""Reading weight files in their authors' format, and saying what is wrong with one that cannot be used."""

import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

StateDict = dict[str, Tensor]

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
    if not path.is_file():
        raise FileNotFoundError(f"{model} is missing: there is no file {path}; put {names} into models/{folder}.")


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
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _load_pickle(path)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, OSError, EOFError) as error:
        raise ValueError(
            f"{path} cannot be read as weights ({type(error).__name__}), {expected} was expected: it is incomplete or "
            "not a plain file of weights, so fetch the authors' file again."
        ) from error
    state: Any = content.get("model", content)
    found = describe(state)
    if found != expected:
        raise ValueError(f"{path} holds {found}; {expected} in its authors' format was expected.")
    return {
        key.removeprefix("module."): value.float() if value.is_floating_point() else value
        for key, value in state.items()
    }


def describe(state: object) -> str:
    """Name the model a state dict belongs to, or show some of its keys."""
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        return "something else than named tensors"
    keys = {key.removeprefix("module.") for key in state}
    for signature, kind in SIGNATURES.items():
        if signature in keys:
            return kind
    return f"an unknown model with tensors such as {sorted(keys)[:3]}"


def shape_of(state: Mapping[str, Tensor], key: str) -> tuple[int, ...]:
    """The shape of a tensor the architecture is read from.

    Raises:
        ValueError: If the file lacks it.
    """
    if key not in state:
        raise ValueError(f"The file lacks the tensor {key}: the download may be incomplete, so fetch it again.")
    return tuple(state[key].shape)


def count_parts(state: Iterable[str], prefix: str) -> int:
    """How many numbered parts follow `prefix`: one more than the largest number right after it.

    Raises:
        ValueError: If there are none.
    """
    numbers = [int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix)]
    if not numbers:
        raise ValueError(f"The file lacks all tensors {prefix}*: the download may be incomplete, so fetch it again.")
    return 1 + max(numbers)


def require_same_names(missing: Iterable[str], unexpected: Iterable[str], path: Path, model: str) -> None:
    """Refuse a file whose tensors are not exactly those of the model.

    Raises:
        ValueError: With the numbers, and up to three names of each sort.
    """
    missing, unexpected = sorted(missing), sorted(unexpected)
    if missing or unexpected:
        raise ValueError(
            f"{path} does not fit {model}: {len(missing)} tensors are missing {missing[:3]} and {len(unexpected)} are "
            f"not part of it {unexpected[:3]}; fetch the authors' file again."
        )


def _load_pickle(path: Path) -> dict[str, Any]:
    content = torch.load(path, map_location="cpu", weights_only=True)
    return content if isinstance(content, dict) else {}
