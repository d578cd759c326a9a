"""Text of a user or of a file as a message may carry it: short, on one line, and safe to print, log and send."""

import reprlib
import unicodedata
from collections.abc import Iterable
from itertools import accumulate

LONGEST = 120
"""How many characters of a quoted text a message shows."""

_UNSAFE_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")  # control characters, lone surrogates, line and paragraph separators
_BIDIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

_short_repr = reprlib.Repr()
_short_repr.maxlevel = 3
_short_repr.maxstring = _short_repr.maxother = _short_repr.maxlong = LONGEST


def quote(value: object, limit: int = LONGEST) -> str:
    """A text in double quotes, anything else as Python writes it; made safe and short as `printable` does.

    Args:
        value: What to quote; a value nested without end is cut, not followed.
        limit: How many characters of it to show.
    """
    if isinstance(value, str):
        return f'"{printable(value, limit)}"'
    return printable(_short_repr.repr(value), limit)


def quote_all(values: Iterable[object], limit: int = 10) -> str:
    """Several values, each quoted, with commas between them; beyond `limit` their number is said.

    Args:
        values: What to quote.
        limit: How many of them to show.
    """
    listed = list(values)
    shown = ", ".join(quote(value) for value in listed[:limit])
    return shown if len(listed) <= limit else f"{shown} and {len(listed) - limit} more"


def printable(text: str, limit: int = 1000) -> str:
    """The text with control characters, lone surrogates and the like escaped, and cut in the middle where it is long.

    A message with a lone surrogate cannot be encoded, and ComfyUI's queue stops when it logs one; escape sequences act
    on a terminal. For the text of another library's error, which may quote the user, use this function.

    Args:
        text: Any text.
        limit: How many characters to show, escapes counted as they are written.
    """
    if len(text) <= limit and len(escaped := _escaped(text)) <= limit:
        return escaped
    head = limit * 2 // 3
    first, last = _as_many_as_fit(text[:limit], head), _as_many_as_fit(text[: -limit - 1 : -1], limit - head)
    return f"{_escaped(first)}…{_escaped(last[::-1])} ({len(text):,} characters)"


def _as_many_as_fit(text: str, limit: int) -> str:
    """The beginning of a text whose escaped form has at most `limit` characters."""
    lengths = accumulate(len(_escaped(each)) for each in text)
    return text[: sum(length <= limit for length in lengths)]


def _escaped(text: str) -> str:
    return "".join(each.encode("unicode_escape").decode() if _is_unsafe(each) else each for each in text)


def _is_unsafe(character: str) -> bool:
    return unicodedata.category(character) in _UNSAFE_CATEGORIES or character in _BIDIRECTIONAL
