"""Stories: characters, frames, and who is in which frame.

Two ways to write one, both plain JSON. Ours:

    {"characters": [{"name": "Mira", "word": "woman", "description": "a young woman with short red hair"}],
     "style": "watercolor", "negative": "blurry",
     "frames": [{"prompt": "Mira opens a letter in the kitchen", "seed": 7}, "an empty beach at dawn"]}

and the one of the ConsiStory-Human benchmark (`character`, `token`, `prompts` or `style` + `settings`), which loads as
published.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .character_mentions import (
    Character,
    Span,
    cut_after_word,
    expand_names,
    find_cast,
    find_word,
    telling_words,
    word_spans,
)

_CHARACTER_KEYS = ("name", "word", "description", "reference_images")
_FRAME_KEYS = ("prompt", "cast", "seed", "negative")
_MAX_SEED = 2**64 - 1


@dataclass(frozen=True)
class Frame:
    """One picture of the story.

    Args:
        index: Position in the story, 0-based.
        prompt: The finished prompt: names replaced by descriptions, style added.
        cast: Who is in it, in the order in which the prompt names them; may be empty.
        word_spans: For each of the cast, start and end of their class word in `prompt`.
        seed: The frame's own seed, or None.
        negative: The frame's negative prompt.
        caption: The prompt as the author wrote it.
        story_names: The names of everybody in the story.
        telling_words: For each of the cast, the words of `prompt` that say who they are, in order: those of their
            description (articles and the like left out), and the class word where it stands in for the name.
    """

    index: int
    prompt: str
    cast: tuple[Character, ...]
    word_spans: tuple[tuple[int, int], ...]
    seed: int | None = None
    negative: str = ""
    caption: str = ""
    story_names: tuple[str, ...] = ()
    telling_words: tuple[tuple[Span, ...], ...] = ()

    @property
    def label(self) -> str:
        return f"frame {self.index + 1}"

    def span_of(self, name: str) -> tuple[int, int] | None:
        """Where the prompt has this character's class word; None if they are not in the frame.

        Raises:
            ValueError: If nobody in the story has this name.
        """
        if name not in self.story_names:
            known = ", ".join(f'"{known}"' for known in self.story_names)
            raise ValueError(f'{self.label}: the story has no character "{name}". It has {known}.')
        for character, span in zip(self.cast, self.word_spans, strict=True):
            if character.name == name:
                return span
        return None


@dataclass(frozen=True)
class Story:
    """A story: its characters and its frames, checked.

    Raises (from `parse` and `load`):
        ValueError: If it is malformed; the message says what and where (frame, character, value) and what to do.
    """

    characters: tuple[Character, ...]
    frames: tuple[Frame, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> "Story":
        """Read a story file (UTF-8 JSON)."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"There is no story file {path}.")
        try:
            mapping = json.loads(path.read_text(encoding="utf-8-sig"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path.name} is not valid JSON: {error}") from error
        try:
            return cls.parse(mapping)
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from error

    @classmethod
    def parse(cls, mapping: Any) -> "Story":
        """Build a story from parsed JSON (a mapping) in either form."""
        if not isinstance(mapping, Mapping):
            raise ValueError(f"A story is a JSON object, not a {type(mapping).__name__}.")
        if "characters" in mapping:
            characters = _parse_characters(mapping["characters"])
            raw_frames = _parse_frames(mapping)
            style = _text(mapping, "style", "the story")
        else:
            characters = _published_characters(mapping)
            raw_frames = _published_frames(mapping, characters)
            style = ""
        negative = _text(mapping, "negative", "the story")
        frames = tuple(_build_frame(i, raw, characters, style, negative) for i, raw in enumerate(raw_frames))
        known = {"characters", "frames", "prompts", "negative", "character", "token"}
        return cls(characters, frames, {key: value for key, value in mapping.items() if key not in known})

    @classmethod
    def from_lines(cls, characters: str, prompts: str, style: str = "", negative: str = "") -> "Story":
        """Build a story from text: `name | class word | description` per line, and one prompt per line."""
        parsed = []
        for number, line in enumerate(_lines(characters), start=1):
            parts = [part.strip() for part in line.split("|")]
            if len(parts) != 3:
                raise ValueError(
                    f'Character line {number} is "{line}"; write "name | class word | description", '
                    'such as "Mira | woman | a young woman with short red hair".'
                )
            parsed.append(dict(zip(("name", "word", "description"), parts, strict=True)))
        return cls.parse({"characters": parsed, "frames": _lines(prompts), "style": style, "negative": negative})

    def character(self, name: str) -> Character:
        """The character of this name; an empty name means the only one there is."""
        if not name and len(self.characters) == 1:
            return self.characters[0]
        for character in self.characters:
            if character.name == name:
                return character
        names = ", ".join(f'"{character.name}"' for character in self.characters)
        raise ValueError(f'The story has no character "{name}". It has {names}.')


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _text(mapping: Mapping[str, Any], key: str, where: str) -> str:
    value = mapping.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f'{where}: "{key}" must be text, not {value!r}.')
    return value.strip()


