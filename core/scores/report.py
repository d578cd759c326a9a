"""A story's scores as text, as JSON and as rows of a table."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..quoting import printable, quote
from .ratings import NO_RATINGS, Ratings
from .statistics import Interval
from .story_scores import CLIP_T, FACE_SIM, LABELS, CharacterScores, StoryScores

COPIES_ABOVE = 0.46
"""The median ArcFace cosine of two photographs of one person (MultiID-Bench, arXiv:2510.14975): a Face-Sim far above it
means that faces are copied, pose and expression included."""
_ARCFACE = ("insightface", "auraface")
_COPIES_ABOVE = {**dict.fromkeys(_ARCFACE, COPIES_ABOVE), "toyworld": 0.96}
"""By recogniser; the toy world's is the mean over drawings of one person (docs/evidence.md)."""


def copies_above(recogniser: str) -> float | None:
    """The cosine that faces of one person in two pictures usually have; None where it is not known.

    Args:
        recogniser: Its name.
    """
    return _COPIES_ABOVE.get(recogniser)


def as_mapping(scores: StoryScores, about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, in JSON's own types; cosines as they are, None where nothing could be compared.

    Args:
        scores: A story's.
        about: What else belongs on record, such as the names of the encoders.
    """
    return {
        "format": "story-identity-scores/1",
        **about,
        "scores": {key: None if each is None else vars(each) for key, each in scores.scores.items()},
        "clip_t_of_frames": None if scores.clip_t is None else list(scores.clip_t),
        "characters": [_character(each) for each in scores.characters],
    }


def _character(person: CharacterScores) -> dict[str, Any]:
    matrix = None
    if person.matrix is not None:
        matrix = [[None if math.isnan(value) else value for value in row] for row in person.matrix.tolist()]
    return {
        "name": person.name,
        "frames": [frame + 1 for frame in person.frames],
        "found": dict(person.found),
        "scores": dict(person.scores),
        "of_frames": {key: list(values) for key, values in person.of_frames.items()},
        "least_alike_frame": None if person.worst is None else person.worst + 1,
        "face_cosines": matrix,
    }


def faces_by_frame(numbers: str) -> dict[int, list[tuple[str, float | None, bool]]]:
    """What `as_mapping`, as JSON, says of the faces: by frame, from 0, who is in it, their Face-Sim, and the worst.

    Returns:
        For each frame the characters of its cast: their name, the mean cosine of their face to those of their other
        frames (None where there is none), and whether it is the least of theirs.

    Raises:
        ValueError: If the text is no such JSON.
    """
    try:
        known = json.loads(numbers)
        found: dict[int, list[tuple[str, float | None, bool]]] = {}
        for person in known["characters"]:
            values = person["of_frames"].get(FACE_SIM)
            for number in person["frames"]:
                value = None if values is None or values[number - 1] is None else float(values[number - 1])
                own = (str(person["name"]), value, number == person["least_alike_frame"])
                found.setdefault(number - 1, []).append(own)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as problem:
        raise ValueError(f"{quote(numbers, 60)} has no scores of a story; connect numbers of Score Story.") from problem
    return found


def as_rows(scores: StoryScores, ratings: Ratings = NO_RATINGS) -> list[list[Any]]:
    """A table: a line of titles, then one row per frame and character; an empty cell where there is no number.

    A frame in which nobody is has one row without a name. CLIP-T and ratings are the frame's, and stand in each of its
    rows.
    """
    keys = [key for key in LABELS if any(key in person.of_frames for person in scores.characters)]
    rows: list[list[Any]] = [["frame", "character", *([CLIP_T] if scores.clip_t else []), *ratings.of_frames, *keys]]
    for frame in range(scores.frames):
        whole: list[Any] = [scores.clip_t[frame]] if scores.clip_t else []
        whole += ["" if values[frame] is None else values[frame] for values in ratings.of_frames.values()]
        present = [person for person in scores.characters if frame in person.frames]
        for person in present:
            values = [person.of_frames[key][frame] if key in person.of_frames else None for key in keys]
            rows.append([frame + 1, person.name, *whole, *("" if value is None else value for value in values)])
        if not present:
            rows.append([frame + 1, "", *whole, *([""] * len(keys))])
    return rows


def as_text(scores: StoryScores, recogniser: str = "", threshold: float | None = None) -> str:
    """Some lines for a person to read: the scores times 100 with their intervals, and what stands out.

    Args:
        scores: A story's.
        recogniser: The name of the face recogniser.
        threshold: The cosine above which its faces count as one person's.
    """
    lines = [f"{LABELS[key]:<15} {interval_text(each)}" for key, each in scores.scores.items()]
    lines += [line for person in scores.characters for line in _about(person, threshold)]
    lines += notes(scores, recogniser)
    return "\n".join(lines) or "Nothing was measured."


def interval_text(interval: Interval | None) -> str:
    """A score times 100, with its interval where frames are enough for one."""
    if interval is None:
        return "nothing to compare"
    text = f"{100 * interval.mean:.1f}"
    has_width = interval.low < interval.high
    return f"{text} ({100 * interval.low:.1f} to {100 * interval.high:.1f})" if has_width else text


def notes(scores: StoryScores, recogniser: str = "") -> list[str]:
    """What a reader should know of these scores."""
    found = scores.scores.get(FACE_SIM)
    if recogniser in _ARCFACE and found is not None and found.mean > COPIES_ABOVE:
        return [
            f"Face-Sim is above {100 * COPIES_ABOVE:.0f}, what two photographs of one person have among themselves: "
            "faces may be copies of one another, pose and expression included."
        ]
    return []


def _about(person: CharacterScores, threshold: float | None) -> Sequence[str]:
    name = printable(person.name, 60)
    lines = [f"{name}: {_found_text(person)}"] if person.found else []
    values = person.of_frames.get(FACE_SIM)
    if values is None or person.worst is None:
        return lines
    lowest = values[person.worst]
    assert lowest is not None  # `worst` is a frame that has one
    lines.append(f"{name}: the face of frame {person.worst + 1} is least like the others ({100 * lowest:.1f})")
    if threshold is not None and (strangers := frames_unlike_most(person, threshold)):
        listed = f"frame{'s' if len(strangers) > 1 else ''} {', '.join(str(frame + 1) for frame in strangers)}"
        lines.append(
            f"{name}: in {listed} the face is unlike most of the others (below {100 * threshold:.1f}, the recogniser's "
            "usual threshold)"
        )
    return lines


def frames_unlike_most(person: CharacterScores, threshold: float) -> list[int]:
    """The frames, from 0, whose face counts as another person's than more than half of the other faces.

    Means would not do: one wrong person lowers everybody's.
    """
    if person.matrix is None:
        return []
    others = person.matrix.clone().fill_diagonal_(math.nan)
    known, below = (~others.isnan()).sum(dim=1), (others < threshold).sum(dim=1)
    return (2 * below > known).nonzero().flatten().tolist()


def _found_text(person: CharacterScores) -> str:
    wanted = len(person.frames)
    parts = [f"{count} of {wanted} {_THINGS[key]}" for key, count in person.found.items() if key in _THINGS]
    return f"found {', '.join(parts)}"


_THINGS = {FACE_SIM: "faces", "clip_i": "figures"}
