"""The stories of the evaluations, scored as Score Story and `story-identity score` do: is the order the same?

Pictures are drawn, or taken from the folders that the evaluations `toyworld` and `storynizor` left.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from ...core.scores.measuring import Encoders, story_features
from ...core.scores.statistics import mean_of_known
from ...core.scores.story_scores import FACE_SIM, StoryFeatures, StoryScores, score_story
from ...core.story import Story
from ...headless.scoring import search_frames
from .drawing_modes import DRAWING_MODES, ON, DrawingMode, draw_story
from .figure import read_strip
from .folder import pictures_of
from .identitystory import (
    DRAWN,
    FIRST_FRAME,
    OTHERS,
    SEEDS_PER_STORY,
    Instruments,
    Picture,
    Row,
    drawings,
    evaluation_settings,
    face_sim,
    find_identities,
    look_at_all,
    open_instruments,
)
from .markdown import Rows, about, at, cell, difference, table
from .stories import ToyStory, make_story
from .variants import NARROW, NARROW_RANK, TEMPLATE, VARIANTS, counted_evaluations, silent

REDRAWN = ("mean", "discovered", NARROW)
"""The variants of re-denoising that are scored."""
MODES = (TEMPLATE, ON, *REDRAWN, DRAWN)
"""Least alike first, by the evaluations."""
_ORDER = (TEMPLATE, ON, "mean", "discovered", DRAWN)
_LABELS = {
    TEMPLATE: "base model alone",
    ON: "AMSA",
    "mean": "re-denoised, mean of all portraits",
    "discovered": "re-denoised, discovered identity",
    NARROW: f"re-denoised, discovered with rank {NARROW_RANK}",
    DRAWN: "*drawn, one person throughout*",
    OTHERS: "*drawn, anybody the caption fits*",
}
_LEVELS = 255


@dataclass(frozen=True)
class KeptFolders:
    """Folders of finished evaluations whose pictures are scored; None where pictures are drawn.

    Args:
        toyworld: Of the evaluation `toyworld`.
        storynizor: Of the evaluation `storynizor`.
    """

    toyworld: Path | None = None
    storynizor: Path | None = None

    def of_toyworld(self, number: int) -> dict[str, list[Picture]]:
        """A story's pictures by variant; empty where there are none."""
        return _kept(self.toyworld, number, VARIANTS, (TEMPLATE, *REDRAWN))

    def of_storynizor(self, number: int) -> dict[str, list[Picture]]:
        """A story's pictures by drawing mode; empty where there are none."""
        return _kept(self.storynizor, number, tuple(mode.name for mode in DRAWING_MODES), (ON,))


def open_measure(kept: KeptFolders) -> Callable[[int], tuple[Row, dict[str, list[Picture]]]]:
    """`measure_story` with the shipped weights."""
    return partial(measure_story, open_instruments(evaluation_settings()), kept)


def measure_story(instruments: Instruments, kept: KeptFolders, number: int) -> tuple[Row, dict[str, list[Picture]]]:
    """Score a story's pictures in every mode, by the report's functions and by the evaluation's own.

    Returns:
        The numbers, JSON's own types only, None where there is nothing to measure; and the pictures by mode, one per
        frame, in steps of 1/255 as files hold them.
    """
    toy = make_story(number)
    with counted_evaluations(instruments.studio) as counts:
        pictures = kept.of_toyworld(number) or draw_variants(instruments, toy)
        pictures |= kept.of_storynizor(number) or {ON: draw_together(instruments, toy)}
    pictures = {mode: as_written(images) for mode, images in (pictures | drawings(toy)).items()}
    scores = {mode: score_pictures(instruments, toy.story, images) for mode, images in pictures.items()}
    row = {
        "story": number,
        "people": [character.description for character in toy.story.characters],
        "evaluations": sum(counts),
        "faces_wanted": len(toy.people) * len(toy.plans),
        "face_sim": {mode: face_sim_of(each) for mode, each in scores.items()},
        "faces": {mode: sum(one.found[FACE_SIM] for one in each.characters) for mode, each in scores.items()},
        "evaluated": {mode: face_sim(toy, look_at_all(instruments, toy, images)) for mode, images in pictures.items()},
    }
    return row, pictures