def _required_text(mapping: Mapping[str, Any], key: str, where: str) -> str:
    value = _text(mapping, key, where)
    if not value:
        raise ValueError(f'{where}: "{key}" is missing or empty.')
    return value


def _list(value: object, what: str) -> list[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"{what} must be a list, not {value!r}.")
    return list(value)


def _check_keys(mapping: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
    unknown = sorted(set(mapping) - set(allowed))
    if unknown:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}. Known are {', '.join(allowed)}.")


def _make_character(name: str, word: str, description: str, references: Sequence[str] = ()) -> Character:
    if not find_word(word, description):
        raise ValueError(
            f'Character "{name}": the class word "{word}" is not a word of the description "{description}". '
            "Add it to the description or change the word."
        )
    return Character(name, word, description, tuple(references))


def _check_unique(characters: Sequence[Character]) -> tuple[Character, ...]:
    if not characters:
        raise ValueError("The story has no characters.")
    seen = set()
    for character in characters:
        if character.name in seen:
            raise ValueError(f'Two characters are called "{character.name}"; names must be unique.')
        seen.add(character.name)
    return tuple(characters)


def _parse_characters(value: object) -> tuple[Character, ...]:
    characters = []
    for number, raw in enumerate(_list(value, '"characters"'), start=1):
        where = f"Character {number}"
        if not isinstance(raw, Mapping):
            raise ValueError(f"{where} must be an object with {', '.join(_CHARACTER_KEYS)}, not {raw!r}.")
        _check_keys(raw, _CHARACTER_KEYS, where)
        references = _list(raw.get("reference_images", []), f'{where}: "reference_images"')
        if not all(isinstance(path, str) and path for path in references):
            raise ValueError(f'{where}: "reference_images" must be paths, not {references!r}.')
        name, word, description = (_required_text(raw, key, where) for key in ("name", "word", "description"))
        characters.append(_make_character(name, word, description, references))
    return _check_unique(characters)


