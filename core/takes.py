"""Several pictures of each frame, of which one is kept: by number, or by how alike the faces are.

By likeness, the pictures that are kept are to have a large Face-Sim together (`scores.story_scores`): with references,
Face-Sim(R). Above the cosine that two pictures of one person usually have, more likeness is no gain: a face that is
copied from frame to frame, pose and expression included, has the largest cosines of all (MultiID-Bench,
arXiv:2510.14975). So a pair of faces is worth its cosine x up to that ceiling c, and 2 c - x beyond it.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from .quoting import quote
from .scores.cosines import cosine_matrix, cosines_of_rows
from .shapes import Float
from .story_fields import check_text

_BETWEEN = re.compile("[,;\n\u3001]")
_PAIR = re.compile(r"\s*(\d{1,6})\s*:\s*(\d{1,6})\s*")
_MISSING = -1.0
"""What a pair is worth in which a face was not found: the least that a cosine can be."""
_STARTS = 32
"""From how many takes the search begins, besides their average."""
_SWEEPS = 100
"""More rounds than a search ever needs."""


@dataclass(frozen=True)
class Take:
    """One picture of a frame, as encoders see it.

    Args:
        faces: By character of the cast, the face's embedding, of any length; None where no face was found.
        agreement: The cosine of the picture with its prompt (CLIP-T); None if not measured.
    """

    faces: Mapping[str, Float[Tensor, " f"] | None]
    agreement: float | None = None


@dataclass(frozen=True)
class Choice:
    """The take that is kept of one frame.

    Args:
        take: Which one, 0-based.
        is_written: Whether the user wrote its number.
        likeness: Per take, the mean cosine of its faces with the references, or with those of the other frames' kept
            takes; None where nothing could be compared.
        agreement: Per take, see `Take`.
        below_floor: The takes whose agreement is below the floor.
        copies: The takes whose likeness is above the ceiling.
    """

    take: int
    is_written: bool
    likeness: tuple[float | None, ...]
    agreement: tuple[float | None, ...]
    below_floor: tuple[int, ...] = ()
    copies: tuple[int, ...] = ()


def takes_by_number(text: str) -> dict[int, int]:
    """Which take of which frame a text such as "3: 2, 7: 1" means: frame 3 keeps take 2, frame 7 take 1.

    Full-width digits, commas and colons count as the others. An empty text names none.

    Raises:
        ValueError: If the text is no such list, or names a frame twice.
    """
    check_text(text, "takes")
    chosen: dict[int, int] = {}
    for part in filter(str.strip, _BETWEEN.split(unicodedata.normalize("NFKC", text))):
        match = _PAIR.fullmatch(part)
        if match is None or not int(match[1]) or not int(match[2]):
            raise ValueError(
                f'takes: {quote(part.strip(), 60)} is no frame with its take; write "3: 2" to keep take 2 of frame 3.'
            )
        frame, take = int(match[1]), int(match[2])
        if frame in chosen:
            raise ValueError(f"takes: frame {frame} is named twice; keep one take of it.")
        chosen[frame] = take
    return chosen


def check_written(written: Mapping[int, int], counts: Mapping[int, int]) -> None:
    """Raise a ValueError where a written frame or take is not there.

    Args:
        written: Takes by the number of the frame, from 1.
        counts: How many takes there are of each frame, by the same numbers.
    """
    for frame, take in written.items():
        if frame not in counts:
            known = ", ".join(map(str, list(counts)[:20])) + (", …" if len(counts) > 20 else "")
            raise ValueError(f"takes: frame {frame} is not among the pictures, which are of the frames {known}.")
        if take > counts[frame]:
            raise ValueError(
                f"takes: take {take} of frame {frame} is not there; it has {counts[frame]}. Write a smaller number, or "
                "raise takes of Each Frame."
            )


def choose_takes(
    frames: Sequence[Sequence[Take]],
    written: Mapping[int, int] | None = None,
    references: Mapping[str, Float[Tensor, "k f"]] | None = None,
    ceiling: float | None = None,
    floor: float | None = None,
) -> list[Choice]:
    """Keep one take per frame so that the faces of each character are alike.

    A character with references is compared with these, and any other with the same character in the kept takes of all
    other frames. The latter is searched for from several beginnings by changing one frame at a time, until no such
    change is a gain. Of equal takes the one that agrees best with the prompt is kept, then the first.

    Args:
        frames: Per frame its takes, at least one.
        written: Takes that are kept in any case, by frame; both 0-based.
        references: By character, embeddings of reference pictures.
        ceiling: The cosine that two pictures of one person usually have (see this module); None if not known.
        floor: The least agreement. A frame in which no take has it keeps the take with the largest.
    """
    written, known = written or {}, references or {}
    row_of = _rows_of(frames)
    takes = [take for own in frames for take in own]
    alone, pairs = _worths(takes, row_of, known, ceiling)
    allowed = [[written[row]] if row in written else _above(own, floor) for row, own in enumerate(frames)]
    kept = _search(frames, alone, pairs, row_of, allowed)
    likeness = _likeness(takes, row_of, [_place(row_of, row) + take for row, take in enumerate(kept)], known)
    return [
        _choice(own, kept[row], row in written, likeness[_place(row_of, row) :][: len(own)], ceiling, floor)
        for row, own in enumerate(frames)
    ]


def choose_one_by_one(frames: Sequence[Sequence[Take]], floors: Sequence[float | None] | None = None) -> list[int]:
    """The take of each frame, 0-based, whose faces are most like those of all takes of the other frames.

    This is where the search of `choose_takes` begins, without references and ceiling. What it keeps of one frame does
    not depend on what it keeps of the others.

    Args:
        frames: Per frame its takes, at least one.
        floors: The least agreement of each frame's takes; see `choose_takes`.
    """
    row_of = _rows_of(frames)
    alone, pairs = _worths([take for own in frames for take in own], row_of, {}, None)
    least = floors or [None] * len(frames)
    allowed = [_above(own, floor) for own, floor in zip(frames, least, strict=True)]
    return _best_of_each(frames, alone.numpy() + _to_all_takes(pairs.numpy(), row_of), allowed)


def _rows_of(frames: Sequence[Sequence[Take]]) -> Tensor:
    """Of which frame each take is, of all takes in order."""
    return torch.tensor([row for row, takes in enumerate(frames) for _ in takes]).long()


def _to_all_takes(pairs: np.ndarray, row_of: Tensor) -> np.ndarray:
    """What each take is worth with the others, on average over the takes of each frame."""
    rows = row_of.numpy()
    return pairs @ (1 / np.bincount(rows))[rows]


def _best(takes: Sequence[Take], worth: Sequence[float], allowed: Sequence[int]) -> int:
    """Of one frame, the allowed take that is worth most; of equals the one that agrees best, then the first."""
    return max(allowed, key=lambda take: (round(worth[take], 9), takes[take].agreement or 0.0, -take))


def _best_of_each(frames: Sequence[Sequence[Take]], worth: np.ndarray, allowed: Sequence[Sequence[int]]) -> list[int]:
    """The best take of every frame where what a take is worth is known."""
    firsts = accumulate((len(takes) for takes in frames), initial=0)
    return [
        _best(takes, worth[first:][: len(takes)].tolist(), some)
        for takes, first, some in zip(frames, firsts, allowed, strict=False)
    ]


def _search(
    frames: Sequence[Sequence[Take]], alone: Tensor, pairs: Tensor, row_of: Tensor, allowed: Sequence[Sequence[int]]
) -> list[int]:
    """The best of several choices that no change of a single frame makes better."""
    firsts = [_place(row_of, row) for row in range(len(frames))]
    own, together = alone.numpy(), pairs.numpy()  # numpy is much quicker with few numbers at a time

    def improved(worth: np.ndarray) -> tuple[float, list[int]]:
        kept = _best_of_each(frames, worth, allowed)
        for _ in range(_SWEEPS):
            before = list(kept)
            worth = own + together[:, [first + take for first, take in zip(firsts, kept, strict=True)]].sum(axis=1)
            for row, first in enumerate(firsts):
                take = _best(frames[row], worth[first:][: len(frames[row])].tolist(), allowed[row])
                worth += together[:, first + take] - together[:, first + kept[row]]
                kept[row] = take
            if kept == before:  # as it comes to be, since each change makes the sum larger
                break
        places = [first + take for first, take in zip(firsts, kept, strict=True)]
        return round(float(own[places].sum() + together[np.ix_(places, places)].sum() / 2), 9), kept

    beginnings = (_to_all_takes(together, row_of), *together[:_STARTS])
    results = [improved(own + each) for each in beginnings]
    return max(results, key=lambda result: result[0])[1]


def _place(row_of: Tensor, row: int) -> int:
    """Where the takes of a frame begin among all."""
    return int((row_of < row).sum())


def total_worth(
    kept: Sequence[Take], references: Mapping[str, Float[Tensor, "k f"]] | None = None, ceiling: float | None = None
) -> float:
    """What `choose_takes` makes large: the sum over characters of what their faces are worth together.

    Args:
        kept: One take per frame.
        references: See `choose_takes`.
        ceiling: Likewise.
    """
    alone, pairs = _worths(kept, torch.arange(len(kept)), references or {}, ceiling)
    return float(alone.sum() + pairs.sum() / 2)


def _worths(
    takes: Sequence[Take], row_of: Tensor, references: Mapping[str, Tensor], ceiling: float | None
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n n"]]:
    """What each take is worth by itself, and with each take of another frame."""
    alone = torch.zeros(len(takes), dtype=torch.double)
    pairs = torch.zeros(len(takes), len(takes), dtype=torch.double)
    for name in dict.fromkeys(name for take in takes for name in take.faces):
        shown = torch.tensor([name in take.faces for take in takes])
        faces = [take.faces.get(name) for take in takes]
        if name in references:
            worth = [_MISSING if each is None else _worth(_cosines(each, references[name]), ceiling) for each in faces]
            alone += torch.where(shown, torch.tensor(worth, dtype=torch.double), 0.0)
            continue
        frames = len(row_of[shown].unique())
        if frames == 1:
            alone += torch.where(shown & torch.tensor([each is None for each in faces]), _MISSING, 0.0)
            continue
        apart = shown[:, None] & shown & (row_of[:, None] != row_of)
        cosines = cosine_matrix(faces)
        worth = torch.where(cosines.isnan(), _MISSING, _capped(cosines, ceiling))
        pairs += torch.where(apart, worth, 0.0) / (frames - 1)
    return alone, pairs


def _worth(cosines: Tensor, ceiling: float | None) -> float:
    return float(_capped(cosines, ceiling).mean())


def _capped(cosines: Tensor, ceiling: float | None) -> Tensor:
    return cosines if ceiling is None else torch.minimum(cosines, 2 * ceiling - cosines)


def _cosines(face: Tensor, others: Tensor) -> Float[Tensor, " k"]:
    return cosines_of_rows(face.expand(len(others), -1), others)


def _likeness(
    takes: Sequence[Take], row_of: Tensor, kept: Sequence[int], references: Mapping[str, Tensor]
) -> list[float | None]:
    """Per take the mean over its characters of their Face-Sim(R), or of the mean cosine to the other frames' faces."""
    own = []
    for name in dict.fromkeys(name for take in takes for name in take.faces):
        faces = [take.faces.get(name) for take in takes]
        if name in references:
            blank = torch.full((len(references[name]),), torch.nan, dtype=torch.double)
            cosines = torch.stack([blank if each is None else _cosines(each, references[name]) for each in faces])
        else:
            places = torch.tensor(kept)
            same = row_of[:, None] == row_of[places]
            cosines = cosine_matrix(faces)[:, places].masked_fill(same, torch.nan)
        own.append(cosines.nanmean(dim=1))
    if not own:
        return [None] * len(takes)
    return [None if np.isnan(each) else each for each in torch.stack(own).nanmean(dim=0).tolist()]


def _above(takes: Sequence[Take], floor: float | None) -> list[int]:
    """The takes that agree with their prompt; the best of them where none does."""
    everything = list(range(len(takes)))
    if floor is None:
        return everything
    agreement = [-1.0 if take.agreement is None else take.agreement for take in takes]
    return [take for take in everything if agreement[take] >= floor] or [max(everything, key=agreement.__getitem__)]


def _choice(
    takes: Sequence[Take],
    kept: int,
    is_written: bool,
    likeness: Sequence[float | None],
    ceiling: float | None,
    floor: float | None,
) -> Choice:
    agreement = tuple(take.agreement for take in takes)
    low = [] if floor is None else [n for n, each in enumerate(agreement) if each is not None and each < floor]
    copies = [] if ceiling is None else [n for n, each in enumerate(likeness) if each is not None and each > ceiling]
    return Choice(kept, is_written, tuple(likeness), agreement, tuple(low), tuple(copies))
