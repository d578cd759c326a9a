"""What a character's prompt carries, cut to the part of the picture that the identity generator sees of it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import comfy.conds
import comfy.controlnet
import comfy.model_base
import comfy.utils
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...core.quoting import quote
from ...core.region import Region
from .id_injection import INJECTOR
from .miswiring import SHARED_ATTENTION
from .unet_hooks import OUR_OPTIONS

_UNKNOWN_STEP = 8
"""For networks that do not say how large their patches are."""
_PIXELS = 8
"""Pixels to a latent cell, as the host counts them in SDXL's sizes and in pictures that have no other size."""

_PICTURES = ("mask", "concat_latent_image", "concat_mask", "noise_concat")
"""What is laid out as the latent is, in cells or in pixels, and is cut."""
_AREAS = ("area", "set_area_to_bounds", "gligen")
"""What names places of the whole picture."""
_PLACELESS = {
    *("cross_attn", "cross_attn_controlnet", "pooled_output", "attention_mask", "attention_mask_img_shape"),
    *("conditioning_llama3", "conditioning_byt5small", "conditioning_mt5xl", "attention_mask_mt5xl", "t5xxl_ids"),
    *("t5xxl_weights", "text_input_ids", "unclip_conditioning", "reference_latents", "reference_latents_text_embeds"),
}
"""Tensors that mean the same whatever part of the picture is drawn; references stay whole."""
_PLACELESS_PATCHES = {"UsoStyleProjectorPatch"}
_PATCHES_WITH_PICTURES = ("comfy_extras.nodes_model_patch", "comfy.ldm.anima.lllite")
"""Modules of the host whose patches of a MODEL hold a picture that is laid out as the whole latent."""
_SIZES = ("width", "height", "crop_w", "crop_h", "target_width", "target_height")


def cells_per_step(model: Any) -> int:
    """The cells by which a region of a MODEL's latents begins and ends: its patch, or a UNet's whole downsampling."""
    network = model.model.diffusion_model
    if isinstance(network, UNetModel):
        return 2 ** (len(network.channel_mult) - 1)
    sizes = [getattr(network, name) for name in ("patch_size", "patch_spatial", "patch") if hasattr(network, name)]
    flat = [side for size in sizes for side in (size if isinstance(size, Sequence) else [size])]
    return math.lcm(*flat) if flat and all(isinstance(side, int) for side in flat) else _UNKNOWN_STEP


def check_regional(where: str, name: str, model: Any, prompts: Sequence[Any]) -> None:
    """Refuse what cannot be cut to a region.

    Args:
        where: The frame, for the message.
        name: The character.
        model: The MODEL that draws them.
        prompts: The entries of their CONDITIONINGs.

    Raises:
        ValueError: If a prompt or the MODEL holds what is laid out for the whole picture and cannot be cut.
    """
    for what in (*_whole_in_model(model), *_whole_in_prompt(prompts)):
        raise ValueError(
            f"{where}: {quote(name)} has {what}, which is laid out for the whole picture and cannot be cut to a "
            "region. Leave it out, or switch region off."
        )


def _whole_in_prompt(conditioning: Sequence[Any]) -> Iterator[str]:
    for _, extras in conditioning:
        for key, value in extras.items():
            if key in _AREAS and value:
                yield f"{quote(key)} in the prompt"
            elif key == "model_conds":
                yield from (f"{quote(each)} in the prompt" for each in value if _is_of_noise_shape(value[each]))
            elif key not in (*_PICTURES, *_PLACELESS) and not key.startswith(OUR_OPTIONS) and _has_tensors(value):
                yield f"{quote(key)} in the prompt"
        control = extras.get("control")
        while control is not None:
            if type(control).__module__ != comfy.controlnet.__name__:
                yield f"the ControlNet {quote(type(control).__name__)} of another pack"
            control = control.previous_controlnet


