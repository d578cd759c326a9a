"""A checkpoint in a single file, compared with the networks of its configuration before diffusers converts it.

diffusers itself leaves out what a file lacks, and does not report what else is in it. Here its own converters run on
tensors without numbers, and what comes out must be exactly the networks' tensors.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from ..core.quoting import printable
from ..core.state_dict import check_tensors, refuse_gaps, sizes_from
from .components import loading

_OPEN_CLIP = "conditioner.embedders.1.model."
_OPEN_CLIP_NAMES = r"(transformer\..*|positional_embedding|token_embedding\.weight|ln_final\.\w+|text_projection)"
_UNREAD = r"position_ids$|logit_scale$|^first_stage_model\.(loss|model_ema)\.|\.transformer\.text_projection\.weight$"
"""What trainers left in such files in addition to the networks that are read from them."""


def check_single_file(path: Path, tensors: Mapping[str, Any], config: Path, two_text_encoders: bool) -> None:
    """Refuse a file that has not exactly the tensors of UNet, VAE and text encoders; other things in it do not matter.

    Args:
        path: For the messages.
        tensors: What the file holds, on the meta device.
        config: A diffusers folder, of which the configurations are read.
        two_text_encoders: As SDXL has.

    Raises:
        ValueError: If tensors are missing, are of another shape or belong to none of them.
    """
    held = {key: value for key, value in tensors.items() if isinstance(value, Tensor)}
    kept = {key: value for key, value in held.items() if not re.search(_UNREAD, key)}
    for part, kind, convert, prefix in (
        ("unet", UNet2DConditionModel, convert_ldm_unet_checkpoint, "model.diffusion_model."),
        ("vae", AutoencoderKL, convert_ldm_vae_checkpoint, "first_stage_model."),
    ):
        with loading(config / part, f"the configuration of a {part}"):
            settings: Any = kind.load_config(config, subfolder=part, local_files_only=True)
            network = _empty(lambda kind=kind, settings=settings: kind.from_config(settings))
        converted = _compare(path, part, lambda convert=convert, settings=settings: convert(kept, settings), network)
        read = {id(each) for value in converted.values() for each in (value, value._base)}
        strangers = [key for key, value in kept.items() if key.startswith(prefix) and id(value) not in read]
        refuse_gaps((), strangers, (), printable(str(path)), f"the {part} of the configuration")
    _compare(path, "text_encoder", lambda: convert_ldm_clip_checkpoint(kept), _text_encoder(config, CLIPTextModel))
    if two_text_encoders:
        second = _text_encoder(config, CLIPTextModelWithProjection, "text_encoder_2")
        _compare(
            path, "text_encoder_2", lambda: convert_open_clip_checkpoint(second, dict(kept), prefix=_OPEN_CLIP), second
        )
        names = [key for key in kept if key.startswith(_OPEN_CLIP)]
        strangers = [key for key in names if not re.fullmatch(_OPEN_CLIP_NAMES, key.removeprefix(_OPEN_CLIP))]
        refuse_gaps((), strangers, (), printable(str(path)), "the text_encoder_2 of the configuration")


def _compare(
    path: Path, part: str, convert: Callable[[], Mapping[str, Tensor]], network: nn.Module
) -> dict[str, Tensor]:
    """What a converter makes of the file, which must be the network's tensors."""
    name, what, expected = printable(str(path)), f"the {part} of the configuration", network.state_dict()
    with torch.enable_grad(), sizes_from(name, what):  # with gradients, views know what they are views of
        converted = dict(convert())
    if not any(key.startswith("text_model.") for key in expected):
        converted = {key.removeprefix("text_model."): value for key, value in converted.items()}
    check_tensors(converted, expected, name, what)
    return converted


def _text_encoder(config: Path, kind: Any, part: str = "text_encoder") -> nn.Module:
    with loading(config / part, f"the configuration of a {part}"):
        settings = kind.config_class.from_pretrained(config, subfolder=part, local_files_only=True)
        return _empty(lambda: kind(settings))


def _empty(build: Callable[[], Any]) -> Any:
    with torch.device("meta"):
        return build()