def draw_variants(instruments: Instruments, toy: ToyStory) -> dict[str, list[Picture]]:
    """The templates, and the identities of `REDRAWN` put into them, as the evaluation `toyworld` draws them."""
    studio, first_seed = instruments.studio, toy.number * SEEDS_PER_STORY
    identities, _ = find_identities(instruments, toy, first_seed)
    pictures: dict[str, list[Picture]] = {name: [] for name in (TEMPLATE, *REDRAWN)}
    for frame in toy.story.frames:
        cache = studio.sample_frame(frame, first_seed + FIRST_FRAME + frame.index, silent)
        template = studio.picture(cache.final)
        layout = studio.find(frame, template, None)
        pictures[TEMPLATE].append(template)
        for source in REDRAWN:
            pictures[source].append(studio.picture(studio.put_in(frame, cache, layout, identities[source], silent)))
    return pictures


def draw_together(instruments: Instruments, toy: ToyStory) -> list[Picture]:
    """The frames drawn with AMSA, as the evaluation `storynizor` draws them."""
    mode: DrawingMode = next(each for each in DRAWING_MODES if each.name == ON)
    return draw_story(instruments.studio, toy.story, mode, toy.number * SEEDS_PER_STORY + FIRST_FRAME).pictures


def as_written(pictures: Sequence[Picture]) -> list[Picture]:
    """The pictures as files of 8 bits give them back."""
    return [(each.clamp(0, 1) * _LEVELS).round() / _LEVELS for each in pictures]


def score_pictures(instruments: Instruments, story: Story, pictures: Sequence[Picture]) -> StoryScores:
    """What `story-identity score --encoders toyworld` gives for the pictures."""
    return score_story(features_of(instruments, story, pictures))


def features_of(instruments: Instruments, story: Story, pictures: Sequence[Picture]) -> StoryFeatures:
    """What the toy world's detector and face recogniser see, by the report's functions."""
    settings = instruments.studio.settings
    thresholds = {"box_threshold": settings.box_threshold, "text_threshold": settings.text_threshold}
    layouts = search_frames(instruments.detector, thresholds, story, pictures, silent)
    return story_features(story, pictures, layouts, Encoders(recogniser=instruments.recogniser))


def face_sim_of(scores: StoryScores) -> float | None:
    """Face-Sim of a story; None where there are no two faces."""
    found = scores.scores[FACE_SIM]
    return None if found is None else found.mean


def make_tables(rows: Rows) -> str:
    """All tables, as Markdown."""
    return "\n\n".join(part(rows) for part in (about, _order, _table, _steps))


def _order(rows: Rows) -> str:
    by = {key: _sorted_by(rows, key) for key in ("face_sim", "evaluated")}
    said = " < ".join(_LABELS[mode].strip("*") for mode in by["face_sim"])
    same = "the same" if by["face_sim"] == by["evaluated"] else "another"
    return f"By the report: {said}. The evaluation's own order is {same}."


def _sorted_by(rows: Rows, key: str) -> list[str]:
    """The modes by their mean, the lowest first; one without a mean comes before all."""
    means: dict[str, float] = {}
    for mode in _ORDER:
        mean = mean_of_known([row[key][mode] for row in rows])
        means[mode] = -torch.inf if mean is None else mean
    return sorted(_ORDER, key=means.__getitem__)


def _table(rows: Rows) -> str:
    wanted = sum(row["faces_wanted"] for row in rows)
    lines = [
        (
            label,
            cell(rows, at("face_sim", mode)),
            cell(rows, at("evaluated", mode)),
            f"{sum(row['faces'][mode] for row in rows)} of {wanted}",
        )
        for mode, label in _LABELS.items()
    ]
    return table(("**Face-Sim**", "Score Story's report", "the evaluation", "faces found"), lines)


def _steps(rows: Rows) -> str:
    lines = [
        (f"{_LABELS[mode]} − {_LABELS[other]}", difference(rows, at("face_sim", mode), at("face_sim", other)))
        for other, mode in zip(_ORDER, _ORDER[1:], strict=False)
    ]
    return table(("**From one to the next**", "Face-Sim, Score Story's report"), lines)


def _kept(folder: Path | None, number: int, rows: Sequence[str], wanted: Sequence[str]) -> dict[str, list[Picture]]:
    path = None if folder is None else pictures_of(folder, number)
    if path is None or not path.is_file():
        return {}
    found: Mapping[str, list[Picture]] = read_strip(path, rows)
    return {name: found[name] for name in wanted}
