"""Scoring a folder of pictures of a story: what is read, by which encoders, and what is written."""

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ImageOps
from torch import Tensor

from ..core.atomic_files import atomic_write
from ..core.detectors.faces import Recogniser
from ..core.encoders import ImageTextEncoder
from ..core.encoders.judge import Judge
from ..core.encoders.quality import QAlign, load_qalign
from ..core.layout import Layout
from ..core.layout_search import find_layout
from ..core.quoting import printable, quote
from ..core.scores.measuring import Encoders, check_story_pictures, story_features
from ..core.scores.plot import draw_scores
from ..core.scores.ratings import Ratings
from ..core.scores.report import as_mapping, as_rows
from ..core.scores.story_scores import StoryScores, score_story
from ..core.shapes import Float
from ..core.story import Frame, Story
from .detection import Detector, load_grounded_sam
from .option_values import TOYWORLD
from .run_files import frame_file, opened, read_masks, write_json, write_picture
from .run_folder import RunFolder, story_of
from .run_settings import TOYWORLD_SETTINGS
from .score_page import build_page

PICTURE_TYPES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
QALIGN = "qalign"
JUDGE_KEY = "STORY_IDENTITY_JUDGE_KEY"
"""The environment variable with the key of the judge's endpoint."""
BOX_THRESHOLD, TEXT_THRESHOLD = 0.30, 0.25
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ScoreSettings:
    """What to score with; paths as text, empty for none.

    Args:
        encoders: "toyworld" for the detector and the face recogniser of the toy world.
        clip: A folder of CLIP.
        dino: A folder of DINOv2 or DINOv3.
        faces: A face recogniser: ENGINE or ENGINE=FOLDER.
        grounding_dino: A file of GroundingDINO, which finds the characters together with SAM.
        sam: A file of SAM.
        bert: The folder of GroundingDINO's tokenizer.
        masks: A folder of mask files as a run writes them, in place of a detector.
        references: Pictures of faces by character.
        quality: "qalign" for Q-Align by pyiqa.
        judge: The address of an endpoint that speaks OpenAI's chat protocol.
        judge_model: The model of it.
        device: Where CLIP, DINO, Q-Align and the detectors run.
        seed: Of the resamples of the intervals.
    """

    encoders: str = ""
    clip: str = ""
    dino: str = ""
    faces: str = ""
    grounding_dino: str = ""
    sam: str = ""
    bert: str = ""
    masks: str = ""
    references: tuple[tuple[str, str], ...] = ()
    device: str = "cpu"
    seed: int = 0
    quality: str = ""
    judge: str = ""
    judge_model: str = ""

    def __post_init__(self) -> None:
        if self.encoders not in ("", TOYWORLD):
            raise ValueError(f"--encoders is {quote(self.encoders)}; it can only be {TOYWORLD}.")
        if self.encoders and (self.faces or self.grounding_dino):
            raise ValueError("--encoders toyworld has its own face recogniser and detector: leave out the others.")
        if self.quality not in ("", QALIGN):
            raise ValueError(f"--quality is {quote(self.quality)}; it can only be {QALIGN}.")
        if bool(self.judge) != bool(self.judge_model):
            raise ValueError("A judge takes both --judge, its address, and --judge-model.")
        if not (self.encoders or self.clip or self.dino or self.faces):
            raise ValueError(
                "There is nothing to score with: give --faces dlib (or another recogniser), --clip FOLDER, --dino "
                f"FOLDER, or --encoders {TOYWORLD}."
            )
        detector = (self.grounding_dino, self.sam, self.bert)
        if any(detector) and not all(detector):
            raise ValueError("Finding characters takes all of --grounding-dino, --sam and --bert.")
        if self.masks and (any(detector) or self.encoders):
            raise ValueError("--masks says who is where; leave it out, or the detector.")


@dataclass(frozen=True)
class Subject:
    """What is scored.

    Args:
        story: The story.
        files: The picture of every frame.
        run_masks: The masks of a run; None for another folder.
    """

    story: Story
    files: Sequence[Path]
    run_masks: Path | None = None

    def pictures(self) -> list[Float[Tensor, "_ _ 3"]]:
        return [read_picture(path) for path in self.files]


