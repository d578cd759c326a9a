"""How the networks of each toy world are trained, where the worlds differ."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ....core.toyworld.worlds import TOY_WORLD_1, TOY_WORLD_2, World


@dataclass(frozen=True)
class Recipe:
    """What training a world's networks takes beside its sizes.

    Args:
        stages: Per stage, what differs from `stages.STAGES`: steps, batch, rate, minutes.
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
        spread: Weight of the loss that makes the tower's directions equally strong and uncorrelated.
    """

    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    vae_pictures: int = 20_000
    head_crops: int = 0
    edge_scales: tuple[int, ...] = (1,)
    tower: Mapping[str, Any] = field(default_factory=dict)
    tower_steps: int = 1_000
    lora_rank: int = 32
    lora_layers: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    examples: int = 12_000
    portraits_each: int = 4
    portraits: float = 0.1
    text_dropout: float = 0.0
    identity_dropout: float = 0.0
    likeness: float = 0.0
    likeness_below: float = 1.0
    noisier: float = 1.0
    spread: float = 0.0


_TOWER = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 8,
    "hidden_act": "quick_gelu",
}
RECIPES = {
    TOY_WORLD_1.name: Recipe(tower=_TOWER),
    TOY_WORLD_2.name: Recipe(
        stages={
            "vae": {"batch": 4, "steps": 12_000, "minutes": 60},
            "base": {"steps": 24_000, "minutes": 400},
            "decoder": {"minutes": 15},
            "identity": {"minutes": 15},
            "detector": {"minutes": 20},
            "photomaker": {"minutes": 200},
            "words": {"minutes": 8},
            "probe": {"minutes": 15},
        },
        vae_pictures=6_000,
        head_crops=4,
        edge_scales=(1, 2, 4),
        tower=_TOWER | {"hidden_size": 192, "intermediate_size": 384, "num_attention_heads": 3, "patch_size": 16},
        tower_steps=3_000,
        lora_rank=48,
        lora_layers=("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
        examples=10_000,
        portraits_each=2,
        portraits=0.3,
        text_dropout=0.1,
        identity_dropout=0.1,
        likeness=0.5,
        likeness_below=6.0,
        noisier=0.6,
        spread=0.05,
    ),
}


def recipe_of(world: World) -> Recipe:
    """How a world's networks are trained."""
    return RECIPES[world.name]
