"""Stories: characters, frames, and who is in which frame.

Two ways to write one, both plain JSON. Ours:

    {"characters": [{"name": "Mira", "word": "woman", "description": "a young woman with short red hair"}],
     "style": "watercolor", "negative": "blurry",
     "frames": [{"prompt": "Mira opens a letter in the kitchen", "seed": 7}, "an empty beach at dawn"]}

and the one of the ConsiStory-Human benchmark (`character`, `token`, `prompts` or `style` + `settings`), which loads as
published.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .character_mentions import (
    CaptionReader,
    Character,
    Span,
    cut_after_word,
    find_word,
    identifying_words,
    marked_names,
    without_marks,
)
from .quoting import printable, quote
from .story_characters import (
    BAR,
    character_named,
    check_unique,
    make_character,
    parse_characters,
    refuse_contradictions,
    text_lines,
    typed_characters,
)
from .story_fields import (
    LARGEST_FILE,
    LONGEST_PROMPTS,
    MOST_CHARACTERS,
    MOST_FRAMES,
    check_keys,
    check_text,
    list_of,
    listed,
    read_json,
    required_text_of,
    text_of,
)
from .text_search import composed

_FRAME_KEYS = ("prompt", "cast", "seed", "negative")
_MAX_SEED = 2**64 - 1
_TYPED_SEED = re.compile(r"seed\b\s*(\S*)", re.IGNORECASE)


FRAME, CHARACTER = PROMPTS = ("frame", "character")
"""What the second pass is conditioned on inside a character's mask: the frame's prompt, or their description alone."""


@dataclass(frozen=True)
class Appearance:
    """One character in one frame.

    Args:
        character: Who it is.
        class_word: Start and end of their class word in the frame's prompt.
        identifying_words: The words of the prompt that say who it is, in order: those of their description (articles
            and the like left out), and the class word where it stands in for the name.
    """

    character: Character
    class_word: Span
    identifying_words: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Frame:
    """One picture of the story.

    Args:
        index: Position in the story, 0-based.
        prompt: The finished prompt: names replaced by descriptions, style added.
        appearances: Who is in it, in the order in which the prompt names them; may be empty.
        seed: The frame's own seed, or None.
        negative: The frame's negative prompt.
        caption: The prompt as the author wrote it.
        story_names: The names of everybody in the story; empty where the frame travels by itself and does not know.
        style_prefix: What the style puts before the prompt, with what joins the two, such as "watercolor, ".
        wording: The prompt with class words in place of names and descriptions, without style.
    """

    index: int
    prompt: str
    appearances: tuple[Appearance, ...]
    seed: int | None = None
    negative: str = ""
    caption: str = ""
    story_names: tuple[str, ...] = ()
    style_prefix: str = ""
    wording: str = field(default="", compare=False)

    @property
    def label(self) -> str:
        """What messages call it: by its number, or by its caption where it has none (a negative index)."""
        return f"frame {self.index + 1}" if self.index >= 0 else f"the frame {quote(self.caption, 60)}"

    @property
    def shown_caption(self) -> str:
        """The caption for people to read: without the square brackets that mark names."""
        names = self.story_names or tuple(character.name for character in self.cast)
        return without_marks(composed(self.caption), names)[0]

    @property
    def cast(self) -> tuple[Character, ...]:
        """The characters who appear in it, in the order in which the prompt names them."""
        return tuple(each.character for each in self.appearances)

    def span_of(self, name: str) -> Span | None:
        """Where the prompt has this character's class word; None if they are not in the frame.

        Raises:
            ValueError: If nobody in the story has this name.
        """
        appearance = self.appearance_of(name)
        return None if appearance is None else appearance.class_word

    def prompt_about(self, appearance: Appearance, prompt: str = FRAME) -> tuple[str, Span]:
        """What conditions the identity generator for one character, and where it has their class word.

        Args:
            appearance: One of this frame's.
            prompt: `FRAME` gives the frame's prompt; `CHARACTER` the character's description after the style, which is
                c_j of IdentityStory's equation 6.

        Raises:
            ValueError: If `prompt` is neither.
        """
        if prompt == FRAME:
            return self.prompt, appearance.class_word
        if prompt != CHARACTER:
            raise ValueError(f"{self.label}: prompt is {quote(prompt)}; it must be one of {', '.join(PROMPTS)}.")
        person, before = appearance.character, len(self.style_prefix)
        word = find_word(person.word, person.description)[0]
        return f"{self.style_prefix}{person.description}", _shifted(word, before)

    def appearance_of(self, name: str) -> Appearance | None:
        """How this character appears in the frame; None if they do not.

        Raises:
            ValueError: If nobody in the story has this name, as far as the frame knows them.
        """
        name = composed(name)
        if self.story_names and name not in map(composed, self.story_names):
            known = listed(self.story_names)
            raise ValueError(f'{self.label}: the story has no character "{printable(name, 120)}". It has {known}.')
        return next((each for each in self.appearances if composed(each.character.name) == name), None)


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
    def load(cls, path: str | Path, as_published: bool = False) -> "Story":
        """Read a story file (UTF-8 JSON); `as_published` as in `parse`."""
        path = Path(path)
        mapping = read_json(path)
        try:
            return cls.parse(mapping, as_published)
        except ValueError as error:
            raise ValueError(f"{printable(path.name, 100)}: {error}") from error

    @classmethod
    def parse(cls, mapping: Any, as_published: bool = False) -> "Story":
        """Build a story from parsed JSON (a mapping) in either form.

        With `as_published`, which takes the form of ConsiStory-Human alone, the prompts of several characters are built
        as IdentityStory's published code builds them: of style, descriptions cut after the class word, and setting,
        even where `prompts` are given.
        """
        if not isinstance(mapping, Mapping):
            raise ValueError(f"A story is a JSON object, not a {type(mapping).__name__}.")
        style = text_of(mapping, "style", "the story")
        if "characters" in mapping:
            if as_published:
                raise ValueError(
                    'The story has "characters", which is our own form. Only stories in the published form, with '
                    '"character" and "token", can be made as published.'
                )
            characters = parse_characters(mapping["characters"])
            raw_frames, prefix = _parse_frames(mapping), f"{style}, " if style else ""
            captions = (raw["prompt"] for raw in raw_frames if isinstance(raw.get("prompt"), str))
            marked = marked_names((each.name for each in characters), captions)
        else:
            characters = _published_characters(mapping)
            raw_frames, prefix = _published_frames(mapping, characters, style, as_published)
            style, marked = "", set()
        negative = text_of(mapping, "negative", "the story")
        built = _build_frames(raw_frames, CaptionReader(characters, marked), style, negative)
        frames = tuple(replace(frame, style_prefix=prefix) for frame in built)
        known = {"characters", "frames", "prompts", "negative", "character", "token"}
        return cls(characters, frames, {key: value for key, value in mapping.items() if key not in known})

    @classmethod
    def from_lines(
        cls,
        characters: str,
        prompts: str,
        style: str = "",
        negative: str = "",
        character_list: Sequence[Character] = (),
    ) -> "Story":
        """Build a story from text: `name | class word | description` per line, and one prompt per line.

        A prompt may begin with its own seed: `seed 1234 | Mira waits at a bus stop`.

        Args:
            characters: The lines of characters; with a list of them, none, or lines that say the same.
            prompts: The lines of prompts.
            style: Put before every prompt.
            negative: The negative prompt of every frame.
            character_list: The characters, where they are known from elsewhere.
        """
        for name, text in (("characters", characters), ("prompts", prompts)):
            check_text(text, name, LARGEST_FILE)
        people: Sequence[Character] = character_list
        if not people or text_lines(characters):
            typed = typed_characters(characters)
            refuse_contradictions(typed, people or typed)
            people = people or typed
        lines = list_of(text_lines(prompts), '"prompts"', MOST_FRAMES)
        frames = [_typed_frame(line, number) for number, line in enumerate(lines, start=1)]
        listed = [asdict(each) for each in people]
        return cls.parse({"characters": listed, "frames": frames, "style": style, "negative": negative})

    def character(self, name: str) -> Character:
        """The character of this name; an empty name means the only one there is."""
        return character_named(self.characters, name)


def _typed_frame(line: str, number: int) -> str | dict[str, Any]:
    """A typed prompt, or the frame of one that begins with a seed."""
    before, *words = BAR.split(line, maxsplit=1)
    written = _TYPED_SEED.fullmatch(before.strip())
    if not words or written is None:
        return line
    if not written[1].isdecimal() or len(written[1]) > len(str(_MAX_SEED)):
        raise ValueError(
            f"Frame {number}: {quote(before.strip())} is not a seed. Write a whole number from 0 to {_MAX_SEED} before "
            'the bar, such as "seed 1234 | Mira waits at a bus stop".'
        )
    return {"prompt": words[0].strip(), "seed": int(written[1])}


def _parse_frames(mapping: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if "frames" in mapping and "prompts" in mapping:
        raise ValueError('The story has both "frames" and "prompts"; keep one.')
    key = "prompts" if "prompts" in mapping else "frames"
    frames = []
    for number, raw in enumerate(list_of(mapping.get(key, []), f'"{key}"', MOST_FRAMES), start=1):
        frame = {"prompt": raw} if isinstance(raw, str) else raw
        if not isinstance(frame, Mapping):
            raise ValueError(f"Frame {number} must be a prompt or an object, not {quote(raw)}.")
        check_keys(frame, _FRAME_KEYS, f"Frame {number}")
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
    descriptions, words = (
        [value] if isinstance(value, str) else list_of(value, what, MOST_CHARACTERS)
        for value, what in ((descriptions, '"character"'), (words, '"token"'))
    )
    if len(descriptions) != len(words):
        raise ValueError(f'The story has {len(descriptions)} in "character" but {len(words)} in "token".')
    pairs = []
    for number, (description, word) in enumerate(zip(descriptions, words, strict=True), start=1):
        pair = {"character": description, "token": word}
        pairs.append(tuple(required_text_of(pair, key, f"Character {number}") for key in pair))
    words = [word for _, word in pairs]
    characters = []
    for number, (description, word) in enumerate(pairs, start=1):
        name = word if words.count(word) == 1 else f"{word} {words[:number].count(word)}"
        characters.append(make_character(name, word, description))
    return check_unique(characters)


def _published_frames(
    mapping: Mapping[str, Any], characters: Sequence[Character], style: str, as_published: bool
) -> tuple[Iterator[Mapping[str, Any]], str]:
    """The frames of the published form, with the style in them, and what the style puts before a description."""
    prompts, settings = (_texts(mapping, key) for key in ("prompts", "settings"))
    from_settings = as_published and len(characters) > 1 and style and settings
    if prompts and not from_settings:
        return ({"prompt": prompt} for prompt in prompts), ""
    if not settings:
        raise ValueError('The story has no frames: "prompts" (or "style" and "settings") is missing or empty.')
    descriptions = " and ".join(_with_article(cut_after_word(character)) for character in characters)
    everybody = [character.name for character in characters]
    frames = ({"prompt": f"{style} {descriptions} {setting}".strip(), "cast": everybody} for setting in settings)
    alone = as_published and len(characters) == 1
    return frames, f"{style} " if style and not alone else ""


def _texts(mapping: Mapping[str, Any], key: str) -> list[str]:
    """A list of texts of the published form; empty where it is missing."""
    values = list_of(mapping.get(key) or [], f'"{key}"', MOST_FRAMES)
    for number, value in enumerate(values, start=1):
        if not isinstance(value, str):
            raise ValueError(f'"{key}", entry {number}, must be text, not {quote(value)}.')
    return values


def _with_article(description: str) -> str:
    if re.match(r"(a|an|the|one)\s", description, re.IGNORECASE):
        return description
    return f"{'an' if description[0].lower() in 'aeiou' else 'a'} {description}"


def _build_frames(
    raw_frames: Iterable[Mapping[str, Any]], reader: CaptionReader, style: str, negative: str
) -> Iterator[Frame]:
    names, length = tuple(reader.names), 0
    for index, raw in enumerate(raw_frames):
        frame = _build_frame(index, raw, reader, names, style, negative)
        length += max(len(frame.caption), len(frame.prompt))
        if length > LONGEST_PROMPTS:
            raise ValueError(
                f"Frame {index + 1}: up to here the prompts, with their descriptions, come to more than "
                f"{LONGEST_PROMPTS:,} characters of text. Divide the story, or shorten its prompts and descriptions."
            )
        yield frame


def _build_frame(
    index: int, raw: Mapping[str, Any], reader: CaptionReader, names: tuple[str, ...], style: str, negative: str
) -> Frame:
    where = f"Frame {index + 1}"
    caption = required_text_of(raw, "prompt", where)
    expanded = reader.expand(caption)
    given = raw.get("cast")
    cast = reader.find_cast(expanded, where) if given is None else _given_cast(given, reader, where)
    words = reader.word_spans(expanded, cast, where)
    mentions = (mention for own in expanded.mentions.values() for mention in own)
    identifying = identifying_words(expanded.text, mentions, cast, words)
    before = f"{style}, " if style else ""
    ordered = sorted(zip(words, cast, identifying, strict=True), key=lambda entry: entry[0])
    return Frame(
        index=index,
        prompt=before + expanded.text,
        appearances=tuple(
            Appearance(character, _shifted(word, len(before)), tuple(_shifted(span, len(before)) for span in spans))
            for word, character, spans in ordered
        ),
        seed=_seed(raw.get("seed"), where),
        negative=text_of(raw, "negative", where) if raw.get("negative") is not None else negative,
        caption=caption,
        story_names=names,
        wording=expanded.with_class_words(),
    )


def _shifted(span: Span, by: int) -> Span:
    return span[0] + by, span[1] + by


def _seed(value: object, where: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_SEED:
        raise ValueError(f'{where}: "seed" must be a whole number from 0 to {_MAX_SEED}, not {quote(value)}.')
    return value


def _given_cast(value: object, reader: CaptionReader, where: str) -> list[Character]:
    cast: dict[str, Character] = {}
    for name in list_of(value, f'{where}: "cast"', MOST_CHARACTERS):
        character = reader.character(composed(name)) if isinstance(name, str) else None
        if character is None:
            known = listed(reader.names)
            raise ValueError(f"{where}: the cast names {quote(name)}, but the story's characters are {known}.")
        if character.name in cast:
            raise ValueError(f"{where}: the cast names {quote(character.name)} twice.")
        cast[character.name] = character
    return list(cast.values())
