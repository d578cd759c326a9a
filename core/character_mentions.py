"""Who is in a frame, and which words of its prompt say so."""

import re
from bisect import bisect_right
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .names_that_are_words import ALSO_WORDS
from .quoting import quote
from .text_search import PhraseIndex, SearchedText, Span, composed, content_words, find_word, folded, needs_space

_FUNCTION_WORDS = frozenset(
    "a an and any as at be by for from had has have he her his in is it its of on or she some that the their they this "
    "to was which who whose with".split()
)
_ARTICLE = "the "
_MARK = re.compile("\\[\\s*([^\\[\\]]{1,200}?)('s|\u2019s|['\u2019])?\\s*\\]")
"""A name in square brackets, with what may follow it."""


@dataclass(frozen=True)
class Character:
    """Someone in the story.

    Args:
        name: What the story calls them; unique.
        word: Their class word (woman, boy, robot ...), a whole word of the description.
        description: What they look like, as it goes into prompts.
        reference_images: Paths of pictures of them, if there are any.
    """

    name: str
    word: str
    description: str
    reference_images: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mention:
    """A piece of the prompt that speaks of one character: their description, or "the <class word>" for their name."""

    character: Character
    span: Span
    describes: bool


@dataclass(frozen=True)
class Expanded:
    """A caption with names replaced by what a text encoder understands.

    Args:
        text: The result; the spans refer to it.
        mentions: Who is mentioned where by name or by description, per character's name.
        free_words: Where class words stand that belong to nobody's mention, per class word in small letters.
    """

    text: str
    mentions: Mapping[str, Sequence[Mention]]
    free_words: Mapping[str, Sequence[Span]]

    def with_class_words(self) -> str:
        """The text with the class word in place of every mention; names and looks do not change it."""
        pieces, done = [], 0
        mentions = (mention for own in self.mentions.values() for mention in own)
        for mention in sorted(mentions, key=lambda each: each.span):
            pieces += [self.text[done : mention.span[0]], mention.character.word]
            done = mention.span[1]
        return "".join([*pieces, self.text[done:]])


def cut_after_word(character: Character) -> str:
    """The description up to its class word, as the published code shortens it."""
    return character.description[: find_word(character.word, character.description)[0][1]]


def without_marks(caption: str, names: Container[str]) -> tuple[str, set[int]]:
    """The caption without square brackets around names, and where in the result such a name begins.

    Args:
        caption: In composed form, such as "[May] waits, [May's] hat".
        names: In composed form.
    """
    text, done, starts = "", 0, set()
    for match in _MARK.finditer(caption):
        if match[1] in names:
            text += caption[done : match.start()]
            starts.add(len(text))
            text += match[1] + (match[2] or "")
            done = match.end()
    return text + caption[done:], starts


def marked_names(names: Iterable[str], captions: Iterable[str]) -> set[str]:
    """The names that are words too and that some caption has in square brackets; such a name counts nowhere else.

    Args:
        names: In composed form.
        captions: The captions of a whole story.
    """
    words = {name for name in names if folded(name) in ALSO_WORDS}
    return {
        match[1]
        for caption in (captions if words else ())
        if "[" in caption
        for match in _MARK.finditer(composed(caption))
        if match[1] in words
    }


