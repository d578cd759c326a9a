"""Where diffusion transformers keep their text and their picture, so that their attention can be hooked."""

from dataclasses import dataclass
from typing import Any

from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

from .unet_hooks import refuse_other_than_unet


@dataclass(frozen=True)
class Family:
    """Where the networks of one of the host's classes keep text and picture.

    Args:
        name: What people call its models.
        blocks: The network's lists of transformer blocks, in the order in which they run.
        patch: The network's attribute that says how many latent cells, along each side, are one token.
        rotary: The network's attribute that embeds positions in keys, (moment, down, right, ...); None: it adds
            positions to the picture beforehand, so that keys cannot be moved.
        registers: The network's attribute of learned tokens that lie before the text.
        references_first: Reference pictures lie before the picture, not after it.
        picture_alone: Some blocks also let the picture's tokens attend to themselves alone.
        apart: Text and picture are no one sequence: every block lets the picture attend to itself, then to the text.
        picture_first: The picture lies before the text, not after it.
        further_text: What else of a call is text, which follows twice: the states of all layers of an encoder.
    """

    name: str
    blocks: tuple[str, ...]
    patch: str = "patch_size"
    rotary: str | None = "pe_embedder"
    registers: str | None = None
    references_first: bool = False
    picture_alone: bool = False
    apart: bool = False
    picture_first: bool = False
    further_text: str | None = None


FAMILIES = {
    "comfy.ldm.flux.model.Flux": Family("Flux.1, Flux.2", ("double_blocks", "single_blocks")),
    "comfy.ldm.chroma.model.Chroma": Family("Chroma", ("double_blocks", "single_blocks")),
    "comfy.ldm.qwen_image.model.QwenImageTransformer2DModel": Family(
        "Qwen-Image, Qwen-Image-Edit", ("transformer_blocks",)
    ),
    "comfy.ldm.krea2.model.SingleStreamDiT": Family("Krea 2", ("blocks",), patch="patch"),
    "comfy.ldm.lumina.model.NextDiT": Family(
        "Z-Image, Lumina 2", ("layers",), rotary="rope_embedder", references_first=True
    ),
    "comfy.ldm.modules.diffusionmodules.mmdit.MMDiT": Family(
        "SD3, SD3.5", ("joint_blocks",), rotary=None, picture_alone=True
    ),
    "comfy.ldm.aura.mmdit.MMDiT": Family(
        "AuraFlow", ("double_layers", "single_layers"), rotary=None, registers="register_tokens"
    ),
    "comfy.ldm.hidream.model.HiDreamImageTransformer2DModel": Family(
        "HiDream",
        ("double_stream_blocks", "single_stream_blocks"),
        picture_first=True,
        further_text="encoder_hidden_states_llama3",
    ),
    "comfy.ldm.anima.model.Anima": Family("Anima", ("blocks",), patch="patch_spatial", rotary=None, apart=True),
}
"""What is known, by the full name of the network's class or of one it is derived from."""

_HOOKLESS = {
    "PixArtAlpha": "PixArt",
    "PixArtSigma": "PixArt",
    "ErnieImage": "Ernie-Image",
}
"""The host's configurations of models whose attention it does not let anybody see."""


def family_of(model: Any) -> Family | None:
    """What is known of a MODEL's network; None for a UNet.

    Raises:
        LookupError: If it is neither, with the reason.
    """
    network, config = model.model.diffusion_model, type(model.model.model_config).__name__
    if isinstance(network, UNetModel):
        return None
    known = known_network(network)
    if known is not None:
        return known
    if config in _HOOKLESS:
        raise LookupError(f"{_HOOKLESS[config]} computes its attention without the host's hook, so nothing can see it")
    raise LookupError(f"where a model of the kind {config} keeps its text and its picture is not known to this pack")


def refuse_unknown(model: Any, who: str) -> Family | None:
    """The family of a MODEL whose attention can be hooked, None for a UNet.

    Raises:
        ValueError: If it cannot, with the reason and what to do.
    """
    try:
        family = family_of(model)
    except LookupError as reason:
        known = ", ".join(each.name for each in FAMILIES.values())
        raise ValueError(f"{who}: {reason}. Load a model of SD1.5, SDXL, {known}.") from None
    if family is None:
        refuse_other_than_unet(model, who)
    return family


def known_network(network: Any) -> Family | None:
    """What is known of a network, by its class or one that it is derived from."""
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(network).__mro__)
    return next((FAMILIES[name] for name in names if name in FAMILIES), None)


def block_count(model: Any, family: Family) -> int:
    """How many transformer blocks a MODEL has."""
    return sum(len(getattr(model.model.diffusion_model, name)) for name in family.blocks)