def open_subject(folder: Path, story: Path | None) -> Subject:
    """A folder of a run, or of pictures, which belong to the frames of the story file in the order of their names.

    Raises:
        FileNotFoundError: If there is no folder, or a run lacks a frame.
        ValueError: If the story or the number of pictures does not fit.
    """
    place = printable(str(folder))
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {place}.")
    manifest = None if story is not None else RunFolder(folder).read_manifest()
    if manifest is not None:
        its = story_of(manifest)
        files = [folder / frame_file(frame.index) for frame in its.frames]
        lost = [path.name for path in files if not path.is_file()]
        if lost:
            raise FileNotFoundError(f"The run in {place} is not finished: it lacks {lost[0]}. Run it again to go on.")
        return Subject(its, files, RunFolder(folder).masks_folder)
    if story is None:
        raise ValueError(f"{place} is no folder of a run: say with --story FILE which story its pictures show.")
    its = Story.load(story)
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_TYPES)
    if len(files) != len(its.frames):
        raise ValueError(
            f"There are {len(files)} pictures in {place}, and the story has {len(its.frames)} frames: give one for "
            "each, in the order of their names."
        )
    return Subject(its, files)


def read_picture(path: Path) -> Float[Tensor, "h w 3"]:
    """A picture in [0, 1], upright as its EXIF says.

    Raises:
        ValueError: If it cannot be read.
    """
    with opened(path) as picture:
        pixels = np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    return torch.from_numpy(pixels).float() / 255


def open_encoders(settings: ScoreSettings) -> Encoders:
    """Load what the settings name.

    Raises:
        ModuleNotFoundError: If a package is missing.
        FileNotFoundError: If a file is missing.
        ValueError: If a file holds something else.
    """
    clip = dino = None
    recogniser = open_recogniser(settings)
    if settings.clip:
        from ..core.encoders.clip import load_clip

        clip = load_clip(Path(settings.clip), settings.device)
    if settings.dino:
        from ..core.encoders.dino import load_dino

        dino = load_dino(Path(settings.dino), settings.device)
    return Encoders(clip, dino, recogniser)


def open_recogniser(settings: ScoreSettings) -> Recogniser | None:
    """The face recogniser that the settings name; None for none."""
    if settings.encoders == TOYWORLD:
        from ..core.toyworld.recogniser import load_recogniser as load_toy_recogniser

        return load_toy_recogniser()
    if not settings.faces:
        return None
    from ..core.recognisers import load_recogniser

    engine, _, place = settings.faces.partition("=")
    return load_recogniser(engine, Path(place) if place else None)


@dataclass(frozen=True)
class Raters:
    """What rates whole frames; None is not asked.

    Args:
        quality: Q-Align.
        judge: A judge model.
    """

    quality: QAlign | None = None
    judge: Judge | None = None


def open_raters(settings: ScoreSettings) -> Raters:
    """What the settings name; a judge has the key of `JUDGE_KEY`.

    Raises:
        ModuleNotFoundError: If pyiqa is missing.
        ValueError: If the judge's address cannot be one.
    """
    judge = Judge(settings.judge, settings.judge_model, os.environ.get(JUDGE_KEY, "")) if settings.judge else None
    return Raters(load_qalign(settings.device) if settings.quality else None, judge)


def rate_pictures(raters: Raters, story: Story, pictures: Sequence[Tensor], report: Report) -> Ratings:
    """What Q-Align and a judge say of the pictures of a story's frames."""
    found: dict[str, Sequence[float | None]] = {}
    if raters.quality is not None:
        report("Q-Align", 0, 1)
        found |= raters.quality.rate(pictures)
        report("Q-Align", 1, 1)
    if raters.judge is not None:
        report("judge", 0, 1)
        described = [character.description for character in story.characters]
        found |= raters.judge.rate([frame.prompt for frame in story.frames], described, pictures)
        report("judge", 1, 1)
    return Ratings(found)


def find_layouts(
    settings: ScoreSettings, subject: Subject, pictures: Sequence[Tensor], report: Report
) -> list[Layout] | None:
    """Who is where in every frame: from mask files, by a detector, or from the masks of the run; None without any.

    Whoever a detector does not find has an empty mask. The run's own masks are those of its templates, in which the
    characters were put; a detector sees the finished frames.
    """
    frames = subject.story.frames
    if settings.masks or not (settings.encoders or settings.grounding_dino):
        folder = Path(settings.masks) if settings.masks else subject.run_masks
        if folder is None:
            return None
        return [
            read_masks(folder / frame_file(frame.index), frame, *picture.shape[:2])
            for frame, picture in zip(frames, pictures, strict=True)
        ]
    return search_frames(*open_detector(settings), subject.story, pictures, report)