class CaptionReader:
    """Reads the captions of one story; what is looked for is prepared once, and a caption takes one pass.

    Args:
        characters: The story's characters, in composed form, with every class word a word of its description.
        marked: The names that count only in square brackets, see `marked_names`.
    """

    def __init__(self, characters: Sequence[Character], marked: Collection[str] = ()) -> None:
        self._marked = frozenset(marked)
        self._by_name = {character.name: character for character in characters}
        self._by_word: dict[str, list[Character]] = {}
        self._described: dict[str, list[Character]] = {}
        self._shown: dict[str, Character] = {}
        self._places: dict[str, Span] = {}
        for character in characters:
            self._by_word.setdefault(folded(character.word), []).append(character)
            self._described.setdefault(folded(character.description), []).append(character)
            self._places[character.name] = find_word(character.word, character.description)[0]
            cut = cut_after_word(character)
            tells = len(cut.split()) > len(character.word.split()) + 1  # more than "a woman"
            for words in (character.description, cut) if tells else (character.description,):
                self._shown.setdefault(folded(words), character)
        self._order = {word: number for number, word in enumerate(self._by_word)}
        named = (each.name for each in characters if folded(each.name) != folded(each.word))
        self._names = PhraseIndex(named, ignore_case=False)
        self._descriptions = PhraseIndex(self._shown, ignore_case=True)
        self._words = PhraseIndex(self._by_word, ignore_case=True)

    @property
    def names(self) -> list[str]:
        """Everybody's."""
        return list(self._by_name)

    def character(self, name: str) -> Character | None:
        """The one of this name, in composed form; None if there is none."""
        return self._by_name.get(name)

    def expand(self, caption: str) -> Expanded:
        """Replace names by what a text encoder understands.

        The first mention that is no possessive (or the first, if all are) becomes the description, the others become
        "the <class word>". The name of somebody whose whole description is in the caption stays. Brackets around names
        go; a marked name counts only in them. Descriptions the author wrote out count, whole or cut after the class
        word if that says more than "a woman".

        Args:
            caption: In composed form.
        """
        caption, marks = without_marks(caption, self._by_name)
        searched = SearchedText(caption)
        described = sorted(self._descriptions.find(searched), key=lambda hit: hit[1][0] - hit[1][1])  # longest first
        written = {each.name for phrase, _ in described for each in self._described.get(phrase, ())}
        named = [
            (name, span)
            for name, span in self._names.find_leftmost(searched, without=written)
            if name not in self._marked or span[0] in marks
        ]
        taken = bytearray(len(caption))
        for _, span in named:
            _take(taken, span)
        shown = [(phrase, span) for phrase, span in described if _take(taken, span)]
        free = [(word, span) for word, span in self._words.find(searched) if _is_free(taken, span)]
        result = _Replaced(caption)
        mentions: dict[str, list[Mention]] = {}
        introductions = _introductions(named, caption)
        for name, span in named:
            character, describes = self._by_name[name], span[0] in introductions
            words = character.description if describes else f"{_ARTICLE}{character.word}"
            mentions.setdefault(name, []).append(Mention(character, result.replace(span, words), describes))
        for phrase, span in shown:
            character = self._shown[phrase]
            mentions.setdefault(character.name, []).append(Mention(character, result.shifted(span), True))
        free_words: dict[str, list[Span]] = {}
        for word, span in free:
            free_words.setdefault(word, []).append(result.shifted(span))
        return Expanded(result.text(), mentions, free_words)

    def find_cast(self, expanded: Expanded, where: str) -> list[Character]:
        """Everybody who is mentioned, and those whose class word stands there by itself.

        Raises:
            ValueError: If a class word could be one of several characters.
        """
        cast = [self._by_name[name] for name in expanded.mentions]
        for word in sorted(expanded.free_words, key=self._order.__getitem__):
            alike, free = self._by_word[word], expanded.free_words[word]
            if any(character.name in expanded.mentions for character in alike):
                continue
            if len(alike) > len(free):
                names = " or ".join(quote(character.name) for character in alike[:3])
                names += f" or {len(alike) - 3} more" if len(alike) > 3 else ""
                raise ValueError(f'{where}: {quote(word)} could be {names}. Use a name, or give the frame a "cast".')
            cast += alike
        return cast

    def word_spans(self, expanded: Expanded, cast: Sequence[Character], where: str) -> list[Span]:
        """Where each of the cast's class words stands: in their description, in another mention, or by itself.

        Raises:
            ValueError: If somebody's class word is not there.
        """
        spans: list[Span] = []
        free = {word: iter(places) for word, places in expanded.free_words.items()}
        for character in cast:
            own = expanded.mentions.get(character.name)
            if own:
                first = min(own, key=lambda mention: (not mention.describes, mention.span))
                place = (
                    self._places[character.name] if first.describes else (len(_ARTICLE), first.span[1] - first.span[0])
                )
                spans.append((first.span[0] + place[0], first.span[0] + place[1]))
                continue
            span = next(free.get(folded(character.word), iter(())), None)
            if span is None:
                raise ValueError(
                    f"{where}: the class word {quote(character.word)} of {quote(character.name)} is not in the prompt "
                    f"{quote(expanded.text)}. Write the name {quote(character.name)} or the word "
                    f"{quote(character.word)} into it, or take the character out of the cast."
                )
            spans.append(span)
        return spans


