"""A set of stories drawn and scored, story by story; stopped at any point, it can be continued."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.layout import Layout
from ..core.quoting import printable, quote_all
from ..core.scores.measuring import Encoders, check_layouts, check_story_pictures, story_features
from ..core.scores.statistics import mean_of_known
from ..core.scores.story_scores import FACE_SIM, StoryFeatures, score_story
from ..core.scores.vistory import character_count_match, character_identity, mean_identity
from ..core.shapes import Float
from ..core.story import Story
from ..core.story_fields import read_json
from .benchmark_stories import VISTORYBENCH, BenchmarkStory
from .detection import Detector
from .processes import refuse_launcher
from .run import run_story
from .run_files import frame_file, write_json
from .run_folder import RunFolder
from .run_settings import RunSettings
from .scoring import (
    PICTURE_TYPES,
    Raters,
    ScoreSettings,
    Subject,
    encoder_names,
    find_layouts,
    open_detector,
    open_encoders,
    open_raters,
    rate_pictures,
    read_picture,
    search_frames,
)

FORMAT = "story-identity-benchmark/1"
Report = Callable[[str, int, int], None]
_UNRECORDED = ("device", "judge")  # the judge's address is the user's own affair


@dataclass(frozen=True)
class Plan:
    """What is done with every story.

    Args:
        benchmark: The set's name.
        scores: What to score with.
        run: How stories are drawn; None where pictures are given.
        images: A folder of pictures, a folder per story; None where stories are drawn.
    """

    benchmark: str
    scores: ScoreSettings
    run: RunSettings | None = None
    images: Path | None = None

    def __post_init__(self) -> None:
        if (self.run is None) == (self.images is None):
            raise ValueError("Give --checkpoint, with which the stories are drawn, or --images with their pictures.")
        if self.benchmark == VISTORYBENCH and self.images is None:
            raise ValueError(
                f"{VISTORYBENCH}'s prompts are longer than the 77 tokens that this command's checkpoints read: draw "
                "its stories elsewhere, and give the pictures with --images."
            )

    def record(self) -> dict[str, Any]:
        """What the numbers depend on, in JSON's own types."""
        scores = {key: value for key, value in asdict(self.scores).items() if value and key not in _UNRECORDED}
        drawn = None if self.run is None else self.run.record()
        return {"format": FORMAT, "benchmark": self.benchmark, "scores": scores, "run": drawn}


@dataclass(frozen=True)
class _Instruments:
    """What measures, loaded once for all stories."""

    plan: Plan
    encoders: Encoders
    raters: Raters
    detector: tuple[Detector, Mapping[str, float]] | None

    def layouts(self, subject: Subject, pictures: Sequence[Tensor], report: Report) -> list[Layout] | None:
        if self.detector is not None:
            return search_frames(*self.detector, subject.story, pictures, report)
        return find_layouts(self.plan.scores, subject, pictures, report)


def run_benchmark(plan: Plan, stories: Sequence[BenchmarkStory], out: Path, report: Report) -> list[dict[str, Any]]:
    """Draw and score every story that is not done yet; returns the numbers of all, in their order.

    `out` gets `benchmark.json`, which says what the numbers depend on; `runs/NAME`, a run's folder per story that is
    drawn; and `scores/NAME.json`, which is there when a story is done.

    Raises:
        ValueError: Before anything is drawn, if pictures do not fit the stories, or if `out` has a benchmark with other
            settings; also for whatever drawing and scoring refuse.
        FileNotFoundError: If pictures or files of the encoders are missing.
    """
    refuse_launcher()
    if plan.images is not None:
        for each in stories:
            _check_pictures(plan, each)
    _check_casts(plan, stories)
    _claim(out, plan.record())
    missing = [each for each in stories if not _numbers_of(out, each).is_file()]
    if missing:
        searched = plan.scores.encoders or plan.scores.grounding_dino
        detector = open_detector(plan.scores) if searched else None
        instruments = _Instruments(plan, open_encoders(plan.scores), open_raters(plan.scores), detector)
        for each in missing:
            report("stories", stories.index(each), len(stories))
            subject = _subject(plan, each, out, report)
            numbers = _measure(instruments, each, subject, report)
            _numbers_of(out, each).parent.mkdir(parents=True, exist_ok=True)
            write_json(_numbers_of(out, each), numbers)  # last: it says that the story is done
    report("stories", len(stories), len(stories))
    return [read_json(_numbers_of(out, each)) for each in stories]


def _claim(out: Path, record: Mapping[str, Any]) -> None:
    """Note what the numbers of a folder depend on, or refuse one whose numbers depend on something else."""
    path = out / "benchmark.json"
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
    found, wanted = _flat(read_json(path)), _flat(record)
    other = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
    if other:
        raise ValueError(
            f"The benchmark in {printable(str(out))} was done with another {quote_all(other, 5)}; give another folder."
        )


def _flat(record: Any) -> dict[str, Any]:
    """The entries of a record and of its two parts, as JSON gives them back."""
    flat: dict[str, Any] = {}
    for key, value in record.items() if isinstance(record, dict) else ():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        flat |= {f"{key}.{name}".rstrip("."): _as_json(part) for name, part in parts}
    return flat


def _as_json(value: Any) -> Any:
    return [_as_json(each) for each in value] if isinstance(value, list | tuple) else value


