"""The characters of a story as they are written: lines of text, or entries of a JSON list."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .character_mentions import Character, find_word
from .quoting import printable, quote
from .story_fields import (
    LARGEST_FILE,
    MOST_CHARACTERS,
    check_keys,
    check_text,
    list_of,
    listed,
    paths_of,
    required_text_of,
)
from .text_search import composed

BAR = re.compile("[|\uff5c\uffe8]")
"""What stands between the parts of a typed line; keyboards of East Asia write it full-width."""

_KEYS = ("name", "word", "description", "reference_images")
_FILES = re.compile("[,\uff0c\u3001]")
"""What stands between the names of picture files."""


def text_lines(text: str) -> list[str]:
    """The lines that have words, without spaces around them."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def typed_characters(text: str, with_pictures: bool = False) -> tuple[Character, ...]:
    """The characters of lines `name | class word | description`.

    Args:
        text: One line per character; empty lines are skipped.
        with_pictures: Whether a line may have a fourth part, `| mira_1.png, mira_2.png`: reference pictures.

    Raises:
        ValueError: If a line has other parts, two have one name, a class word is not in its description, or there is
            no line.
    """
    check_text(text, "characters", LARGEST_FILE)
    parsed: list[dict[str, Any]] = []
    for number, line in enumerate(list_of(text_lines(text), '"characters"', MOST_CHARACTERS), start=1):
        parts = [part.strip() for part in BAR.split(line)]
        if len(parts) != 3 and not (with_pictures and len(parts) == 4):
            more = ' A fourth part may name pictures of them: "| mira_1.png, mira_2.png".' if with_pictures else ""
            raise ValueError(
                f'Character line {number} is {quote(line)}; write "name | class word | description", '
                f'such as "Mira | woman | a young woman with short red hair".{more}'
            )
        files = [file.strip() for part in parts[3:] for file in _FILES.split(part)]
        fields = dict(zip(("name", "word", "description"), parts, strict=False))
        parsed.append({**fields, "reference_images": [file for file in files if file]})
    return parse_characters(parsed)


def parse_characters(value: object) -> tuple[Character, ...]:
    """The characters of a JSON list of objects.

    Raises:
        ValueError: If it is malformed; the message says which character and what to do.
    """
    characters = []
    for number, raw in enumerate(list_of(value, '"characters"', MOST_CHARACTERS), start=1):
        where = f"Character {number}"
        if not isinstance(raw, Mapping):
            raise ValueError(f"{where} must be an object with {', '.join(_KEYS)}, not {quote(raw)}.")
        check_keys(raw, _KEYS, where)
        references = paths_of(raw.get("reference_images", []), f'{where}: "reference_images"')
        name, word, description = (required_text_of(raw, key, where) for key in ("name", "word", "description"))
        characters.append(make_character(name, word, description, references))
    return check_unique(characters)


def make_character(name: str, word: str, description: str, references: Sequence[str] = ()) -> Character:
    """A character whose class word is a word of the description.

    Raises:
        ValueError: If it is not.
    """
    if not find_word(word, description):
        raise ValueError(
            f"Character {quote(name, 60)}: the class word {quote(word, 60)} is not a word of the description "
            f"{quote(description)}. Add it to the description or change the word."
        )
    return Character(name, word, description, tuple(references))


def check_unique(characters: Sequence[Character]) -> tuple[Character, ...]:
    """The characters, if there are any and each has a name of their own.

    Raises:
        ValueError: If not.
    """
    if not characters:
        raise ValueError("The story has no characters.")
    seen = set()
    for character in characters:
        if character.name in seen:
            raise ValueError(f"Two characters are called {quote(character.name)}; names must be unique.")
        seen.add(character.name)
    return tuple(characters)


def character_named(characters: Sequence[Character], name: str) -> Character:
    """The character of this name; an empty name means the only one there is.

    Raises:
        ValueError: If nobody has it.
    """
    if not name and len(characters) == 1:
        return characters[0]
    for character in characters:
        if composed(character.name) == composed(name):
            return character
    names = listed(character.name for character in characters)
    raise ValueError(f'The story has no character "{printable(name, 120)}". It has {names}.')


def refuse_contradictions(typed: Sequence[Character], given: Sequence[Character]) -> None:
    """Refuse lines of characters that do not say what a list from elsewhere says.

    Args:
        typed: The characters of a story's own lines.
        given: Those of the list that the story takes.

    Raises:
        ValueError: Naming the first line that says something else, or that adds somebody.
    """
    known = {composed(each.name): each for each in given}
    for number, each in enumerate(typed, start=1):
        other = known.get(composed(each.name))
        if other is None:
            raise ValueError(
                f"characters, line {number}: {quote(each.name, 60)} is not in character_list. Write the line into the "
                "Characters node, and empty the field characters."
            )
        if (each.word, each.description) != (other.word, other.description):
            said, there = (printable(f"{one.word} | {one.description}", 200) for one in (each, other))
            raise ValueError(
                f'characters, line {number}: {quote(each.name, 60)} is "{said}" here, but "{there}" in '
                "character_list. Empty the field characters, or write the same in both."
            )
