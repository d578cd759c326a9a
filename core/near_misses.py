"""Names that a story's prompts seem to misspell, and characters who are in no frame.

Names count as they are spelt, so a slip leaves somebody out of a frame without an error. A warning is worth something
only if ordinary words do not raise it. So a word is reported where it is the name except for capitals, accents or the
width of its letters, and where it is capitalised and the name except for one slip: two letters swapped or one doubled
anywhere, another single letter only after a small-letter word, where a capital marks a name. Left out are words of
descriptions, words with an article before them, and names in small letters that are words as well (red roses). Of a
character who is in no frame at all, more counts: every slip, a part of the name, and longer words that begin with it.
"""

import os
import re
import unicodedata
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from .character_mentions import Character
from .names_that_are_words import ALSO_WORDS
from .quoting import quote
from .story import Frame, Story
from .story_fields import listed
from .text_search import PhraseIndex, SearchedText, composed, content_words

MOST_WARNINGS = 20
_SHORTEST, _LONGEST = 4, 40
"""Letters of a name in which slips are looked for."""

_MOST_WORDS = 4
"""Words of a name that are compared in a row."""

_DETERMINERS = frozenset(
    "a an the this that these those his her its their my your our some any no every each another one two three "
    "der die das dem den des ein eine einen einem einer eines le la les un une du el los las una il lo".split()
)
_POSSESSIVE = re.compile("['\u2019]s?$")


class _Word(NamedTuple):
    """A word of a caption, or several in a row."""

    text: str
    """As it is written, without a possessive ending."""
    before: str
    """The word right before it with only spaces between; empty where there is none."""

    def is_ordinary(self) -> bool:
        """Whether a word that could be a name is more likely none."""
        return self.before.lower() in _DETERMINERS or (self.text.islower() and self.text in ALSO_WORDS)


def unfound_names(story: Story) -> list[str]:
    """One sentence for every character who is in no frame, and for everybody whose name seems misspelt in some.

    Returns:
        At most `MOST_WARNINGS` sentences, and one that counts the others.
    """
    names = _Names(story.characters)
    present = {character.name for frame in story.frames for character in frame.cast}
    usual: set[tuple[str, str]] = set()
    places: dict[str, dict[str, list[int]]] = {}
    for frame in story.frames:
        here = names.spelt_in(frame)
        for word in _words(frame.caption, names.beginnings):
            for name, is_sure in names.like(word):
                if name in here and word.text.islower():
                    usual.add((name, word.text))  # as in "Sol in the bright sol": here it is a word
                elif name not in here and (is_sure or name not in present):
                    places.setdefault(name, {}).setdefault(word.text, []).append(frame.index + 1)
    absent = [_absent(each.name, places.get(each.name, {})) for each in story.characters if each.name not in present]
    slips = [
        _misspelt(name, word, frames)
        for name, words in places.items()
        for word, frames in words.items()
        if name in present and (name, word) not in usual
    ]
    sentences = absent + slips
    left = len(sentences) - MOST_WARNINGS
    return sentences if left <= 0 else [*sentences[:MOST_WARNINGS], f"{left} more names are in no frame or misspelt."]