def _parse_frames(mapping: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if "frames" in mapping and "prompts" in mapping:
        raise ValueError('The story has both "frames" and "prompts"; keep one.')
    key = "prompts" if "prompts" in mapping else "frames"
    frames = []
    for number, raw in enumerate(_list(mapping.get(key, []), f'"{key}"'), start=1):
        frame = {"prompt": raw} if isinstance(raw, str) else raw
        if not isinstance(frame, Mapping):
            raise ValueError(f"Frame {number} must be a prompt or an object, not {raw!r}.")
        _check_keys(frame, _FRAME_KEYS, f"Frame {number}")
        frames.append(frame)
    if not frames:
        raise ValueError('The story has no frames: give at least one prompt in "frames".')
    return frames


def _published_characters(mapping: Mapping[str, Any]) -> tuple[Character, ...]:
    if "character" not in mapping:
        raise ValueError('The story has neither "characters" nor, in the published form, "character".')
    descriptions, words = mapping["character"], mapping.get("token")
    if words is None:
        raise ValueError(
            'The story has "character" but no "token" (its class word), as the published form needs. Our own form says '
            '"characters": a list of objects with name, word and description.'
        )
    descriptions = [descriptions] if isinstance(descriptions, str) else _list(descriptions, '"character"')
    words = [words] if isinstance(words, str) else _list(words, '"token"')
    if len(descriptions) != len(words):
        raise ValueError(f'The story has {len(descriptions)} in "character" but {len(words)} in "token".')
    characters = []
    for number, (description, word) in enumerate(zip(descriptions, words, strict=True), start=1):
        where = f"Character {number}"
        pair = {"character": description, "token": word}
        word = _required_text(pair, "token", where)
        name = word if words.count(word) == 1 else f"{word} {words[:number].count(word)}"
        characters.append(_make_character(name, word, _required_text(pair, "character", where)))
    return _check_unique(characters)


def _published_frames(mapping: Mapping[str, Any], characters: Sequence[Character]) -> list[Mapping[str, Any]]:
    if mapping.get("prompts"):
        prompts = _list(mapping["prompts"], '"prompts"')
    elif mapping.get("settings"):
        style = _text(mapping, "style", "the story")
        people = " and ".join(_with_article(cut_after_word(character)) for character in characters)
        settings = _list(mapping["settings"], '"settings"')
        everybody = [character.name for character in characters]
        return [{"prompt": f"{style} {people} {setting}".strip(), "cast": everybody} for setting in settings]
    else:
        raise ValueError('The story has no frames: "prompts" (or "style" and "settings") is missing or empty.')
    return [{"prompt": prompt} for prompt in prompts]


def _with_article(description: str) -> str:
    if re.match(r"(a|an|the|one)\s", description, re.IGNORECASE):
        return description
    return f"{'an' if description[0].lower() in 'aeiou' else 'a'} {description}"


def _build_frame(
    index: int, raw: Mapping[str, Any], characters: Sequence[Character], style: str, negative: str
) -> Frame:
    where = f"Frame {index + 1}"
    caption = _required_text(raw, "prompt", where)
    text, mentions = expand_names(caption, characters)
    if raw.get("cast") is not None:
        cast = _given_cast(raw["cast"], characters, where)
    else:
        cast = find_cast(text, mentions, characters, where)
    before = f"{style}, " if style else ""
    words = word_spans(text, mentions, cast, where)
    found = zip(words, cast, telling_words(text, mentions, cast, words), strict=True)
    ordered = sorted(found, key=lambda entry: entry[0])
    return Frame(
        index=index,
        prompt=before + text,
        cast=tuple(person for _, person, _ in ordered),
        word_spans=tuple(_shifted(word, len(before)) for word, _, _ in ordered),
        seed=_seed(raw.get("seed"), where),
        negative=_text(raw, "negative", where) if raw.get("negative") is not None else negative,
        caption=caption,
        story_names=tuple(character.name for character in characters),
        telling_words=tuple(tuple(_shifted(span, len(before)) for span in spans) for _, _, spans in ordered),
    )


def _shifted(span: Span, by: int) -> Span:
    return span[0] + by, span[1] + by


def _seed(value: object, where: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_SEED:
        raise ValueError(f'{where}: "seed" must be a whole number from 0 to {_MAX_SEED}, not {value!r}.')
    return value


def _given_cast(value: object, characters: Sequence[Character], where: str) -> list[Character]:
    by_name = {character.name: character for character in characters}
    cast = []
    for name in _list(value, f'{where}: "cast"'):
        if name not in by_name:
            known = ", ".join(f'"{known}"' for known in by_name)
            raise ValueError(f"{where}: the cast names {name!r}, but the story's characters are {known}.")
        if by_name[name] in cast:
            raise ValueError(f'{where}: the cast names "{name}" twice.')
        cast.append(by_name[name])
    return cast
