"""Checkpoints from local files: the toy world, a diffusers folder, a single SD1.5 or SDXL file. Nothing is fetched."""

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from ..core.lora_file import check_lora, lora_pairs
from ..core.quoting import printable, quote, quote_all
from ..core.state_dict import WeightFileError, named, read_shapes, read_tensors, refuse_gaps, tensors_of
from ..core.toyworld.models import WEIGHTS
from .components import layer_shapes, load_network, loading, read_json
from .option_values import TOYWORLD
from .single_file import check_single_file
from .toyworld_files import is_toyworld
from .toyworld_pipeline import load_toyworld

PIPELINES = {each.__name__: each for each in (StableDiffusionPipeline, StableDiffusionXLPipeline)}
_FAMILIES = {"StableDiffusionPipeline": "SD1.5", "StableDiffusionXLPipeline": "SDXL"}
_SIGNATURES = {
    "StableDiffusionPipeline": "cond_stage_model.transformer.",
    "StableDiffusionXLPipeline": "conditioner.embedders.1.",
}
_SINGLE_FILES = (".safetensors", ".ckpt")
_CONFIG_FILES = ("scheduler/scheduler_config.json", "unet/config.json", "vae/config.json", "text_encoder/config.json")
_CONFIG_FILES_SDXL = ("text_encoder_2/config.json",)
_PARTS = {
    "StableDiffusionPipeline": ("unet", "vae", "text_encoder"),
    "StableDiffusionXLPipeline": ("unet", "vae", "text_encoder", "text_encoder_2"),
}
_UNUSED = {
    "StableDiffusionPipeline": {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
    "StableDiffusionXLPipeline": {},
}
_ADAPTER = "merged"
_OTHER_ADAPTERS = r"\.lokr_|lora_magnitude_vector|\.alpha$"

Pipeline = StableDiffusionPipeline | StableDiffusionXLPipeline


def locate(checkpoint: str) -> Path:
    """The path of a checkpoint.

    Raises:
        FileNotFoundError: If there is nothing there.
    """
    path = WEIGHTS if checkpoint == TOYWORLD else Path(checkpoint)
    if not path.exists():
        raise FileNotFoundError(
            f"There is no checkpoint {quote(checkpoint)}: give a .safetensors or .ckpt file, a diffusers folder, or "
            f'"{TOYWORLD}".'
        )
    return path


def load_checkpoint(
    checkpoint: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    config: Path | None = None,
    loras: Sequence[tuple[Path, int | float]] = (),
) -> Pipeline:
    """Load a checkpoint with its LoRAs merged; the VAE stays in float32, in which none overflows.

    Args:
        checkpoint: "toyworld", a folder of toy world weights, a diffusers folder, or a single file.
        device: Where it runs.
        dtype: The number type of the UNet and the text encoders.
        config: For a single file: a diffusers folder of the same family, of which only the .json files and the
            tokenizers are read (a single file does not hold them).
        loras: Files and strengths.

    Raises:
        FileNotFoundError: If a file or folder is missing; the message says which and how to give it.
        ValueError: If something there is not what it should be.
    """
    path = locate(checkpoint)
    if is_toyworld(path):
        pipe: Any = load_toyworld(path)
    elif path.is_dir():
        pipe = _load_folder(path, dtype)
    else:
        pipe = _load_single_file(path, dtype, config)
    for file, strength in loras:
        merge_lora(pipe, file, strength)
    for part in (pipe.unet, pipe.text_encoder):
        if part.dtype != dtype:  # the toy world's
            part.to(dtype)
    if pipe.vae.dtype != torch.float32:
        pipe.vae.to(torch.float32)
    pipe = pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _pipeline_class(folder: Path) -> Any:
    """Which pipeline a diffusers folder is for."""
    index, where = folder / "model_index.json", printable(str(folder))
    if not index.is_file():
        raise FileNotFoundError(
            f"{where} is no diffusers folder (it has no model_index.json), nor one of toy world weights."
        )
    name = read_json(index, "the index of a pipeline").get("_class_name")
    if not isinstance(name, str) or name not in PIPELINES:
        raise ValueError(f"{where} is for {quote(name)}; supported are {', '.join(PIPELINES)}.")
    return PIPELINES[name]


def _load_folder(folder: Path, dtype: torch.dtype) -> Any:
    """A pipeline from a diffusers folder, each network with exactly the weights of its own folder."""
    kind = _pipeline_class(folder)
    index = read_json(folder / "model_index.json", "the index of a pipeline")
    parts = {
        part: load_network(_part_class(folder, part, index.get(part)), folder / part, f"the {part}", dtype)
        for part in _PARTS[kind.__name__]
    }
    with loading(folder, f"a {kind.__name__}"):
        return kind.from_pretrained(folder, dtype=dtype, local_files_only=True, **parts, **_UNUSED[kind.__name__])


def _part_class(folder: Path, part: str, entry: object) -> Any:
    """The class of a network, by its entry in the index: a library and a name."""
    if not (folder / part / "config.json").is_file():
        raise FileNotFoundError(f"{printable(str(folder))} has no {part}/config.json; a whole diffusers folder has.")
    known = ("diffusers", "transformers")
    library, name = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
    kind = getattr(import_module(library), str(name), None) if library in known else None
    if not isinstance(kind, type) or not issubclass(kind, torch.nn.Module):
        raise WeightFileError(
            f"{printable(str(folder / 'model_index.json'))} says that the {part} is {quote(entry)}; expected a network "
            f"of {' or '.join(known)}."
        )
    return kind


def _load_single_file(path: Path, dtype: torch.dtype, config: Path | None) -> Any:
    if path.suffix not in _SINGLE_FILES:
        raise ValueError(
            f"{printable(str(path))} is no checkpoint: expected a {' or '.join(_SINGLE_FILES)} file, or a folder."
        )
    tensors = _shapes_in(path)
    name = _family(path, tensors)
    config = _check_config(path, config, name)
    check_single_file(path, tensors, config, len(_PARTS[name]) == 4)
    with loading(path, f"a {_FAMILIES[name]} checkpoint"):
        return PIPELINES[name].from_single_file(
            str(path), config=str(config), dtype=dtype, local_files_only=True, safety_checker=None
        )


def _shapes_in(path: Path) -> dict[str, Any]:
    """The tensors of a single file without their numbers; in a .ckpt they are under the key `state_dict`."""
    expected = "an SD1.5 or SDXL checkpoint"
    content = read_shapes(path, expected)
    return named(content.get("state_dict", content), path, expected)


def _family(path: Path, tensors: Iterable[str]) -> str:
    """The pipeline that a single file's keys belong to."""
    keys = list(tensors)
    for name, signature in _SIGNATURES.items():
        if any(key.startswith(signature) for key in keys):
            return name
    raise ValueError(
        f"{printable(str(path))} is neither an SD1.5 nor an SDXL checkpoint: it has "
        f"{quote_all(sorted(keys), 3) or 'no tensors'}."
    )


def _check_config(path: Path, config: Path | None, name: str) -> Path:
    """The folder with the configurations and tokenizers that a single file lacks; says which are missing."""
    needed = ["tokenizer"] + (["tokenizer_2"] if name == "StableDiffusionXLPipeline" else [])
    family = _FAMILIES[name]
    how = (
        f"{printable(path.name)} is an {family} checkpoint in a single file, which holds no tokenizer and no "
        f"configuration. Give a diffusers folder of an {family} model with --config DIR; only its model_index.json, "
        f"the config .json files in its subfolders and {' and '.join(needed)} are read"
    )
    if config is None:
        raise FileNotFoundError(f"{how}.")
    files = ["model_index.json", *_CONFIG_FILES, *(_CONFIG_FILES_SDXL if len(needed) == 2 else ())]
    missing = [file for file in files if not (config / file).is_file()]
    missing += [folder for folder in needed if not any((config / folder).glob("*.json"))]
    if missing:
        raise FileNotFoundError(f"{how}. {printable(str(config))} lacks {', '.join(missing)}.")
    if _pipeline_class(config) is not PIPELINES[name]:
        raise ValueError(f"{how}. {printable(str(config))} is of another family ({_pipeline_class(config).__name__}).")
    return config


def merge_lora(pipe: Any, path: Path, strength: int | float) -> None:
    """Merge a LoRA file into the weights.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or has tensors that fit no layer or lack their counterpart.
    """
    where = printable(str(path))
    if not path.exists():
        raise FileNotFoundError(f"There is no LoRA file {where}.")
    weights = tensors_of(read_tensors(path, "a LoRA"), where)
    before = {name: type(module) for name, module in pipe.unet.named_modules()}
    try:
        config = {"unet_config": pipe.unet.config} if isinstance(pipe, StableDiffusionXLPipeline) else {}
        converted = pipe.lora_state_dict(dict(weights), **config)[0]
        _check_merged(pipe, converted, where)
        pipe.load_lora_weights(weights, adapter_name=_ADAPTER)
    except WeightFileError:
        raise
    except Exception as error:  # the converters of the many formats raise nearly everything there is
        raise WeightFileError(
            f"The LoRA {where} does not fit this checkpoint ({type(error).__name__}: {printable(str(error), 300)})."
        ) from error
    if {name: type(module) for name, module in pipe.unet.named_modules()} == before:
        raise WeightFileError(f"The LoRA {where} changes no layer of this checkpoint's UNet; is it for another family?")
    _check_taken(pipe, converted, where)
    pipe.fuse_lora(lora_scale=strength)
    pipe.unload_lora_weights()


def _check_merged(pipe: Any, converted: Mapping[str, Any], where: str) -> None:
    """Refuse a LoRA, in diffusers' names, of which something is missing or fits no layer of the UNet."""
    plain = {key: value for key, value in converted.items() if not re.search(_OTHER_ADAPTERS, key)}
    for part in _lora_parts(pipe):
        own = {key: value for key, value in plain.items() if key.startswith(f"{part}.")}
        if part == "unet" and own:
            check_lora(own, layer_shapes(pipe.unet), where, throughout=False)
        else:
            lora_pairs(own, where, part)
    strangers = [key for key in plain if key.partition(".")[0] not in _lora_parts(pipe)]
    refuse_gaps((), strangers, (), f"The LoRA {where}", "the networks of this checkpoint")


def _check_taken(pipe: Any, converted: Mapping[str, Any], where: str) -> None:
    """Refuse a LoRA of which the networks took more or fewer tensors than it has: the rest would be random."""
    for part in _lora_parts(pipe):
        held = [key for key in converted if key.startswith(f"{part}.") and not key.endswith(".alpha")]
        taken = [name for name, _ in getattr(pipe, part).named_parameters() if f".{_ADAPTER}." in name]
        if len(held) != len(taken):
            raise WeightFileError(
                f"The LoRA {where} has {len(held)} tensors for the {part}, whose layers take {len(taken)}: it is for "
                f"another checkpoint, or incomplete. Its first are {quote_all(sorted(held), 3) or 'none'}."
            )


def _lora_parts(pipe: Any) -> list[str]:
    return [part for part in ("unet", "text_encoder", "text_encoder_2") if hasattr(pipe, part)]
