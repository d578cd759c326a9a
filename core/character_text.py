"""A character as a line of text that has nothing of the others, and back; and what of it decides their pictures."""

import json
from collections.abc import Sequence
from typing import Any

from .character_mentions import Character
from .quoting import quote


def character_as_text(character: Character, picture_digests: Sequence[str] = ()) -> str:
    """The character as one line of JSON.

    Args:
        character: Who it is.
        picture_digests: One per reference picture, of its content, so that another picture is another text.
    """
    return _as_line({"name": character.name, **_drawn(character, picture_digests)})


def character_without_name(character: Character, picture_digests: Sequence[str] = ()) -> str:
    """The character as a line of JSON that stays the same under another name."""
    return _as_line(_drawn(character, picture_digests))


def character_from_text(text: str) -> Character:
    """The character of a text that `character_as_text` made.

    Raises:
        ValueError: If it is no such text.
    """
    try:
        known: dict[str, Any] = json.loads(text)
        return Character(known["name"], known["word"], known["description"], tuple(known["reference_images"]))
    except (ValueError, KeyError, TypeError) as problem:
        raise ValueError(f"{quote(text)} is not the text of a character.") from problem


def _drawn(character: Character, picture_digests: Sequence[str]) -> dict[str, Any]:
    return {
        "word": character.word,
        "description": character.description,
        "reference_images": character.reference_images,
        "pictures": list(picture_digests),
    }


def _as_line(known: dict[str, Any]) -> str:
    return json.dumps(known, ensure_ascii=True, separators=(",", ":"))
