"""Whole words in text of any script.

What a word is follows how people write: letters, digits, hyphens and the marks on them hold together, so that "man" is
no word of "woman" or "man-made", and "Zoe" none of a "Zoë" that is spelt with a combining mark. Three kinds of script
need more:

- Han, kana, Thai, Lao, Khmer, Myanmar and their relatives are written without spaces: a word may begin or end beside
  any of their letters, as 小美 does in 小美在走. What belongs to the syllable stays with it: vowel and tone signs, and
  the length sign of カー. Katakana writes out foreign names and holds together: アン is no word of アンテナ.
- Korean puts spaces between words, but writes particles and titles on to their end: 지은 is a word of 지은은, 지은이,
  지은에게는 and 지은씨가, and not of 지은숙. The particles known are those of this module, as they follow a vowel or a
  consonant. Where both 지은 and 지은이 are names, the longer one is meant.
- A file reference, such as `embedding:Mira` or `<lora:Mira:0.8>`, is no text: nothing in it is a word.

Texts are compared in Unicode's composed form (NFC), in which one spelling of a letter is the other.
"""

import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from heapq import heappop, heappush
from itertools import compress

Span = tuple[int, int]
"""Start and end of a piece of text."""


def _ranges(characters: Iterable[int]) -> str:
    """Code points, ascending, as the inside of a class of a regular expression; none is special in one."""
    ranges: list[list[int]] = []
    for code in characters:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


def _marks() -> Iterator[int]:
    """The code points of all combining marks; ComfyUI waits for this when it starts."""
    codes = (*range(0x20000), *range(0xE0100, 0xE01F0))
    return compress(codes, map({"Mn", "Mc", "Me"}.__contains__, map(unicodedata.category, map(chr, codes))))


MARKS = _ranges(_marks())
"""Combining marks, as the inside of a class of a regular expression."""

_HYPHENS = "\\-\u00ad\u2010\u2011"
_KATAKANA = "\u30a1-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_HANGUL = "\uac00-\ud7a3\u1100-\u11ff\u3130-\u318f"
# Han and kana, and the scripts of line breaking class SA (Unicode Standard Annex 14): Thai, Lao, Myanmar, Khmer,
# Tai Le, New Tai Lue, Tai Tham, Tai Viet and Ahom.
_UNSPACED = (
    f"\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af\u3041-\u309f\U0001b000-\U0001b16f{_KATAKANA}"
    "\u0e01-\u0e7f\u0e80-\u0eff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f\u1780-\u17d3\u1950-\u1974\u1980-\u19df\u1a20-\u1aad"
    "\uaa80-\uaadf\U00011700-\U00011746"
)
# Belongs to the letter before it: marks, joiners, skin tones, iteration and length signs of Han and kana, and the Thai
# and Lao vowels that stand after their consonant.
_EXTENDING = (
    f"{MARKS}\u200c\u200d\U0001f3fb-\U0001f3ff\u3005\u303b\u309d\u309e\u30fc-\u30fe\uff70\uff9e\uff9f"
    "\u0e30\u0e32\u0e33\u0e45\u0eb0\u0eb2\u0eb3"
)
# Belongs to the letter after it: Thai and Lao vowels that stand before their consonant, signs that stack consonants,
# and the joiner of emoji.
_LEADING = "\u0e40-\u0e44\u0ec0-\u0ec4\u17d2\u1039\u1a60\u200d"

