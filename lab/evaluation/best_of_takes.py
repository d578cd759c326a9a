"""Several takes of every frame, of which one is kept: what choosing by faces gains, and what it costs elsewhere.

A take is a frame from another seed, with the same identities. Face-Sim and the faces found are those of Score Story's
report. The recogniser that measures is the one that chose, so the likeness of figures, of which it knows nothing, is
measured too.
"""

from collections.abc import Callable, Sequence
from functools import partial

from ...core.scores.statistics import mean_of_known
from ...core.scores.story_scores import FACE_SIM
from ...core.takes import Take, choose_one_by_one
from .identitystory import (
    DRAWN,
    FIRST_FRAME,
    SEEDS_PER_STORY,
    Instruments,
    Picture,
    Row,
    drawings,
    evaluation_settings,
    look_at_all,
    measure_agreement,
    open_instruments,
)
from .markdown import Rows, about, at, cell, difference, table
from .score_report import as_written, face_sim_of, features_of, score_pictures
from .stories import FRAMES, ToyStory, make_story
from .storynizor import PORTRAITS, measure_alike
from .variants import NARROW_RANK, counted_evaluations, silent

ONE, BEST, FLOOR, BY_WORDS = "one", "best", "floor", "by_words"
CHOICES = (ONE, BEST, FLOOR, BY_WORDS)
MOST = (SEEDS_PER_STORY - FIRST_FRAME) // FRAMES
"""How many takes have seeds of their own among a story's."""
_READ = ("scene", "person", "pose", "hair", "word", "prop")


def open_measure(takes: int) -> Callable[[int], tuple[Row, dict[str, list[Picture]]]]:
    """`measure_story` with the shipped weights."""
    return partial(measure_story, open_instruments(evaluation_settings(portraits=PORTRAITS, rank=NARROW_RANK)), takes)


def measure_story(instruments: Instruments, takes: int, number: int) -> tuple[Row, dict[str, list[Picture]]]:
    """Draw every frame of a story several times, and measure what each way of choosing among them keeps.

    Returns:
        The numbers, JSON's own types only, None where there is nothing to measure; and the pictures by choice, one per
        frame, in steps of 1/255 as files hold them.
    """
    toy = make_story(number)
    with counted_evaluations(instruments.studio) as counts:
        drawn = draw_takes(instruments, toy, takes)
    seen = [look_at_take(instruments, toy, pictures) for pictures in drawn]
    chosen = choose(list(zip(*seen, strict=True)))
    kept = {choice: [drawn[take][frame] for frame, take in enumerate(numbers)] for choice, numbers in chosen.items()}
    row = {
        "story": number,
        "people": [character.description for character in toy.story.characters],
        "evaluations": sum(counts),
        "faces_wanted": len(toy.people) * len(toy.plans),
        "chosen": chosen,
        **measure_pictures(instruments, toy, kept | {DRAWN: as_written(drawings(toy)[DRAWN])}),
    }
    return row, kept


def draw_takes(instruments: Instruments, toy: ToyStory, takes: int) -> list[list[Picture]]:
    """The story's frames, re-denoised with the discovered identities, from as many sets of seeds."""
    studio, first_seed = instruments.studio, toy.number * SEEDS_PER_STORY
    identities = {}
    for place, character in enumerate(toy.story.characters):
        seed = first_seed + place * studio.settings.portraits
        identities[character.name], _ = studio.discover(character, seed, lambda pictures: None, silent)
    drawn = []
    for take in range(takes):
        pictures = []
        for frame in toy.story.frames:
            cache = studio.sample_frame(frame, first_seed + FIRST_FRAME + take * FRAMES + frame.index, silent)
            layout = studio.find(frame, studio.picture(cache.final), None)
            pictures.append(studio.picture(studio.put_in(frame, cache, layout, identities, silent)))
        drawn.append(as_written(pictures))
    return drawn


