"""What pictures are measured with when a StoryDB is built: parts that a user chooses, each of them may be missing."""

import importlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.detectors.faces import FaceRecogniser
from ...core.photomaker import look_at
from ...core.shapes import Bool, Float
from ...core.toyworld.detector import Found, ToyDetector, box_around, load_detector
from ...core.toyworld.identity_encoder import load_identity_encoder
from ...core.toyworld.models import WEIGHTS
from ...core.toyworld.recogniser import ToyRecogniser
from ...core.toyworld.vocabulary import CLASS_WORDS, CLOTHES_COLOURS, GARMENTS, HAIR_COLOURS, PLACES, PROPS
from ...headless.detection import Detector
from ...headless.run_files import mark_of
from ..toyworld.probe import ATTRIBUTES, NO_PROP, SCENE, Probe, load_probe, split
from ..toyworld.weight_files import weight_file

_LEAST_CHANCE = 0.01
_TOY_NETWORKS = ("detector", "identity_encoder")

Picture = Float[Tensor, "h w 3"]
Caption = Callable[[Sequence[Path]], Sequence[str]]
"""Pictures of one group to their captions: all at once, so that they can call the character the same."""


@dataclass(frozen=True)
class Measures:
    """Models for the filters. A filter whose model is None lets everything pass.

    Args:
        detector: Gives boxes for a class word and masks for boxes.
        identity: The unit vector of the face of whoever the mask covers, or None where there is no face.
        look: The unit vector of a picture (CLIP's), here of a character with the background greyed out.
        agreement: How well a caption fits a picture; the higher the better.
        aesthetic: How good a picture is; the higher the better.
        caption: Captions for pictures that have none.
        tokenizer: The tokenizer of the model to be trained; captions longer than it reads are dropped.
        names: What each of them is. Groups depend on it: after a change they are made again.
    """

    detector: Detector
    identity: Callable[[Picture, Bool[Tensor, "h w"]], Float[Tensor, " d"] | None] | None = None
    look: Callable[[Picture], Float[Tensor, " d"]] | None = None
    agreement: Callable[[Picture, str], float] | None = None
    aesthetic: Callable[[Picture], float] | None = None
    caption: Caption | None = None
    tokenizer: Any = None
    names: Mapping[str, str] = field(default_factory=dict)


def named_callable(name: str) -> Callable[..., Any]:
    """The function that a user names "module:function".

    Raises:
        ValueError: If it is not written so, or the module has no such function.
        ModuleNotFoundError: If there is no such module.
    """
    module, sign, function = name.partition(":")
    if not (module and sign and function):
        raise ValueError(f'"{name}" is no function; write MODULE:FUNCTION, such as my_captions:describe.')
    found = getattr(importlib.import_module(module), function, None)
    if not callable(found):
        raise ValueError(f'The module "{module}" has no function "{function}".')
    return found


@dataclass(frozen=True)
class Clip:
    """CLIP (Radford et al. 2021, arXiv:2103.00020) as transformers keeps it."""

    model: Any
    tokenizer: Any

    @torch.no_grad()
    def look(self, picture: Picture) -> Float[Tensor, " d"]:
        """The unit vector of a picture in [0, 1], on the CPU."""
        pixels = look_at(picture[None], self.model.config.vision_config.image_size)
        pooled = self.model.vision_model(pixels.to(self.model.device)).pooler_output
        return torch.nn.functional.normalize(self.model.visual_projection(pooled)[0].float().cpu(), dim=0)

    @torch.no_grad()
    def read(self, text: str) -> Float[Tensor, " d"]:
        """The unit vector of a text, cut off where CLIP stops reading; on the CPU."""
        longest = self.model.config.text_config.max_position_embeddings
        ids = self.tokenizer(text, truncation=True, max_length=longest, return_tensors="pt").input_ids
        pooled = self.model.text_model(ids.to(self.model.device)).pooler_output
        return torch.nn.functional.normalize(self.model.text_projection(pooled)[0].float().cpu(), dim=0)

    def agreement(self, picture: Picture, caption: str) -> float:
        """The cosine of a picture and a text, about 0.15 (nothing to do with each other) to 0.35."""
        return float(self.look(picture) @ self.read(caption))


