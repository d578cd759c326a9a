"""Checkpoints from local files: the toy world, a diffusers folder, a single SD1.5 or SDXL file. Nothing is fetched."""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ..core.toyworld.models import WEIGHTS
from .option_values import TOYWORLD
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

Pipeline = StableDiffusionPipeline | StableDiffusionXLPipeline


def locate(checkpoint: str) -> Path:
    """The path of a checkpoint.

    Raises:
        FileNotFoundError: If there is nothing there.
    """
    path = WEIGHTS if checkpoint == TOYWORLD else Path(checkpoint)
    if not path.exists():
        raise FileNotFoundError(
            f'There is no checkpoint "{checkpoint}": give a .safetensors or .ckpt file, a diffusers folder, or '
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
        dtype: Of the UNet and the text encoders.
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
        pipe = _pipeline_class(path).from_pretrained(path, dtype=dtype, local_files_only=True)
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
    index = folder / "model_index.json"
    if not index.is_file():
        raise FileNotFoundError(
            f"{folder} is no diffusers folder (it has no model_index.json), nor one of toy world weights."
        )
    name = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    if name not in PIPELINES:
        raise ValueError(f"{folder} is for {name}; supported are {', '.join(PIPELINES)}.")
    return PIPELINES[name]


def _load_single_file(path: Path, dtype: torch.dtype, config: Path | None) -> Any:
    if path.suffix not in _SINGLE_FILES:
        raise ValueError(f"{path} is no checkpoint: expected a {' or '.join(_SINGLE_FILES)} file, or a folder.")
    name = _family(path)
    _check_config(path, config, name)
    return PIPELINES[name].from_single_file(
        str(path), config=str(config), dtype=dtype, local_files_only=True, safety_checker=None
    )


def _family(path: Path) -> str:
    """The pipeline that a single file's keys belong to."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                keys = list(file.keys())
        else:
            content = torch.load(path, map_location="meta", weights_only=True)
            keys = list(content.get("state_dict", content))
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as weights ({type(error).__name__}); is it complete?") from error
    for name, signature in _SIGNATURES.items():
        if any(key.startswith(signature) for key in keys):
            return name
    raise ValueError(f"{path} is neither an SD1.5 nor an SDXL checkpoint: it has keys such as {sorted(keys)[:3]}.")


def _check_config(path: Path, config: Path | None, name: str) -> None:
    """A single file needs configurations and tokenizers beside it; say which are missing."""
    needed = ["tokenizer"] + (["tokenizer_2"] if name == "StableDiffusionXLPipeline" else [])
    family = _FAMILIES[name]
    how = (
        f"{path.name} is an {family} checkpoint in a single file, which holds no tokenizer and no configuration. Give "
        f"a diffusers folder of an {family} model with --config DIR; only its model_index.json, the config .json files "
        f"in its subfolders and {' and '.join(needed)} are read"
    )
    if config is None:
        raise FileNotFoundError(f"{how}.")
    files = ["model_index.json", *_CONFIG_FILES, *(_CONFIG_FILES_SDXL if len(needed) == 2 else ())]
    missing = [file for file in files if not (config / file).is_file()]
    missing += [folder for folder in needed if not any((config / folder).glob("*.json"))]
    if missing:
        raise FileNotFoundError(f"{how}. {config} lacks {', '.join(missing)}.")
    if _pipeline_class(config) is not PIPELINES[name]:
        raise ValueError(f"{how}. {config} is of another family ({_pipeline_class(config).__name__}).")


def merge_lora(pipe: Any, path: Path, strength: int | float) -> None:
    """Merge a LoRA file into the weights."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no LoRA file {path}.")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or it is damaged: {error}") from error
    before = {name: type(module) for name, module in pipe.unet.named_modules()}
    try:
        pipe.load_lora_weights(weights, adapter_name="lora")
    except (ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"The LoRA {path.name} does not fit this checkpoint: {error}") from error
    if {name: type(module) for name, module in pipe.unet.named_modules()} == before:
        raise ValueError(f"The LoRA {path.name} changes no layer of this checkpoint's UNet; is it for another family?")
    pipe.fuse_lora(lora_scale=strength)
    pipe.unload_lora_weights()
