"""Reads out of a picture what a caption may have asked for. Only measurements use it: it is no part of making pictures.

`training.train_probe` makes the weights.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ...core.shapes import Bool, Float
from ...core.toyworld.convolutions import Block, halve
from ...core.toyworld.models import WEIGHTS, load_network
from ...core.toyworld.sizes import TOY_WORLD
from ...core.toyworld.vocabulary import CLASS_WORDS, CLOTHES_COLOURS, HAIR_COLOURS, HOURS, PLACES, POSES, PROPS
from .people import Person
from .plan import Plan
from .weight_files import weight_file

NO_PROP = "none"
SCENE: dict[str, tuple[str, ...]] = {"place": PLACES, "hour": HOURS, "prop": (NO_PROP, *PROPS)}
"""What is read of a whole picture."""
PERSON: dict[str, tuple[str, ...]] = {
    "word": CLASS_WORDS, "hair": HAIR_COLOURS, "pose": POSES, "clothes": CLOTHES_COLOURS,
}  # fmt: skip
"""What is read of one person."""
ATTRIBUTES = SCENE | PERSON


def answers_of_scene(plan: Plan) -> dict[str, str]:
    """The right answers for a scene; what a caption leaves out is not there, or is as usual."""
    return {"place": plan.place, "hour": plan.hour, "prop": plan.props[0] if plan.props else NO_PROP}


def answers_of_person(person: Person, pose: str) -> dict[str, str]:
    """The right answers for a person in a pose."""
    return {"word": person.word, "hair": person.hair, "pose": pose, "clothes": person.clothes}


class Probe(nn.Module):
    """Pictures, and whom to look at, to logits of all `ATTRIBUTES`, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(TOY_WORLD.patch),
            nn.Conv2d(4 * TOY_WORLD.patch**2, 32, 3, padding=1),
            Block(32),
            halve(32, 64),
            Block(64),
            halve(64, 96),
            Block(96),
            halve(96, 96),
            nn.GroupNorm(8, 96),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(96 * 4**2, sum(map(len, ATTRIBUTES.values()))),
        )

    def forward(self, pictures: Float[Tensor, "n 3 h w"], masks: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n k"]:
        """Logits.

        Args:
            pictures: In [0, 1], of the world's size.
            masks: 1 where the person is who is asked about, else 0; all 0 to ask about the scene.
        """
        return self.layers(torch.cat([pictures, masks], dim=1) * 2 - 1).float()

    def read_scene(self, image: Float[Tensor, "h w 3"]) -> dict[str, str]:
        """The answer for every attribute of `SCENE`."""
        return self._read(image, torch.zeros(image.shape[:2], dtype=torch.bool), SCENE)

    def read_person(self, image: Float[Tensor, "h w 3"], mask: Bool[Tensor, "h w"]) -> dict[str, str]:
        """The answer for every attribute of `PERSON`, for whoever covers the mask."""
        return self._read(image, mask, PERSON)

    @torch.no_grad()
    def _read(self, image: Tensor, mask: Tensor, wanted: dict[str, tuple[str, ...]]) -> dict[str, str]:
        logits = dict(zip(ATTRIBUTES, split(self(image.movedim(-1, 0)[None], mask[None, None].float())), strict=True))
        return {name: options[int(logits[name].argmax())] for name, options in wanted.items()}


def split(logits: Float[Tensor, "n k"]) -> Sequence[Float[Tensor, "n j"]]:
    """The logits of each attribute, in the order of `ATTRIBUTES`."""
    return logits.split([len(options) for options in ATTRIBUTES.values()], dim=1)


def load_probe(folder: Path = WEIGHTS) -> Probe:
    """The probe with its trained weights, on the CPU.

    Raises:
        FileNotFoundError: If the weights are not there.
        ValueError: If the file cannot be read, or has other tensors.
    """
    network = Probe()
    load_network(network, "probe", weight_file("probe", folder).parent)
    return network