def _whole_in_model(model: Any) -> Iterator[str]:
    for key, node in ((INJECTOR, "Shuffled ID Injector"), (SHARED_ATTENTION, "AMSA Model Patch")):
        if model.get_wrappers(WrappersMP.OUTER_SAMPLE, key):
            yield f"a MODEL from {node}"
    for patches in model.model_options.get("transformer_options", {}).get("patches", {}).values():
        for kind in map(type, patches):
            if kind.__module__ in _PATCHES_WITH_PICTURES and kind.__name__ not in _PLACELESS_PATCHES:
                yield f"a MODEL with the patch {quote(kind.__name__)}"


def _is_of_noise_shape(cond: Any) -> bool:
    return isinstance(cond, comfy.conds.CONDNoiseShape)


def _has_tensors(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_tensors, value.values()))
    return isinstance(value, Tensor) or isinstance(value, (list, tuple)) and any(map(_has_tensors, value))


class RegionalPrompts:
    """The prompts of one character, cut to a region; prompts that share a ControlNet share its cut one.

    Args:
        region: What the network sees.
        network: The host's model that sees it. To SDXL and its refiner the prompts say where the picture was cropped.
    """

    def __init__(self, region: Region, network: Any) -> None:
        self.region = region
        self.says_sizes = isinstance(network, (comfy.model_base.SDXL, comfy.model_base.SDXLRefiner))
        self.controls: dict[int, Any] = {}

    def cut(self, entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """A guider's entries as they are for a picture that is the region; nothing given is changed."""
        return list(entries) if self.region.is_everything else [self._entry(entry) for entry in entries]

    def clean_up(self) -> None:
        """Let go of what the cut ControlNets made while they ran, as the host does for those that it knows."""
        for control in self.controls.values():
            control.cleanup()
        self.controls.clear()

    def _entry(self, entry: dict[str, Any]) -> dict[str, Any]:
        cut = dict(entry)
        for key in _PICTURES:
            if entry.get(key) is not None:
                cut[key] = self._picture(entry[key], crop="none" if key == "mask" else "center")
        if self.says_sizes:
            cut |= self.region.sizes(_PIXELS, {key: entry[key] for key in _SIZES if key in entry})
        if entry.get("control") is not None:
            cut["control"] = self._control(entry["control"])
        return cut

    def _picture(self, picture: Tensor, cell: int = _PIXELS, method: str = "bilinear", crop: str = "center") -> Tensor:
        """The region of a picture, which is brought to so many pixels to a cell if its size is no multiple."""
        height, width = self.region.whole
        times, rest = divmod(picture.shape[-1], width)
        if not rest and picture.shape[-2] == times * height:
            return self.region.crop(picture, times)
        return self.region.crop(_resized(picture, width * cell, height * cell, method, crop), cell)

    def _control(self, control: Any) -> Any:
        """A copy of a ControlNet, and of those before it in its chain, with the hints of the region."""
        if id(control) not in self.controls:
            copy, method = control.copy(), control.upscale_algorithm
            cell = control.compression_ratio
            if control.vae is not None:
                cell *= control.vae.spacial_compression_encode()
            if control.cond_hint_original is not None:
                copy.cond_hint_original = self._picture(control.cond_hint_original, cell, method)
            copy.extra_concat_orig = [
                each if each.shape[-2:] == (1, 1) else self._picture(each, cell, method)
                for each in control.extra_concat_orig
            ]
            if control.previous_controlnet is not None:
                copy.set_previous_controlnet(self._control(control.previous_controlnet))
            self.controls[id(control)] = copy
        return self.controls[id(control)]


def _resized(picture: Tensor, width: int, height: int, method: str, crop: str) -> Tensor:
    """A picture, or a mask without channels, of another size."""
    if picture.ndim > 3:
        return comfy.utils.common_upscale(picture, width, height, method, crop)
    pictures = picture.reshape(-1, 1, *picture.shape[-2:])
    return comfy.utils.common_upscale(pictures, width, height, method, crop).reshape(*picture.shape[:-2], height, width)
