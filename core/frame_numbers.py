"""Which frames of a story a text such as "1-3, 7" means."""

import re
import unicodedata

from .quoting import printable
from .story_fields import check_text

_BETWEEN = re.compile("[,;\u3001]")
_RANGE = re.compile("\\s*(\\d{1,20})\\s*(?:[-\u2010-\u2015\u301c~]\\s*(\\d{1,20})\\s*)?")


def frame_numbers(text: str, count: int) -> list[int]:
    """Positions (0-based, ascending) that "all" or "1-3, 7" means in a story of `count` frames.

    Raises:
        ValueError: If the text is no such list, or names a frame that the story does not have.
    """
    ranges = frame_ranges(text)
    if ranges is None:
        return list(range(count))
    chosen = bytearray(count)
    for part, first, last in ranges:
        if not (1 <= first and last <= count):
            raise ValueError(f'frames: "{_shown(part)}" is outside the story, which has frames 1 to {count}.')
        chosen[first - 1 : last] = b"\1" * (last - first + 1)
    return [index for index, is_chosen in enumerate(chosen) if is_chosen]


def frame_ranges(text: str) -> list[tuple[str, int, int]] | None:
    """`number_ranges` of frames."""
    return number_ranges(text, "frames", "frame")


def number_ranges(text: str, field: str, thing: str) -> list[tuple[str, int, int]] | None:
    """The numbers and ranges of a list: each as it is written, and its first and last number; None for all.

    Full-width digits, commas and dashes count as the others.

    Raises:
        ValueError: If the text is no such list.
    """
    check_text(text, field)
    plain = unicodedata.normalize("NFKC", text)
    if plain.strip().lower() in ("", "all"):
        return None
    ranges = []
    for part in filter(str.strip, _BETWEEN.split(plain)):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise ValueError(f'{field}: "{_shown(part)}" is not a number or a range; write "all" or "1-3, 7".')
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise ValueError(f'{field}: "{_shown(part)}" counts down; write "{last}-{first}".')
        ranges.append((part, first, last))
    if not ranges:
        raise ValueError(f'{field}: "{_shown(text)}" chooses no {thing}; write "all" or "1-3, 7".')
    return ranges


def _shown(part: str) -> str:
    return printable(part.strip(), 60)