def look_at_take(instruments: Instruments, toy: ToyStory, pictures: Sequence[Picture]) -> list[Take]:
    """A picture of every frame as a take of it, with the faces that the report's functions find.

    Agreement is the share of what the caption says that a reader finds, the mean of scene and people.
    """
    features = features_of(instruments, toy.story, pictures)
    seen = look_at_all(instruments, toy, pictures)
    takes = []
    for frame, (plan, picture, found) in enumerate(zip(toy.plans, pictures, seen, strict=True)):
        shares = measure_agreement(instruments.probe, [plan], [picture], [found], toy)
        faces = {person.name: person.faces[frame] for person in features.characters if person.faces is not None}
        takes.append(Take(faces, mean_of_known([shares["scene"], shares["person"]]) or 0.0))
    return takes


def choose(frames: Sequence[Sequence[Take]]) -> dict[str, list[int]]:
    """The number of the take that each choice keeps of every frame; the first of equals.

    `ONE` keeps the first take. `BEST` keeps the take whose faces are most like those of all takes in the other frames.
    `FLOOR` does the same among the takes whose agreement is at least the mean of the frame's takes. `BY_WORDS` keeps
    the take with the highest agreement.
    """
    agreement = [[take.agreement or 0.0 for take in takes] for takes in frames]
    means = [sum(values) / len(values) - 1e-9 for values in agreement]  # a mean of equals may be a little above them
    return {
        ONE: [0] * len(frames),
        BEST: choose_one_by_one(frames),
        FLOOR: choose_one_by_one(frames, means),
        BY_WORDS: [max(range(len(values)), key=values.__getitem__) for values in agreement],
    }


def measure_pictures(instruments: Instruments, toy: ToyStory, pictures: dict[str, list[Picture]]) -> Row:
    """Face-Sim by the report, likeness of figures, and agreement with the captions."""
    scores = {name: score_pictures(instruments, toy.story, images) for name, images in pictures.items()}
    seen = {name: look_at_all(instruments, toy, images) for name, images in pictures.items()}
    return {
        "face_sim": {name: face_sim_of(each) for name, each in scores.items()},
        "faces": {name: sum(one.found[FACE_SIM] for one in each.characters) for name, each in scores.items()},
        "alike": {name: measure_alike(instruments.probe, toy, images, seen[name]) for name, images in pictures.items()},
        "agreement": {
            name: measure_agreement(instruments.probe, toy.plans, images, seen[name], toy)
            for name, images in pictures.items()
        },
    }


def make_tables(takes: int, rows: Rows) -> str:
    """All tables, as Markdown."""
    labels = {
        ONE: "one take",
        BEST: f"best of {takes} by faces",
        FLOOR: f"best of {takes} by faces, with a floor on agreement",
        BY_WORDS: f"best of {takes} by agreement",
        DRAWN: "*drawn, one person throughout*",
    }
    return "\n\n".join((about(rows), _faces(rows, labels), _agreement(rows, labels)))


def _faces(rows: Rows, labels: dict[str, str]) -> str:
    wanted = sum(row["faces_wanted"] for row in rows)
    lines = [
        (label, *(cell(rows, at(key, name)) for key in ("face_sim", "alike")), f"{_found(rows, name)} of {wanted}")
        for name, label in labels.items()
    ]
    for name in CHOICES[1:]:
        gains = (difference(rows, at(key, name), at(key, ONE)) for key in ("face_sim", "alike"))
        lines.append((f"{labels[name]} − {labels[ONE]}", *gains, f"{_found(rows, name) - _found(rows, ONE):+d}"))
    return table(("**Faces**", "Face-Sim", "likeness of figures", "faces found"), lines)


def _found(rows: Rows, name: str) -> int:
    return sum(row["faces"][name] for row in rows)


def _agreement(rows: Rows, labels: dict[str, str]) -> str:
    lines = []
    for name in _READ:
        cells = [cell(rows, at("agreement", choice, name), 100, 1) for choice in labels]
        for choice in (BEST, FLOOR):
            both = at("agreement", choice, name), at("agreement", ONE, name)
            cells.append(difference(rows, *both, scale=100, digits=1))
        lines.append((name, *cells))
    titles = (*labels.values(), *(f"{labels[choice]} − {labels[ONE]}" for choice in (BEST, FLOOR)))
    return table(("**As the caption says, %**", *titles), lines)