class _Names:
    """The names of a story, to be found by words that are nearly the same."""

    def __init__(self, characters: Sequence[Character]) -> None:
        names = [each.name for each in characters if _plain(each.name) != _plain(each.word)]
        self.beginnings = {_plain(name.split()[0]) for name in names if len(name.split()) > 1}
        self._spelt = PhraseIndex(names, ignore_case=False)
        self._all = frozenset(names)
        self._known = {_plain(word.text) for each in characters for word in _words(each.description)}
        self._same: dict[str, list[str]] = {}
        self._near: dict[str, list[str]] = {}
        self._parts: dict[str, list[str]] = {}
        for name in names:
            self._same.setdefault(_plain(name), []).append(name)
            for key in _with_a_letter_less(_plain(name)) if _SHORTEST <= len(name) <= _LONGEST else ():
                self._near.setdefault(key, []).append(name)
            for part in {word.text for word in _words(name) if len(word.text) > 2}:
                self._parts.setdefault(part, []).append(name)
        self._parts = {part: own for part, own in self._parts.items() if len(own) == 1}  # a shared one says nothing
        self._asked: dict[str, dict[str, str]] = {}

    def spelt_in(self, frame: Frame) -> set[str]:
        """Who is in a frame, or is named in its caption all the same."""
        named = self._spelt.those_in(SearchedText(composed(frame.caption)))
        return named | {character.name for character in frame.cast}

    def like(self, word: _Word) -> Iterator[tuple[str, bool]]:
        """The names a word may mean without being them, and whether that is likely."""
        if word.text not in self._asked:
            self._asked[word.text] = self._alike(word.text)
        for name, how in self._asked[word.text].items():
            is_sure = how in ("same", "swapped or doubled") or (how == "one letter" and word.before.islower())
            yield name, is_sure and not word.is_ordinary()

    def _alike(self, text: str) -> dict[str, str]:
        """The names like a text, and what they have in common."""
        plain = _plain(text)
        if text in self._all or plain in self._known:
            return {}
        found = dict.fromkeys(self._same.get(plain, ()), "same")
        if text[:1].islower():
            return found
        near = {name for key in _with_a_letter_less(plain) for name in self._near.get(key, ())}
        slips = {name: _slip(_plain(name), plain) for name in sorted(near)}
        begun = [text[:length] for length in range(2, min(len(text), _LONGEST)) if text[:length] in self._all]
        parts = dict.fromkeys([*self._parts.get(text, ()), *begun], "part")
        return {**parts, **{name: slip for name, slip in slips.items() if slip}, **found}


def _words(text: str, beginnings: Container[str] = ()) -> Iterator[_Word]:
    """Every word of a text, and the rows of words with only spaces between that begin as some name of several does."""
    spans = content_words(text)
    before, place = "", 0
    for first, (start, end) in enumerate(spans):
        before = before if text[place:start].isspace() else ""
        word = text[start:end]
        yield _Word(_without_ending(word), before)
        for last in range(first + 1, min(first + _MOST_WORDS, len(spans))) if _plain(word) in beginnings else ():
            if not text[spans[last - 1][1] : spans[last][0]].isspace():
                break
            yield _Word(_without_ending(text[start : spans[last][1]]), before)
        before, place = word, end


def _without_ending(word: str) -> str:
    return _POSSESSIVE.sub("", word) if "'" in word or "\u2019" in word else word


@lru_cache(maxsize=10_000)
def _plain(text: str) -> str:
    """A text without capitals, accents, invisible characters and full-width forms."""
    letters = unicodedata.normalize("NFKD", " ".join(text.casefold().split()))
    kept = (letter for letter in letters if unicodedata.category(letter) not in ("Mn", "Cf"))
    return unicodedata.normalize("NFC", "".join(kept))


def _with_a_letter_less(word: str) -> set[str]:
    """A word, and the word without each of its letters: two words that share one of these are a slip or two apart."""
    if len(word) > _LONGEST + 1:
        return set()
    return {word, *(word[:place] + word[place + 1 :] for place in range(len(word)))}


def _slip(name: str, word: str) -> str | None:
    """How a word differs from a name by one slip; None if it does not, or differs by more."""
    start = len(os.path.commonprefix([name, word]))
    rest, found = name[start:], word[start:]
    end = len(os.path.commonprefix([rest[::-1], found[::-1]]))
    rest, found = rest[: len(rest) - end], found[: len(found) - end]
    if len(rest) == 2 and rest == found[::-1]:
        return "swapped or doubled"
    if max(len(rest), len(found)) != 1 or not start:
        return None
    if min(len(rest), len(found)) == 0 and name[start - 1] == rest + found:
        return "swapped or doubled"
    return None if not end and len(name) != len(word) else "one letter"


def _absent(name: str, words: Mapping[str, Sequence[int]]) -> str:
    sentence = f"{quote(name)} is in no frame. Names count as they are spelt, capitals included"
    if not words:
        return f"{sentence}."
    frames = sorted({frame for own in words.values() for frame in own})
    return f"{sentence}; there is {listed(words)} in {numbered(frames)}."


def _misspelt(name: str, word: str, frames: Sequence[int]) -> str:
    where = numbered(frames)
    return f"{where[0].upper()}{where[1:]}: {quote(word)} looks like the name {quote(name)}, but is spelt differently."


def numbered(frames: Sequence[int]) -> str:
    """Frames in the middle of a sentence; at most five are counted up."""
    if len(frames) == 1:
        return f"frame {frames[0]}"
    shown = ", ".join(map(str, frames[:5]))
    return f"frames {shown}" if len(frames) <= 5 else f"frames {shown} and {len(frames) - 5} more"