_WORDLIKE = re.compile(f"[\\w{_HYPHENS}{_EXTENDING}]")
_LETTERLIKE = re.compile(f"[\\w{MARKS}]")
_IS_UNSPACED, _IS_KATAKANA, _IS_HANGUL = (re.compile(f"[{each}]") for each in (_UNSPACED, _KATAKANA, _HANGUL))
_IS_EXTENDING, _IS_LEADING = re.compile(f"[{_EXTENDING}]"), re.compile(f"[{_LEADING}]")
_PARTICLES = "에게서|한테서|에서|에게|한테|께서|까지|부터|처럼|보다|마저|조차|만큼|대로|밖에|하고|의|에|께|도|만"
_AFTER_VOWEL = f"(?:{_PARTICLES}|는|가|를|와|로|야|여|랑|나|며|라고)(?:은|는|도|만|의|까지|부터)?"
_AFTER_CONSONANT = f"(?:{_PARTICLES}|은|이|을|과|으로|로|아|이여|이랑|이나|이며|이라고)(?:은|는|도|만|의|까지|부터)?"
_TITLES = f"씨(?:{_AFTER_VOWEL})?|[님양군들](?:{_AFTER_CONSONANT})?"
_NO_MORE = f"(?![\\w{_HYPHENS}{MARKS}])"
_TAIL_AFTER_VOWEL = re.compile(f"(?:{_AFTER_VOWEL}|{_TITLES}){_NO_MORE}")
_TAIL_AFTER_CONSONANT = re.compile(f"(?:{_AFTER_CONSONANT}|이(?:{_AFTER_VOWEL})|{_TITLES}){_NO_MORE}")
_REFERENCE = re.compile(
    r"(?i:(?<!\w)embedding:)\s*(?:\\.|[^\s()<\[\\])*"  # as ComfyUI reads it: up to a space, a bracket or the next tag
    r"|<\w+:(?:[^<>\n]*>|[^\s<>]*)"
)
_ATOM = re.compile(f"[^\\W{_UNSPACED}{_HANGUL}]+|\\S")
_CONTENT_WORD = re.compile(f"{_REFERENCE.pattern}|(?P<word>(?<![\\w{MARKS}.:'\u2019-])\\w[\\w{MARKS}'\u2019-]*)")
_LETTER_WITH_MARKS = re.compile(f".[{MARKS}\u1161-\u1175\u11a8-\u11c2]*", re.DOTALL)


def composed(text: str) -> str:
    """The text in Unicode's composed form, NFC."""
    return unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """The text without the difference between capitals and small letters, every letter still in its place."""
    return text.lower() if text.isascii() else "".join(map(_folded_letter, text))


def find_word(word: str, text: str, ignore_case: bool = True) -> list[Span]:
    """Start and end of every whole-word occurrence, none overlapping another.

    Args:
        word: One word or several; spelt with composed or with combining letters, as the text may be.
        text: What to search; the spans refer to it as it is given.
        ignore_case: Whether capitals count as small letters.
    """
    word = composed(word)
    if unicodedata.is_normalized("NFC", text):
        return list(SearchedText(text).find(word, ignore_case))
    places: list[int] = []
    letters: list[str] = []
    for match in _LETTER_WITH_MARKS.finditer(text):
        letters.append(composed(match[0]))
        places += [match.start()] * len(letters[-1])
    places.append(len(text))
    return [(places[start], places[end]) for start, end in SearchedText("".join(letters)).find(word, ignore_case)]


def content_words(text: str) -> list[Span]:
    """Every run of letters and digits; weights such as the 1.2 of (red:1.2) and file references are no words."""
    return [match.span() for match in _CONTENT_WORD.finditer(text) if match["word"]]


def needs_space(before: str, after: str) -> bool:
    """Whether two letters that come to stand side by side would make one word of two.

    Those of one script that is written without spaces, and a Korean word and its particle, stand as they are.
    """
    if not (_LETTERLIKE.match(before) and _LETTERLIKE.match(after)):
        return False
    return not any(script.match(before) and script.match(after) for script in (_IS_UNSPACED, _IS_HANGUL))