def search_frames(
    detector: Detector, thresholds: Mapping[str, float], story: Story, pictures: Sequence[Tensor], report: Report
) -> list[Layout]:
    """Who is where in every frame, by a detector; whoever it does not find has an empty mask.

    Args:
        detector: Finds the characters by their class words.
        thresholds: `find_layout`'s box_threshold and text_threshold.
        story: What the pictures show.
        pictures: One per frame.
        report: Called with every frame.
    """
    layouts = []
    for frame, picture in zip(story.frames, pictures, strict=True):
        report("finding characters", frame.index, len(pictures))
        layouts.append(_find(detector, thresholds, frame, picture))
    report("finding characters", len(pictures), len(pictures))
    return layouts


def score_folder(
    folder: Path, story: Path | None, settings: ScoreSettings, out: Path, report: Report
) -> tuple[StoryScores, Encoders, Ratings]:
    """Score a folder and write scores.json, scores.csv, likeness.png and scores.html into another.

    Raises:
        FileNotFoundError: If something is missing.
        ValueError: If pictures, masks, references or encoders do not fit the story.
    """
    subject = open_subject(folder, story)
    pictures = subject.pictures()
    references = {name: [read_picture(Path(path))] for name, path in settings.references}
    encoders, raters = open_encoders(settings), open_raters(settings)
    check_story_pictures(subject.story, pictures, encoders, references)
    layouts = find_layouts(settings, subject, pictures, report)
    features = story_features(subject.story, pictures, layouts, encoders, references, report)
    scores = score_story(features, settings.seed)
    ratings = rate_pictures(raters, subject.story, pictures, report)
    write_scores(out, scores, encoders, subject, pictures, settings, ratings)
    return scores, encoders, ratings


def write_scores(
    out: Path,
    scores: StoryScores,
    encoders: Encoders,
    subject: Subject,
    pictures: Sequence[Tensor],
    settings: ScoreSettings,
    ratings: Ratings,
) -> None:
    """Write the four files; the page, which has everything in it, comes last."""
    about = {
        "encoders": encoder_names(encoders)
        | ({"quality": settings.quality} if settings.quality else {})
        | ({"judge": settings.judge_model} if settings.judge else {}),
        "threshold": threshold_of(encoders),
        "pictures": [path.name for path in subject.files],
        "prompt_tokens_over": tokens_over(encoders, subject.story),
        "seed": settings.seed,
        "ratings": ratings.as_mapping(settings.seed),
    }
    out.mkdir(parents=True, exist_ok=True)
    plot = draw_scores(scores, threshold_of(encoders))
    write_json(out / "scores.json", as_mapping(scores, about))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(as_rows(scores, ratings))
    _write(out / "scores.csv", text.getvalue())
    write_picture(out / "likeness.png", plot, {"content": "likeness"})
    page = build_page(scores, about, subject.story, pictures, plot, ratings)
    _write(out / "scores.html", page)


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def encoder_names(encoders: Encoders) -> dict[str, str]:
    """What measured what, for the record."""
    found = {"clip": encoders.clip, "dino": encoders.dino, "faces": encoders.recogniser}
    return {key: getattr(each, "name", TOYWORLD) for key, each in found.items() if each is not None}


def threshold_of(encoders: Encoders) -> float | None:
    """The recogniser's usual threshold; the toy world's has none."""
    return getattr(encoders.recogniser, "threshold", None)


def tokens_over(encoders: Encoders, story: Story) -> list[int] | None:
    """How many tokens of every prompt CLIP does not read; None without CLIP."""
    clip = encoders.clip
    return [clip.tokens_over(frame.prompt) for frame in story.frames] if isinstance(clip, ImageTextEncoder) else None


def open_detector(settings: ScoreSettings) -> tuple[Detector, Mapping[str, float]]:
    """The detector that the settings name, and its thresholds."""
    if settings.encoders == TOYWORLD:
        from ..core.toyworld.detector import load_detector

        return load_detector(), {key: TOYWORLD_SETTINGS[key] for key in ("box_threshold", "text_threshold")}
    dino, sam, bert = (Path(each) for each in (settings.grounding_dino, settings.sam, settings.bert))
    thresholds = {"box_threshold": BOX_THRESHOLD, "text_threshold": TEXT_THRESHOLD}
    return load_grounded_sam(dino, sam, bert, settings.device), thresholds


def _find(detector: Detector, thresholds: Mapping[str, Any], frame: Frame, picture: Tensor) -> Layout:
    if not frame.cast:
        return Layout((), torch.zeros((0, *picture.shape[:2]), dtype=torch.bool), frame.label)
    wanted = [(character.name, character.word) for character in frame.cast]
    return find_layout(
        detector.find, detector.segment, picture, wanted, frame.label, dilate_px=0, skip_missing=True, **thresholds
    )
