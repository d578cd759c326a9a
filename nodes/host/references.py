"""Reference pictures of a character as reference-conditioned editors read them: latents in the CONDITIONING.

The keys are the host's, those that its nodes Set Reference Latent and Edit Model Reference Method set.
"""

import logging
import math
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary

import comfy.model_management
import comfy.utils
import node_helpers
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor

from ...core.quoting import quote
from ..types import Cast, Conditioning

LATENTS, METHOD = "reference_latents", "reference_latents_method"
MODELS_OWN = "the model's own"
METHODS = (MODELS_OWN, "offset", "index", "index_timestep_zero", "uxo")
"""What the host's node Edit Model Reference Method writes into the CONDITIONING, or nothing."""
_PATCHES = 16
"""Sides are multiples of this many pixels, so that no family has to pad a patch."""
_MOST_SEEN = 3
"""Pictures that the host's text encoding for Qwen-Image-Edit takes."""


def encode_references(vae: Any, pictures: Tensor, megapixels: float, advance: Callable[[int], object]) -> list[Tensor]:
    """One latent per picture `(n, h, w, 3)` in [0, 1], scaled to a number of pixels whatever its size.

    Args:
        vae: The VAE of the identity generator.
        pictures: One or more of one size; the proportions stay, but for rounding to whole patches.
        megapixels: In units of 1024 x 1024 pixels.
        advance: Called with the number of pictures done.
    """
    ratio = vae.spacial_compression_encode()
    step = math.lcm(_PATCHES, ratio if isinstance(ratio, int) else 1)
    height, width = pictures.shape[1:3]
    scale = math.sqrt(megapixels * 1024 * 1024 / (height * width))
    sides = [max(step, round(side * scale / step) * step) for side in (width, height)]
    scaled = comfy.utils.common_upscale(pictures.movedim(-1, 1), *sides, "area", "disabled").movedim(1, -1)
    latents = []
    for picture in scaled.split(1):
        comfy.model_management.throw_exception_if_processing_interrupted()
        latents.append(vae.encode(picture[..., :3]))
        advance(1)
    return latents


def encode_words(clip: Any, text: str, pictures: Tensor | None) -> Conditioning:
    """A prompt as CLIP Text Encode encodes it, or with pictures as TextEncodeQwenImageEditPlus does.

    Raises:
        ValueError: If there are more pictures than that node takes, or this ComfyUI does not have it.
    """
    if pictures is None:
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))
    if len(pictures) > _MOST_SEEN:
        raise ValueError(
            f"Reference Conditioning: text_encoder is to see {len(pictures)} pictures, but takes at most {_MOST_SEEN}. "
            "Lower portraits, or choose prompt only."
        )
    try:
        node = import_module("comfy_extras.nodes_qwen").TextEncodeQwenImageEditPlus
    except (ImportError, AttributeError) as error:
        raise ValueError(
            "Reference Conditioning: this ComfyUI has no TextEncodeQwenImageEditPlus. Update it, or choose prompt only "
            "for text_encoder."
        ) from error
    shown = {f"image{number}": picture for number, picture in enumerate(pictures.split(1), start=1)}
    return node.execute(clip, text, None, **shown).result[0]


def with_references(conditioning: Conditioning, latents: list[Tensor], method: str) -> Conditioning:
    """The conditioning with references after those it has; `method` is one of `METHODS`."""
    found = node_helpers.conditioning_set_values(conditioning, {LATENTS: latents}, append=True)
    return found if method == MODELS_OWN else node_helpers.conditioning_set_values(found, {METHOD: method})


_warned: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
"""Which models were warned of; the log says it once for each."""


def warn_if_ignored(model: Any, cast: Cast) -> None:
    """Log, once for each model, that it ignores the references of the cast's conditioning.

    Args:
        model: The identity generator.
        cast: Who is drawn; a member's own MODEL counts for them.
    """
    for member in cast:
        network = (member.model or model).model.diffusion_model
        why = _why_ignored(network, (extras for _, extras in member.positive))
        if why and network not in _warned:
            _warned[network] = True
            logging.warning("The reference latents of %s are ignored: %s", quote(member.name), why)


def _why_ignored(network: Any, entries: Iterable[dict[str, Any]]) -> str:
    """Why a network ignores the references of a conditioning; empty if it reads them, or there are none."""
    given = [extras for extras in entries if extras.get(LATENTS)]
    if not given:
        return ""
    if isinstance(network, UNetModel):
        return "UNets (SD1.5, SDXL) have no place for them. Use a model for editing, such as Flux.1 Kontext."
    if getattr(network, "default_ref_method", "") is None and not all(METHOD in extras for extras in given):
        return (
            "this model (Krea 2) reads them only if it is said how. Set reference_method in Reference Conditioning to "
            "index_timestep_zero or index, or use Edit Model Reference Method."
        )
    return ""
