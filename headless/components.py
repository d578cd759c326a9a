"""Parts of a pipeline from their folders, by diffusers' and transformers' loaders, which fill gaps with random numbers.

Every part is compared with its files, so that missing, unexpected or mis-shaped tensors are refused by file and name.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from torch import Tensor, nn

from ..core.quoting import printable, quote, quote_all
from ..core.state_dict import WeightFileError, read_shapes, refuse_gaps, refuse_notes

_NAMES = ("diffusion_pytorch_model", "model", "pytorch_model")
_UNLEARNED = r"(^|\.)position_ids$"
_DTYPE = "dtype" if tuple(map(int, transformers.__version__.split(".")[:2])) >= (4, 56) else "torch_dtype"


@contextmanager
def loading(path: Path, what: str) -> Iterator[None]:
    """Around a loader of diffusers or transformers: whatever it raises names the file or folder.

    Args:
        path: What is loaded.
        what: What messages call it.

    Raises:
        ValueError: In place of the library's own error.
    """
    try:
        yield
    except WeightFileError:
        raise
    except ModuleNotFoundError:  # of a package that is to be installed
        raise
    except Exception as error:  # the libraries raise nearly everything there is on damaged files
        raise WeightFileError(
            f"{printable(str(path))} cannot be loaded as {what} ({type(error).__name__}: {printable(str(error), 300)})."
        ) from error


def load_network(
    kind: Any, folder: Path, what: str, dtype: torch.dtype | None = None, strangers: str = _UNLEARNED
) -> Any:
    """A network from its folder, with every one of its weights from there.

    Args:
        kind: A class of diffusers or transformers.
        folder: With config.json and the weights.
        what: What messages call it.
        dtype: The number type of the weights; None for the files'.
        strangers: A pattern of names of further tensors that the files may have.

    Raises:
        ValueError: If a file cannot be read, or tensors are missing, do not belong to it, are of another shape, or hold
            whole numbers in place of fractions.
    """
    is_transformer = issubclass(kind, transformers.PreTrainedModel)
    options: dict[str, Any] = {_DTYPE if is_transformer else "torch_dtype": dtype} if dtype else {}
    if is_transformer:
        options["ignore_mismatched_sizes"] = True  # they come with the notes, under their names
    with loading(folder, what):
        _check_files(folder, what)
        network, notes = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True, **options)
    files = ", ".join(file.name for file in list(_weight_files(folder))[:2])
    ours = [key for key in notes["unexpected_keys"] if not re.search(f"{_UNLEARNED}|{strangers}", key)]
    refuse_notes({**notes, "unexpected_keys": ours}, printable(f"{folder} ({files})"), what)
    return network.eval()


def clip_tower(kind: Any, config: Any, weights: Mapping[str, Tensor]) -> Any:
    """One of CLIP's towers of transformers around weights that were compared with `core.clip_shapes`.

    Args:
        kind: CLIPTextModel or CLIPVisionModel.
        config: Its sizes.
        weights: In the names of the files; transformers 5 leaves the prefix out of its own.
    """
    with init_empty_weights(include_buffers=False):
        tower = kind(config)
    own = tower.state_dict()
    tower.load_state_dict(
        {key if key in own else key.partition(".")[2]: value for key, value in weights.items()}, assign=True
    )
    return tower.eval()


def layer_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of a network's weights of two axes and more by the names of its layers."""
    weights = {name.removesuffix(".weight"): value for name, value in network.named_parameters() if value.ndim > 1}
    return {name: tuple(value.shape) for name, value in weights.items()}


def read_json(path: Path, what: str) -> dict[str, Any]:
    """An object from a JSON file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not JSON, or not an object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {printable(str(path))}; {what} was expected there.")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise WeightFileError(f"{printable(str(path))} is not JSON: {printable(str(error), 200)}.") from error
    if not isinstance(content, dict):
        raise WeightFileError(f"{printable(str(path))} holds {quote(content)}; {what} was expected, a JSON object.")
    return content


def _check_files(folder: Path, what: str) -> None:
    """Refuse files of weights that cannot be read, hold whole numbers, or lack what their index says is in them."""
    for file, promised in _weight_files(folder).items():
        name, shapes = printable(str(file)), read_shapes(file, what)
        refuse_gaps(promised - shapes.keys(), (), (), name, "the index of its folder")
        odd = [
            key
            for key, tensor in shapes.items()
            if isinstance(tensor, Tensor) and not tensor.is_floating_point() and not re.search(_UNLEARNED, key)
        ]
        if odd:
            listed = quote_all(sorted(odd), 3)
            raise WeightFileError(f"{name} holds whole numbers where {what} has fractions: {listed}.")


def _weight_files(folder: Path) -> dict[Path, set[str]]:
    """The files that the libraries read a part's weights from, and the tensors that an index says are in each."""
    for ending in ("safetensors", "bin"):
        for name in _NAMES:
            file = folder / f"{name}.{ending}"
            if file.is_file():
                return {file: set()}
            index = folder / f"{name}.{ending}.index.json"
            if index.is_file():
                return _shards(index)
    return {}


def _shards(index: Path) -> dict[Path, set[str]]:
    places: Any = read_json(index, "an index of files of weights").get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise WeightFileError(f"{printable(str(index))} has no weight_map that says which tensor is in which file.")
    shards: dict[Path, set[str]] = {}
    for key, name in sorted(places.items()):
        shards.setdefault(index.parent / name, set()).add(key)
    return shards