def load_clip(folder: Path, device: str = "cpu") -> Clip:
    """CLIP from a folder as `save_pretrained` writes it; nothing is downloaded.

    Raises:
        FileNotFoundError: If there is none.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f'"{folder}" is no folder of a CLIP model: it has no config.json.')
    from transformers import AutoTokenizer, CLIPModel

    model: Any = CLIPModel.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return Clip(model.eval().requires_grad_(False).to(device), tokenizer)


@dataclass(frozen=True)
class MaskedFace:
    """A face recogniser that looks only at whoever a mask covers."""

    recogniser: FaceRecogniser

    def __call__(self, picture: Picture, mask: Bool[Tensor, "h w"]) -> Float[Tensor, " d"] | None:
        """The unit vector of the largest face in the box around the mask, or None."""
        x0, y0, x1, y1 = (int(edge) for edge in box_around(mask).tolist())
        face = self.recogniser.find(picture[y0:y1, x0:x1])
        return None if face is None else face.embedding


def toyworld_measures(folder: Path = WEIGHTS) -> Measures:
    """The toy world's own: its detector, its face recognition, and its probe in CLIP's place."""
    detector = load_detector(folder)
    return Measures(
        detector,
        identity=ToyRecogniser(detector, load_identity_encoder(folder)).embedding_of,
        agreement=ToyAgreement(detector, load_probe(folder)),
        names={
            "toyworld": mark_of(folder, [f"{name}.safetensors" for name in _TOY_NETWORKS]),
            "probe": mark_of(weight_file("probe", folder)),
        },
    )


@dataclass(frozen=True)
class ToyAgreement:
    """How much of what a caption of the toy world says the probe sees in a picture."""

    detector: ToyDetector
    probe: Probe

    @torch.no_grad()
    def __call__(self, picture: Picture, caption: str) -> float:
        """The geometric mean of the probabilities of what the caption says, each at least 0.01; in (0, 1].

        What it says of people counts for whoever in the picture has most of it. A thing it does not name is not there.
        For a close-up, which the probe cannot read, it is the fourth root of the class word's, as in the detector.
        """
        people = self.detector.people(picture)
        scene = self._read(picture, torch.zeros(picture.shape[:2], dtype=torch.bool))
        persons = [self._read(picture, person.mask) | _words_of(person) for person in people]
        chances = []
        for attribute, option in _said_in(caption).items():
            place = ATTRIBUTES[attribute].index(option)
            seen = [scene] if attribute in SCENE else persons
            chances.append(max((float(each[attribute][place]) for each in seen), default=0.0))
        root = 4 if _is_close_up(caption) else len(chances)
        return math.prod(max(chance, _LEAST_CHANCE) for chance in chances) ** (1 / root)

    def _read(self, picture: Tensor, mask: Tensor) -> dict[str, Tensor]:
        logits = self.probe(picture.movedim(-1, 0)[None], mask[None, None].float())
        return {name: each[0].softmax(dim=0) for name, each in zip(ATTRIBUTES, split(logits), strict=True)}


def _words_of(person: Found) -> dict[str, Tensor]:
    """The detector's class word for a person, which is right more often than the probe's."""
    return {"word": person.words}


def _said_in(caption: str) -> dict[str, str]:
    """What a caption of the toy world says, by attributes of the probe; poses, which are often left out, are not read.

    For several people, the looks of the first one.
    """
    one_of = "|".join
    patterns = {
        "word": rf"\b({one_of(CLASS_WORDS)})\b",
        "place": rf"\b({one_of(PLACES)})\b",
        "prop": rf"\b({one_of(PROPS)})\b",
        "hour": r"\b(night)\b",
        "hair": rf"\b({one_of(HAIR_COLOURS)}) (?:hair|lamp)\b",
        "clothes": rf"\b({one_of(CLOTHES_COLOURS)}) (?:{one_of(GARMENTS)})\b",
    }
    found = {name: re.search(pattern, caption.lower()) for name, pattern in patterns.items()}
    said = {name: match[1] for name, match in found.items() if match}
    if _is_close_up(caption):
        return {name: option for name, option in said.items() if name == "word"}
    return {"hour": "day", "prop": NO_PROP, **said}


def _is_close_up(caption: str) -> bool:
    return "close-up" in caption.lower()