def _numbers_of(out: Path, story: BenchmarkStory) -> Path:
    return out / "scores" / f"{story.name}.json"


def _check_casts(plan: Plan, stories: Sequence[BenchmarkStory]) -> None:
    """Refuse frames of several people of whom nobody will say who is where."""
    scores = plan.scores
    if scores.encoders or scores.grounding_dino or (plan.run is not None and not plan.run.together):
        return
    for each in stories:
        frame = next((frame for frame in each.story.frames if len(frame.cast) > 1), None)
        if frame is not None and scores.faces:
            names = quote_all(character.name for character in frame.cast)
            raise ValueError(
                f"{printable(each.name)}: {frame.label} shows {names}, and nothing says whose face is whose: give a "
                "detector (--grounding-dino, --sam, --bert)."
            )


def _check_pictures(plan: Plan, each: BenchmarkStory) -> None:
    files, frames = _pictures_of(plan, each), each.story.frames
    if len(files) != len(frames):
        raise ValueError(
            f"{printable(each.name)}: there are {len(files)} pictures in --images, and the story has {len(frames)} "
            "frames: give one for each, in the order of their names."
        )


def _pictures_of(plan: Plan, each: BenchmarkStory) -> list[Path]:
    assert plan.images is not None  # asked only where pictures are given
    folder = plan.images / each.name
    if not folder.is_dir():
        raise FileNotFoundError(f"--images has no folder {printable(each.name)} with the pictures of that story.")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_TYPES)


def _subject(plan: Plan, each: BenchmarkStory, out: Path, report: Report) -> Subject:
    """A story's pictures, drawn first if need be."""
    if plan.run is None:
        return Subject(each.story, _pictures_of(plan, each))
    folder = run_story(each.story, plan.run, out / "runs" / each.name, report=report)
    masks = None if plan.run.together else RunFolder(folder.root).masks_folder
    return Subject(each.story, [folder.root / frame_file(frame.index) for frame in each.story.frames], masks)


def _measure(instruments: _Instruments, each: BenchmarkStory, subject: Subject, report: Report) -> dict[str, Any]:
    """The numbers of one story, in JSON's own types."""
    story, settings, pictures = each.story, instruments.plan.scores, subject.pictures()
    check_story_pictures(story, pictures, instruments.encoders, {})
    layouts = instruments.layouts(subject, pictures, report)
    check_layouts(story, pictures, layouts, instruments.encoders)
    features = story_features(story, pictures, layouts, instruments.encoders, {}, report)
    scores = score_story(features, settings.seed)
    ratings = rate_pictures(instruments.raters, story, pictures, report)
    numbers: dict[str, Any] = {key: None if found is None else found.mean for key, found in scores.scores.items()}
    numbers |= {key: mean_of_known(values) for key, values in ratings.of_frames.items()}
    if instruments.plan.benchmark == VISTORYBENCH:
        numbers |= vistory_numbers(features, each, instruments.encoders)
    faces = [(person.found.get(FACE_SIM, 0), len(person.frames)) for person in scores.characters]
    return {
        "story": each.name,
        "frames": len(story.frames),
        "encoders": encoder_names(instruments.encoders),
        "numbers": numbers,
        "faces_found": sum(found for found, _ in faces) if FACE_SIM in scores.scores else None,
        "faces_wanted": sum(wanted for _, wanted in faces),
        "ratings_missing": {key: sum(v is None for v in values) for key, values in ratings.of_frames.items()},
    }


def vistory_numbers(features: StoryFeatures, each: BenchmarkStory, encoders: Encoders) -> dict[str, float | None]:
    """ViStoryBench's numbers of a story: of characters who have references and whose kind of encoder is there."""
    identities, kinds = [], {}
    for person in features.characters:
        kind = "faces" if person.name in each.people else "clip"
        own, references = getattr(person, kind), each.references.get(person.name, ())
        if own is None or not references:
            continue
        kinds[person.name] = own
        known = _reference_features(encoders, kind, [read_picture(path) for path in references], person.name)
        identities.append(character_identity(_rows([own[frame] for frame in person.frames], known), known))
    return {**mean_identity(identities), "occm": _count_match(each.story, kinds)}


def _reference_features(encoders: Encoders, kind: str, pictures: Sequence[Tensor], name: str) -> Float[Tensor, "r d"]:
    if kind == "clip":
        assert encoders.clip is not None  # there are features by it
        return encoders.clip.embed_images(pictures)
    assert encoders.recogniser is not None  # there are features by it
    found = encoders.recogniser.find_all(pictures, [None] * len(pictures))
    faces = [face.embedding for face in found if face is not None]
    if not faces:
        raise ValueError(f"The recogniser finds no face in any reference picture of {printable(name)}.")
    return torch.stack(faces)


def _rows(found: Sequence[Tensor | None], like: Float[Tensor, "r d"]) -> Float[Tensor, "n d"]:
    known = [each for each in found if each is not None]
    return torch.stack(known) if known else like[:0]


def _count_match(story: Story, kinds: Mapping[str, Sequence[Tensor | None]]) -> float | None:
    """The mean of OCCM over the frames, of the characters who were looked for."""
    values = []
    for frame in story.frames:
        looked_for = [kinds[each.name] for each in frame.cast if each.name in kinds]
        if looked_for:
            seen = sum(own[frame.index] is not None for own in looked_for)
            values.append(character_count_match(seen, len(looked_for)))
    return mean_of_known(values)
