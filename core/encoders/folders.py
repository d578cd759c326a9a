"""Networks in transformers' folders: what is checked before they are opened, and pictures as they take them."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from ..detectors.files import require_package
from ..quoting import printable, quote, quote_all
from ..shapes import Float
from ..state_dict import WeightFileError

AT_ONCE = 16
"""How many pictures or texts go through a network in one call."""
_NEEDED = {
    "config.json": ("config.json",),
    "the weights (model.safetensors)": (
        "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
    ),
    "preprocessor_config.json": ("preprocessor_config.json", "processor_config.json"),
}  # fmt: skip
_TOKENIZER = {"the tokenizer (tokenizer.json, or vocab.json and merges.txt)": ("tokenizer.json", "vocab.json")}
_UNLEARNED = ("position_ids",)

Item = TypeVar("Item")


@contextmanager
def opened(folder: Path, what: str, kinds: Sequence[str], reads_text: bool = False) -> Iterator[Any]:
    """Around what loads from a folder: gives transformers, once the folder has the right files of the right kind.

    Args:
        folder: With config.json, weights and preprocessor_config.json.
        what: What belongs there, for messages.
        kinds: The `model_type` of config.json that will do.
        reads_text: Whether a tokenizer belongs there too. Without its files transformers makes an empty one.

    Raises:
        ModuleNotFoundError: If transformers is not installed; it says how to install it.
        FileNotFoundError: If a file is missing; it names the folder and the file.
        ValueError: If config.json is of another kind of model, or whatever the library says of a damaged file.
    """
    place = printable(str(folder))
    if (folder / "config.json").is_file() and (kind := _model_type(folder / "config.json")) not in kinds:
        raise WeightFileError(f"{place} holds a model of the kind {quote(kind)}; {what} was expected.")
    needed = {**_NEEDED, **_TOKENIZER} if reads_text else _NEEDED
    missing = [name for name, files in needed.items() if not any((folder / file).is_file() for file in files)]
    if missing:
        raise FileNotFoundError(
            f"{place} lacks {', '.join(missing)}; it must be a folder of {what} as transformers keeps them."
        )
    with require_package("transformers", f"reading {what}"):
        import transformers
    try:
        yield transformers
    except (WeightFileError, ModuleNotFoundError):
        raise
    except Exception as error:  # the library raises nearly everything there is on damaged files
        raise WeightFileError(
            f"{place} cannot be loaded as {what} ({type(error).__name__}: {printable(str(error), 300)})."
        ) from error


def model_of(kind: Any, folder: Path, what: str) -> Any:
    """A network with every one of its weights from the folder, in float32, which makes no gradients.

    Raises:
        ValueError: If tensors are missing or of another shape; the library would fill them with random numbers.
    """
    model, notes = kind.from_pretrained(
        folder, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
    )
    odd = [str(each[0]) if isinstance(each, tuple) else str(each) for each in notes.get("mismatched_keys", ())]
    gaps = sorted({*notes["missing_keys"], *odd})
    gaps = [key for key in gaps if not key.endswith(_UNLEARNED)]
    if gaps:
        raise WeightFileError(
            f"The weights in {printable(str(folder))} are not those of a whole {what}: {quote_all(gaps, 3)} "
            "are missing or of another shape. Fetch the files again."
        )
    return model.float().eval().requires_grad_(False)


def pil_images(images: Sequence[Float[Tensor, "_ _ 3"]]) -> list[Image.Image]:
    """Pictures in [0, 1] as 8-bit ones."""
    levels = [(each.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).numpy() for each in images]
    return [Image.fromarray(each) for each in levels]


def batches(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """The items in their order, `AT_ONCE` at a time."""
    for first in range(0, len(items), AT_ONCE):
        yield items[first : first + AT_ONCE]


def vectors_of(output: Any) -> Float[Tensor, "n d"]:
    """The projected vectors that get_image_features gives: a tensor before transformers 5, an object since."""
    return (output if isinstance(output, Tensor) else output.pooler_output).float().cpu()


def _model_type(path: Path) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightFileError(f"{printable(str(path))} is not JSON: {printable(str(error), 200)}.") from error
    return content.get("model_type") if isinstance(content, dict) else None
