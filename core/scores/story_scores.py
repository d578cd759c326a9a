"""The scores of one story, from the features of its frames and of its characters.

Definitions, every one a mean of cosines in [-1, 1]; the papers print them times 100.

| score | cosine of | mean over | source |
|---|---|---|---|
| CLIP-T | a frame and its prompt, in CLIP | frames | both papers |
| CLIP-T-C | a segmented character and their description, in CLIP | characters in frames | IdentityStory 4.1 |
| CLIP-I | segmented characters of two frames, in CLIP | pairs of frames, then characters | IdentityStory 4.1 |
| CLIP-I, frames | two whole frames, in CLIP | pairs of frames | Storynizor 5 |
| DINO-I | segmented characters of two frames, in DINO | pairs of frames, then characters | as CLIP-I |
| DINO-I, frames | two whole frames, in DINO | pairs of frames | Storynizor 5 |
| Face-Sim | a character's faces in two frames | pairs of frames, then characters | both papers |
| Face-Sim(R) | a character's face and their references' | frames and references, then characters | Storynizor 5 |

What was not found takes no part in a mean, so every score comes with how much of it was found: a way of drawing that
loses half of the faces is not better for that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..shapes import Float
from .cosines import Likeness, cosine_matrix, cosines_of_rows, likeness, mean_cosine_between
from .statistics import Interval, bootstrap_frames, bootstrap_pairs, mean_of_known

CLIP_T, CLIP_T_C, CLIP_I, CLIP_I_FRAMES = "clip_t", "clip_t_c", "clip_i", "clip_i_frames"
DINO_I, DINO_I_FRAMES, FACE_SIM, FACE_SIM_R = "dino_i", "dino_i_frames", "face_sim", "face_sim_r"
LABELS: Mapping[str, str] = {
    CLIP_T: "CLIP-T",
    CLIP_T_C: "CLIP-T-C",
    CLIP_I: "CLIP-I",
    CLIP_I_FRAMES: "CLIP-I, frames",
    DINO_I: "DINO-I",
    DINO_I_FRAMES: "DINO-I, frames",
    FACE_SIM: "Face-Sim",
    FACE_SIM_R: "Face-Sim(R)",
}
"""The scores as the papers call them, in the order of the tables."""

Features = Sequence[Float[Tensor, " d"] | None]


@dataclass(frozen=True)
class CharacterFeatures:
    """What encoders saw of one character.

    Every sequence has one entry per frame of the story: None where the character was not found, or is not in the frame.
    A sequence that is None itself was not measured.

    Args:
        name: The character's name.
        frames: The frames, counted from 0, whose cast has the character.
        faces: Face embeddings.
        clip: CLIP's features of the character over grey.
        dino: DINO's features of the same.
        description: CLIP's features of the description.
        references: Face embeddings of reference pictures.
    """

    name: str
    frames: tuple[int, ...]
    faces: Sequence[Float[Tensor, " f"] | None] | None = None
    clip: Sequence[Float[Tensor, " c"] | None] | None = None
    dino: Sequence[Float[Tensor, " d"] | None] | None = None
    description: Float[Tensor, " c"] | None = None
    references: Float[Tensor, "k f"] | None = None


@dataclass(frozen=True)
class StoryFeatures:
    """What encoders saw of a story; None where there was no such encoder.

    Args:
        frames: How many frames the story has.
        characters: Everybody in it.
        clip: CLIP's features of the whole frames.
        prompts: CLIP's features of their prompts.
        dino: DINO's features of the whole frames.
    """

    frames: int
    characters: Sequence[CharacterFeatures]
    clip: Float[Tensor, "_ c"] | None = None
    prompts: Float[Tensor, "_ c"] | None = None
    dino: Float[Tensor, "_ d"] | None = None


@dataclass(frozen=True)
class CharacterScores:
    """One character's scores; lists have one entry per frame of the story.

    Args:
        name: The character's name.
        frames: The frames, counted from 0, whose cast has the character.
        found: By `FACE_SIM`, `CLIP_I` and `DINO_I`: in how many of these frames there was something to measure.
        scores: The means by score; None where nothing could be compared. What was not measured is left out.
        of_frames: The same per frame: for scores over pairs, the mean cosine to the character's other frames.
        matrix: The cosines of every two of the character's faces, NaN where there is none; None if not measured.
        worst: The frame whose face is least like the others; None where nothing could be compared.
    """

    name: str
    frames: tuple[int, ...]
    found: Mapping[str, int]
    scores: Mapping[str, float | None]
    of_frames: Mapping[str, Sequence[float | None]]
    matrix: Float[Tensor, "n n"] | None = None
    worst: int | None = None


@dataclass(frozen=True)
class StoryScores:
    """A story's scores.

    Args:
        frames: How many frames it has.
        characters: Those of everybody, in the order of the story.
        scores: By score, the mean with its interval over the frames; None where nothing could be compared. What was not
            measured is left out.
        clip_t: CLIP-T of every frame; None if not measured.
    """

    frames: int
    characters: Sequence[CharacterScores]
    scores: Mapping[str, Interval | None]
    clip_t: Sequence[float] | None = None


def score_story(features: StoryFeatures, seed: int = 0) -> StoryScores:
    """All scores for which there are features (see the table of this module).

    Args:
        features: Of any scale: cosines do not see the length of a vector.
        seed: Of the resamples of the intervals; every score begins with the same.

    Raises:
        ValueError: If a sequence does not have one entry per frame.
    """
    _check(features)
    characters = [_score_character(each) for each in features.characters]
    matrices = _matrices(features)
    scores: dict[str, Interval | None] = {}
    clip_t = None
    if features.clip is not None and features.prompts is not None:
        clip_t = cosines_of_rows(features.clip, features.prompts).tolist()
        scores[CLIP_T] = bootstrap_frames(torch.tensor([clip_t], dtype=torch.double), np.random.default_rng(seed))
    for key, own in matrices.items():
        scores[key] = bootstrap_pairs(own, np.random.default_rng(seed))
    for key in (CLIP_T_C, FACE_SIM_R):
        if any(key in each.scores for each in characters):
            scores[key] = _over_frames(characters, key, seed)
    return StoryScores(features.frames, characters, {key: scores[key] for key in LABELS if key in scores}, clip_t)


def _check(features: StoryFeatures) -> None:
    whole = {"clip": features.clip, "prompts": features.prompts, "dino": features.dino}
    for name, rows in whole.items():
        if rows is not None and len(rows) != features.frames:
            raise ValueError(f"{name} has {len(rows)} rows; the story has {features.frames} frames.")
    for person in features.characters:
        for name in ("faces", "clip", "dino"):
            own = getattr(person, name)
            if own is not None and len(own) != features.frames:
                raise ValueError(f"{name} of a character has {len(own)} entries, not one per frame: {features.frames}.")


def _matrices(features: StoryFeatures) -> dict[str, list[Tensor]]:
    """The cosines of every two frames, by score and character; whole frames count as one character."""
    found: dict[str, list[Tensor]] = {}
    for key, rows in ((CLIP_I_FRAMES, features.clip), (DINO_I_FRAMES, features.dino)):
        if rows is not None:
            found[key] = [cosine_matrix(list(rows))]
    for key, name in ((CLIP_I, "clip"), (DINO_I, "dino"), (FACE_SIM, "faces")):
        own = [getattr(person, name) for person in features.characters]
        if any(each is not None for each in own):
            found[key] = [cosine_matrix(each) for each in own if each is not None]
    return found


def _score_character(person: CharacterFeatures) -> CharacterScores:
    found: dict[str, int] = {}
    scores: dict[str, float | None] = {}
    of_frames: dict[str, Sequence[float | None]] = {}
    alike: dict[str, Likeness] = {}
    for key, own in ((CLIP_I, person.clip), (DINO_I, person.dino), (FACE_SIM, person.faces)):
        if own is not None:
            alike[key] = likeness(_unit(own))
            found[key], scores[key], of_frames[key] = alike[key].faces, alike[key].mean, alike[key].to_others
    if person.clip is not None and person.description is not None:
        of_frames[CLIP_T_C] = [_to_all(each, person.description.unsqueeze(0)) for each in person.clip]
        scores[CLIP_T_C] = mean_of_known(of_frames[CLIP_T_C])
    if person.faces is not None and person.references is not None:
        of_frames[FACE_SIM_R] = [_to_all(each, person.references) for each in person.faces]
        scores[FACE_SIM_R] = mean_of_known(of_frames[FACE_SIM_R])
    matrix = None if person.faces is None else cosine_matrix(person.faces)
    worst = _lowest(alike[FACE_SIM].to_others) if FACE_SIM in alike else None
    return CharacterScores(person.name, person.frames, found, scores, of_frames, matrix, worst)


def _unit(features: Features) -> list[Tensor | None]:
    return [None if each is None else F.normalize(each.cpu().double(), dim=0) for each in features]


def _to_all(feature: Tensor | None, others: Tensor) -> float | None:
    return None if feature is None else mean_cosine_between(feature.cpu().unsqueeze(0), others.cpu())


def _lowest(values: Sequence[float | None]) -> int | None:
    known = [(value, frame) for frame, value in enumerate(values) if value is not None]
    return min(known)[1] if known else None


def _over_frames(characters: Sequence[CharacterScores], key: str, seed: int) -> Interval | None:
    """CLIP-T-C is over all characters in all frames, Face-Sim(R) over each character's frames and then over them."""
    own = [each.of_frames[key] for each in characters if key in each.of_frames]
    values = torch.tensor([[torch.nan if each is None else each for each in row] for row in own], dtype=torch.double)
    return bootstrap_frames(values, np.random.default_rng(seed), pooled=key == CLIP_T_C)
