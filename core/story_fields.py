"""Checked values out of a story's JSON, and how large a story may be."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .quoting import printable, quote, quote_all
from .text_search import composed

MOST_CHARACTERS = 1_000
MOST_FRAMES = 10_000
LONGEST_PROMPTS = 2_000_000
"""What all prompts of a story may come to, in characters of text, both as written and with the descriptions in them."""

LONGEST_TEXT = 100_000
"""What a prompt, a negative prompt and every field without a limit of its own may come to."""

LONGEST_FIELDS = {"name": 200, "word": 100, "token": 100, "description": 10_000, "character": 10_000, "style": 10_000}
"""Limits of single fields."""

LARGEST_FILE = 10_000_000
"""Bytes of a story file, and characters of text of a story that is typed in."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def read_json(path: Path) -> Any:
    """The content of a JSON file in UTF-8, with or without a byte order mark.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, is too large, is no JSON, or has a key twice in one object.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no story file {printable(str(path))}.")
    name = printable(path.name, 100)
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {printable(str(error))}.") from error
    if len(content) > LARGEST_FILE:
        raise ValueError(f"{name} is larger than a story file may be, {LARGEST_FILE:,} bytes.")
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text: {error}. Save it as UTF-8.") from error
    except RecursionError as error:
        raise ValueError(f"{name} is not valid JSON: its lists and objects are nested too deeply.") from error
    except ValueError as error:
        raise ValueError(f"{name} is not valid JSON: {printable(str(error))}") from error


def check_text(text: str, where: str, limit: int = LONGEST_TEXT) -> None:
    """Refuse a text that is too long or cannot be encoded.

    Raises:
        ValueError: If it is; the message begins with `where`.
    """
    if len(text) > limit:
        raise ValueError(f"{where} has {len(text):,} characters of text; at most {limit:,} are allowed.")
    lone = None if text.isascii() else _SURROGATE.search(text)
    if lone is not None:
        around = text[max(lone.start() - 10, 0) : lone.end() + 10]
        raise ValueError(
            f"{where} has half of a character (the lone surrogate U+{ord(lone[0]):04X}) in {quote(around)}, which "
            "cannot be encoded. Write that place again."
        )


def text_of(mapping: Mapping[str, Any], key: str, where: str) -> str:
    """A text in composed form without spaces around it; empty where it is missing."""
    value = mapping.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f'{where}: "{key}" must be text, not {quote(value)}.')
    check_text(value, f'{where}: "{key}"', LONGEST_FIELDS.get(key, LONGEST_TEXT))
    return composed(value).strip()


def required_text_of(mapping: Mapping[str, Any], key: str, where: str) -> str:
    """A text as `text_of` gives it, that must not be empty."""
    value = text_of(mapping, key, where)
    if not value:
        raise ValueError(f'{where}: "{key}" is missing or empty.')
    return value


def list_of(value: object, what: str, most: int = LONGEST_TEXT) -> list[Any]:
    """A JSON list of at most so many entries."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise ValueError(f"{what} must be a list, not {quote(value)}.")
    if len(value) > most:
        raise ValueError(f"{what} has {len(value):,} entries; at most {most:,} are allowed.")
    return list(value)


def paths_of(value: object, what: str) -> list[str]:
    """A JSON list of paths."""
    paths = list_of(value, what, MOST_CHARACTERS)
    for path in paths:
        if not isinstance(path, str) or not path:
            raise ValueError(f"{what} must be paths, not {quote(path)}.")
        check_text(path, what, 4_096)
    return paths


def check_keys(mapping: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
    """Refuse an object with keys that nothing reads."""
    for key in mapping:
        if key not in allowed:
            raise ValueError(f"{where}: unknown key {quote(key)}. Known are {', '.join(allowed)}.")


def listed(names: Iterable[str]) -> str:
    """Names for a message, the first of them where they are many."""
    return printable(quote_all(names), 600)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a key that stands twice, Python would keep only the second value."""
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {quote(twice)} stands twice in one object; keep one.")
    return values
