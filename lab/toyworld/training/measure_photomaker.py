"""How far the identity generator follows: the likeness of drawn faces to people never shown in training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ....core.toyworld.recogniser import ToyRecogniser
from ....core.toyworld.sizes import TOY_WORLD
from ....core.toyworld.vae import ToyVAE
from ....core.toyworld.vocabulary import tokenize
from ..people import Person, sample_person
from ..plan import Plan
from ..world import Scene, draw, portrait_plan, sample_plan
from .drawn_latents import draw_latents
from .train_photomaker import Adapter, class_positions

PORTRAITS = 4
_BATCH = 20


@dataclass(frozen=True)
class _Sitting:
    """A person, what is asked for, and what they look like: `portraits` `(4, side, side, 3)` in [0, 1]."""

    person: Person
    caption: str
    portraits: Tensor


@torch.no_grad()
def measure_photomaker(
    adapter: Adapter, vae: ToyVAE, recogniser: ToyRecogniser, people: int = 40, seed: int = 5_000_011
) -> dict[str, float]:
    """Likeness to the true person: the cosine of the drawn face to the mean of the portraits it was drawn from.

    Args:
        adapter: Trained; on the CPU, as the others.
        vae: What decodes.
        recogniser: Whose features are compared.
        people: How many, each drawn once as a portrait and once alone in a scene.
        seed: The seed of people, scenes and noise.

    Returns:
        The mean likeness of portraits and scenes, in which nobody found counts 0; that of further true portraits, the
        highest to hope for; and that of true portraits of other people with the same caption, what is had for nothing.
    """
    adapter = adapter.eval().cpu()
    measured = {}
    for kind in ("portraits", "scenes"):
        random = np.random.default_rng(seed)
        sittings = [_sitting(random, kind == "portraits") for _ in range(people)]
        drawn = _drawn(adapter, vae, sittings, torch.Generator().manual_seed(seed))
        measured[f"likeness_{kind}"] = _mean_likeness(recogniser, sittings, drawn)
    random = np.random.default_rng(seed)
    sittings = [_sitting(random, True) for _ in range(people)]
    same = [_portrait(each.person, random) for each in sittings]
    others = [_portrait(_other(each.person, random), random) for each in sittings]
    return measured | {
        "likeness_true": _mean_likeness(recogniser, sittings, same),
        "likeness_others": _mean_likeness(recogniser, sittings, others),
    }


def _sitting(random: np.random.Generator, close_up: bool) -> _Sitting:
    person = sample_person(random, held_out=True)
    plan: Plan = portrait_plan(person) if close_up else replace(sample_plan(random, people=1), people=(person,))
    caption = draw(replace(plan, names_hair=(True,), names_clothes=(False,)), random).caption
    return _Sitting(person, caption, torch.stack([_portrait(person, random) for _ in range(PORTRAITS)]))


def _other(person: Person, random: np.random.Generator) -> Person:
    return sample_person(random, held_out=True, word=person.word, hair=person.hair)


def _portrait(person: Person, random: np.random.Generator) -> Tensor:
    scene: Scene = draw(portrait_plan(person), random)
    return torch.from_numpy(scene.image.copy()).float() / 255


def _drawn(adapter: Adapter, vae: ToyVAE, sittings: Sequence[_Sitting], generator: torch.Generator) -> list[Tensor]:
    pictures: list[Tensor] = []
    for start in range(0, len(sittings), _BATCH):
        part = sittings[start : start + _BATCH]
        tokens = torch.tensor([tokenize(each.caption, TOY_WORLD.text_length) for each in part])
        positions = torch.tensor([int(class_positions(row.numpy())[0]) for row in tokens])
        portraits = torch.stack([each.portraits for each in part]).permute(0, 1, 4, 2, 3) * 2 - 1
        context = adapter.context(tokens, positions, adapter.identities(portraits))
        latents = draw_latents(adapter.base, context, generator)
        pictures += list((vae.decode(latents) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1))
    return pictures


def _mean_likeness(recogniser: ToyRecogniser, sittings: Sequence[_Sitting], drawn: Sequence[Tensor]) -> float:
    faces = recogniser.find_all(drawn, [None] * len(drawn))
    likeness = []
    for sitting, face in zip(sittings, faces, strict=True):
        seen = recogniser.find_all(list(sitting.portraits), [None] * PORTRAITS)
        known = [each.embedding for each in seen if each is not None]
        if face is None or not known:
            likeness.append(0.0)
            continue
        likeness.append(float(face.embedding @ normalize(torch.stack(known).mean(dim=0), dim=0)))
    return float(np.mean(likeness))