def identifying_words(
    text: str, mentions: Iterable[Mention], cast: Sequence[Character], class_words: Sequence[Span]
) -> list[tuple[Span, ...]]:
    """For each of the cast, the words that say who they are: of their descriptions, and the class word elsewhere.

    These are the words whose attention maps show where somebody is (Storynizor, equation 5). The paper encodes the
    whole description; we leave out articles, prepositions and the like, to which the background attends as much as the
    person.

    Args:
        text: The expanded prompt.
        mentions: Where that text mentions the cast.
        cast: Who is in the frame.
        class_words: What `CaptionReader.word_spans` gives; it stands for those whom the text mentions by their class
            word alone.
    """
    found = {character.name: {class_word} for character, class_word in zip(cast, class_words, strict=True)}
    for mention in mentions:
        spans = found.get(mention.character.name)
        if spans is not None:
            start, end = mention.span
            spans.update(_content_words(mention.span, text) if mention.describes else [(start + len(_ARTICLE), end)])
    return [tuple(sorted(found[character.name])) for character in cast]


def _content_words(span: Span, text: str) -> Iterator[Span]:
    """The words of a piece of text but function words; numbers of weights (red:1.2) and embeddings are no words."""
    piece = text[slice(*span)]
    for start, end in content_words(piece):
        if piece[start:end].lower() not in _FUNCTION_WORDS:
            yield span[0] + start, span[0] + end


class _Replaced:
    """A text in which pieces are replaced from left to right, and where the others have gone."""

    def __init__(self, text: str) -> None:
        self._text, self._done = text, 0
        self._pieces: list[str] = []
        self._length = 0
        self._ends, self._shifts = [0], [0]

    def replace(self, span: Span, words: str) -> Span:
        """Put words in place of a piece, with spaces where they would else be one word with their neighbours."""
        start, end = span
        before, after = self._text[max(start - 1, 0) : start], self._text[end : end + 1]
        self._add(self._text[self._done : start] + (" " if before and needs_space(before, words[0]) else ""))
        place = (self._length, self._length + len(words))
        self._add(words + (" " if after and needs_space(words[-1], after) else ""))
        self._done = end
        self._ends.append(end)
        self._shifts.append(self._length - end)
        return place

    def shifted(self, span: Span) -> Span:
        """Where a piece that is not replaced stands now."""
        by = self._shifts[bisect_right(self._ends, span[0]) - 1]
        return span[0] + by, span[1] + by

    def text(self) -> str:
        return "".join(self._pieces) + self._text[self._done :]

    def _add(self, piece: str) -> None:
        self._pieces.append(piece)
        self._length += len(piece)


def _introductions(named: Sequence[tuple[str, Span]], caption: str) -> set[int]:
    """Starts of the mentions that take the description, one of every name."""
    first: dict[str, int] = {}
    plain: dict[str, int] = {}
    for name, (start, end) in named:
        first.setdefault(name, start)
        if caption[end : end + 2] not in ("'s", "\u2019s"):
            plain.setdefault(name, start)
    return set((first | plain).values())


def _is_free(taken: bytearray, span: Span) -> bool:
    return taken.find(1, *span) < 0


def _take(taken: bytearray, span: Span) -> bool:
    """Mark a piece as spoken for; False if it was already, wholly or in part."""
    if not _is_free(taken, span):
        return False
    taken[slice(*span)] = b"\1" * (span[1] - span[0])
    return True