class SearchedText:
    """A text in which many words are looked for.

    Args:
        text: In composed form.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.folded = folded(text)
        references = [match.span() for match in _REFERENCE.finditer(text)]
        self._starts, self._ends = [start for start, _ in references], [end for _, end in references]

    def find(self, phrase: str, ignore_case: bool) -> Iterator[Span]:
        """Where a phrase in composed form stands as a whole word, from left to right, none overlapping another."""
        span = self.next(phrase, ignore_case, 0)
        while span is not None:
            yield span
            span = self.next(phrase, ignore_case, span[1])

    def next(self, phrase: str, ignore_case: bool, start: int) -> Span | None:
        """Where a phrase in composed form stands as a whole word for the first time from a place on."""
        text, phrase = (self.folded, folded(phrase)) if ignore_case else (self.text, phrase)
        start = text.find(phrase, start) if phrase else -1
        while start >= 0:
            end, following = start + len(phrase), start + 1
            if not self._begins(start):
                atom = _ATOM.match(text, start)
                following = atom.end() if atom else following
            elif self._ends_at(end) and not (self._is_inside(start) or self._is_inside(end)):
                return start, end
            start = text.find(phrase, following)
        return None

    def _is_inside(self, place: int) -> bool:
        """Whether a place lies between the letters of a file reference."""
        number = bisect_right(self._starts, place) - 1
        return number >= 0 and self._starts[number] < place < self._ends[number]

    def _begins(self, start: int) -> bool:
        if start == 0:
            return True
        before, first = self.text[start - 1], self.text[start]
        if _IS_EXTENDING.match(first) or _IS_LEADING.match(before):
            return False
        return _are_apart(before, first)

    def _ends_at(self, end: int) -> bool:
        if end == len(self.text):
            return True
        last, after = self.text[end - 1], self.text[end]
        if _IS_EXTENDING.match(after):
            return False
        return _are_apart(after, last) or (bool(_IS_HANGUL.match(after)) and _is_particle(self.text, end))


class PhraseIndex:
    """Many phrases to be looked for in many texts.

    Only those are looked for whose rarest word the text has, so that a text costs what is in it and not what is in the
    story.

    Args:
        phrases: In composed form, none empty.
        ignore_case: Whether capitals count as small letters.
    """

    def __init__(self, phrases: Iterable[str], ignore_case: bool) -> None:
        self._ignore_case = ignore_case
        atoms = {
            phrase: _ATOM.findall(phrase) for phrase in (folded(each) if ignore_case else each for each in phrases)
        }
        uses = Counter(atom for own in atoms.values() for atom in own)
        self._by_atom: dict[str, list[str]] = {}
        for phrase, own in atoms.items():
            self._by_atom.setdefault(min(own, key=uses.__getitem__), []).append(phrase)

    def find(self, searched: SearchedText) -> Iterator[tuple[str, Span]]:
        """All phrases that stand in the text as whole words, and where; in small letters if those count as capitals."""
        for phrase in self._candidates(searched):
            for span in searched.find(phrase, self._ignore_case):
                yield phrase, span

    def those_in(self, searched: SearchedText) -> set[str]:
        """The phrases that stand in the text as whole words, wherever."""
        return {each for each in self._candidates(searched) if searched.next(each, self._ignore_case, 0) is not None}

    def find_leftmost(self, searched: SearchedText, without: Container[str]) -> Iterator[tuple[str, Span]]:
        """From left to right those that do not overlap, of two that begin together the longer one.

        Args:
            searched: The text.
            without: Phrases that do not count.
        """
        done = 0
        coming: list[tuple[int, int, str]] = []
        waiting = [phrase for phrase in self._candidates(searched) if phrase not in without]
        while waiting or coming:
            for phrase in waiting:
                span = searched.next(phrase, self._ignore_case, done)
                if span is not None:
                    heappush(coming, (span[0], -span[1], phrase))
            waiting = []
            if coming:
                start, end, phrase = heappop(coming)
                waiting = [phrase]
                if start >= done:
                    done = -end
                    yield phrase, (start, done)

    def _candidates(self, searched: SearchedText) -> Iterator[str]:
        """The phrases whose rarest word the text has."""
        text = searched.folded if self._ignore_case else searched.text
        for atom in dict.fromkeys(_ATOM.findall(text)):
            yield from self._by_atom.get(atom, ())


def _are_apart(neighbour: str, edge: str) -> bool:
    """Whether a word may begin or end between its own letter and the one next to it."""
    if not _WORDLIKE.match(neighbour):
        return True
    if _IS_KATAKANA.match(neighbour) and _IS_KATAKANA.match(edge):
        return False
    return bool(_IS_UNSPACED.match(neighbour) or _IS_UNSPACED.match(edge))


def _is_particle(text: str, start: int) -> bool:
    """Whether the rest of a Korean word is a particle that can follow the letter before it."""
    letter = text[start - 1]
    if not "가" <= letter <= "힣":
        return bool(_TAIL_AFTER_VOWEL.match(text, start) or _TAIL_AFTER_CONSONANT.match(text, start))
    tail = _TAIL_AFTER_CONSONANT if (ord(letter) - ord("가")) % 28 else _TAIL_AFTER_VOWEL
    return bool(tail.match(text, start))


def _folded_letter(letter: str) -> str:
    lower = letter.lower()
    return next((each for each in (lower.casefold(), lower) if len(each) == 1), letter)
