"""The form of a run's manifest, and what one differs from another in."""

from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, Strict, StringConstraints, model_validator

from ..core.identity import safe_file_name
from ..core.quoting import printable, quote
from .run_settings import SettingsPart
from .schema import Entry, Items, Text

FORMAT = "story-identity-run/1"
_LONGEST_KEY = 60

_Name = Annotated[Text, StringConstraints(min_length=1)]
_Span = Annotated[tuple[NonNegativeInt, NonNegativeInt], Strict(False)]
_Seed = Annotated[int, Field(ge=0, lt=2**64)]


class CharacterEntry(Entry):
    """A character, as the story describes them."""

    name: _Name
    word: _Name
    description: Text


class FrameEntry(Entry):
    """A frame of the story. `telling_words` are the identifying words.

    Manifests of the first version have neither `telling_words` nor `style_prefix`.
    """

    caption: Text
    prompt: Text
    negative: Text
    seed: _Seed | None
    cast: Items[Text]
    word_spans: Items[_Span]
    telling_words: Items[Items[_Span]] = []
    style_prefix: Text = ""

    @model_validator(mode="after")
    def _fits(self) -> "FrameEntry":
        telling = self.telling_words or [[] for _ in self.cast]
        if not len(set(self.cast)) == len(self.cast) == len(self.word_spans) == len(telling):
            raise ValueError("Input should have one word span and one list of telling words for each of the cast")
        for start, end in (*self.word_spans, *(span for spans in telling for span in spans)):
            if not start < end <= len(self.prompt):
                raise ValueError(f"Input should have spans of its prompt, which {start} to {end} is not")
        return self


class StoryPart(Entry):
    """What a manifest says of the story."""

    characters: Items[CharacterEntry]
    frames: Items[FrameEntry]

    @model_validator(mode="after")
    def _fits(self) -> "StoryPart":
        names = {character.name for character in self.characters}
        if len(names) < len(self.characters):
            raise ValueError("Input should have characters of different names")
        for name in sorted({name for frame in self.frames for name in frame.cast}):
            if name not in names:
                raise ValueError(f"Input should have only characters in its frames, which {quote(name)} is not")
            safe_file_name(name)
        return self


class Manifest(SettingsPart, StoryPart):
    """What a run is made of: its story and its settings."""


def differences(old: Any, new: Any, where: str) -> list[str]:
    """Where two JSON values differ, one sentence each."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            text
            for key in dict.fromkeys([*old, *new])
            for text in differences(old.get(key), new.get(key), f"{where}, {printable(key, _LONGEST_KEY)}")
        ]
    return [] if old == new else [f"{where}: it was {quote(old)}, now it is {quote(new)}"]
