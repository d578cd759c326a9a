"""MODELs at inputs that are meant for another one: refused, or named on the node, before the first model call."""

from typing import Any

from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrappersMP

from ...core.quoting import quote
from ..types import Cast, Conditioning

SHARED_ATTENTION = "story_identity_shared_attention"
"""Key of the wrappers of AMSA Model Patch."""

_GENERATOR = "story_identity_generator"
_FUSED = "story_identity_fused"


def mark_generator(model: Any) -> Any:
    """Note on a MODEL, which has just been cloned, that it holds PhotoMaker's LoRA; clones of it keep the note."""
    model.set_attachments(_GENERATOR, True)
    return model


def mark_fused(extras: dict[str, Any]) -> dict[str, Any]:
    """The extras of a conditioning with which PhotoMaker's encoder has merged an identity."""
    return {**extras, _FUSED: True}


def refuse_shared_attention(node: str, model: Any) -> None:
    """Refuse a MODEL with AMSA where one frame is sampled at a time.

    Raises:
        ValueError: If AMSA Model Patch made it.
    """
    if model.get_wrappers(WrappersMP.OUTER_SAMPLE, SHARED_ATTENTION):
        raise ValueError(
            f"{node}: the MODEL comes from AMSA Model Patch, which lets all frames of a story see each other in one "
            "batch, but here one is sampled at a time. Connect the MODEL from before AMSA Model Patch, and AMSA's to a "
            "KSampler that samples the whole story."
        )


def generator_as_base(node: str, model: Any) -> list[str]:
    """A sentence if the MODEL that is to follow the prompt alone is an identity generator."""
    if not _is_generator(model):
        return []
    return [
        f"{node}: the MODEL is an identity generator's (it holds PhotoMaker's LoRA), which follows prompts less well. "
        "Connect the checkpoint's own MODEL here, and this one to Progressive-Mask Re-denoise."
    ]


def refuse_fused_prompts(model: Any, cast: Cast) -> None:
    """Refuse prompts with which PhotoMaker has merged an identity where another network than a UNet is to draw them.

    Raises:
        ValueError: If one of the cast has such a prompt and is drawn by a diffusion transformer.
    """
    for member in cast:
        drawing = model if member.model is None else member.model
        if _is_fused(member.positive) and not isinstance(drawing.model.diffusion_model, UNetModel):
            raise ValueError(
                f"Progressive-Mask Re-denoise: {quote(member.name)} has a prompt of PhotoMaker's (Identity "
                "Conditioning, or Story Cast with photomaker), but a diffusion transformer is to draw it and cannot "
                "read that. Connect vae in place of photomaker at Story Cast, or use Reference Conditioning: a "
                "transformer takes portraits as reference latents."
            )


def base_as_generator(model: Any, cast: Cast) -> list[str]:
    """A sentence for each of the cast with PhotoMaker's identity whom a MODEL without its LoRA is to draw."""
    return [
        f"Progressive-Mask Re-denoise: {quote(member.name)} is drawn by a MODEL without PhotoMaker's LoRA, so that the "
        "identity comes through weakly. Connect the MODEL of PhotoMaker Loader (in the toy world: identity_model)."
        for member in cast
        if _is_fused(member.positive) and not _is_generator(model if member.model is None else member.model)
    ]


def _is_generator(model: Any) -> bool:
    return _GENERATOR in getattr(model, "attachments", {})


def _is_fused(conditioning: Conditioning) -> bool:
    return any(_FUSED in extras for _, extras in conditioning)
