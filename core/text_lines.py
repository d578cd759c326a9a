"""Text as lines that fit a width, in any script."""

import unicodedata
from collections.abc import Callable, Iterator

Measure = Callable[[str], float]
"""The width of a text in pixels."""

_JOINER = "\u200d"
_VARIATION = range(0xFE00, 0xFE10)


def wrap(text: str, width: int | float, measure: Measure) -> list[str]:
    """The words of a text, as many on a line as fit.

    A word that is wider than the line, and text without spaces, breaks where it must, but never between a letter and
    the marks that belong to it. A single letter that is wider than the line has a line of its own.

    Args:
        text: Any text; all space between words counts as one.
        width: Of a line, in pixels.
        measure: The width of a text.
    """
    lines: list[str] = []
    for word in text.split():
        if lines and measure(f"{lines[-1]} {word}") <= width:
            lines[-1] = f"{lines[-1]} {word}"
            continue
        if measure(word) <= width:
            lines.append(word)
            continue
        lines.append("")
        for letter in letters(word):
            if lines[-1] and measure(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def letters(text: str) -> Iterator[str]:
    """The letters of a text, each with its combining marks and whatever a joiner joins to it."""
    current = ""
    for character in text:
        belongs = unicodedata.category(character).startswith("M") or ord(character) in _VARIATION
        if current and not (belongs or character == _JOINER or current.endswith(_JOINER)):
            yield current
            current = ""
        current += character
    if current:
        yield current
