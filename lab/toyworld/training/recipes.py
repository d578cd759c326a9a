"""How the toy world's networks are trained."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """What training takes beside sizes, steps and rates.

    Args:
        vae_pictures: How many scenes the VAE learns from.
        head_crops: Squares around heads that the VAE sees in every step for each whole picture. They are half as wide
            as the picture, so that four cost what a picture costs.
        edge_scales: At which pixel distances the VAE's edges are compared.
        tower: The identity encoder's vision tower in the words of transformers' CLIPVisionConfig.
        tower_steps: Steps of the tower's own training.
        lora_rank: Rank of the identity generator's LoRA.
        lora_layers: Which layers of the UNet have one, by the ends of their names.
        examples: How many scenes the identity generator learns from, each of another person.
        portraits_each: How many portraits there are of the person of each.
        portraits: Share of scenes that are portraits themselves.
        text_dropout: Share of examples whose caption is left out, for guidance.
        identity_dropout: Share of examples whose identity is left out, the class word staying as it is.
        likeness: Weight of the loss on the recogniser's features of the face that the prediction decodes to.
        likeness_below: That loss counts at noise levels (sigma) below this one.
        noisier: Noise levels are drawn as the steps of a uniform number raised to this; below 1, strong noise is more
            frequent, in which alone the identity says what the picture does not.
        blend: How far, at most, half of a batch's identities are drawn towards others, as a share of the way.
        spread: Weight of the loss that makes the tower's directions equally strong and uncorrelated.
    """

    vae_pictures: int = 6_000
    head_crops: int = 4
    edge_scales: tuple[int, ...] = (1, 2, 4)
    tower: Mapping[str, Any] = field(
        default_factory=lambda: {
            "hidden_size": 192,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "patch_size": 16,
            "hidden_act": "quick_gelu",
        }
    )
    tower_steps: int = 3_000
    lora_rank: int = 48
    lora_layers: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
    examples: int = 10_000
    portraits_each: int = 2
    portraits: float = 0.3
    text_dropout: float = 0.1
    identity_dropout: float = 0.1
    likeness: float = 0.5
    likeness_below: float = 6.0
    noisier: float = 0.6
    blend: float = 0.5
    spread: float = 0.05


RECIPE = Recipe()
