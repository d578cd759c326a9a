"""The words by which all captions of a group name its character (Storynizor, section 4, "Tokenized and segmentation").

The paper has a language model write the same description into all captions and extracts it again. Captions from
anywhere agree less well: the longest phrase that nearly all of them share is taken, and the others are strays.
"""

import re
from collections.abc import Sequence

from ...core.character_mentions import Character, Mention, Span, find_word, identifying_words

_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*|[^\w\s]")
_LONGEST = 24
"""No phrase has more words."""


def find_class_word(captions: Sequence[str], words: Sequence[str]) -> str | None:
    """The one of `words` that most captions have, the earlier one where two are equal; None if no caption has any."""
    counts = [sum(bool(find_word(word, caption)) for caption in captions) for word in words]
    return words[counts.index(max(counts))] if any(counts) else None


def shared_phrase(captions: Sequence[str], word: str, least_share: float | int = 0.8) -> str | None:
    """The longest run of words around the class word that the captions have in common.

    Among the phrases that at least `least_share` of the captions have and that say more than the class word, those that
    most captions have, and of these the longest: a pose that all pictures but one happen to show is not taken into it.
    Where nothing more is shared, it is the most shared phrase with the class word, such as "a woman". Capitals do not
    count; commas and the like do, so that the tokens are the same everywhere.

    Args:
        captions: The captions of one group.
        word: The class word.
        least_share: 0 to 1.

    Returns:
        The phrase as the first caption that has it writes it, or None if too few captions have the word.
    """
    written: dict[tuple[str, ...], str] = {}
    counts: dict[tuple[str, ...], int] = {}
    for caption in captions:
        own = _phrases(caption, word)
        for words, text in own.items():
            written.setdefault(words, text)
            counts[words] = counts.get(words, 0) + 1
    usual = [words for words, count in counts.items() if count >= max(1, least_share * len(captions))]
    if not usual:
        return None
    descriptive = [
        words for words in usual if len(identifying_spans(Character("", word, written[words]), written[words])) > 1
    ]
    # Two of equal rank: the one found first, which is that of the earliest caption and place.
    return written[max(descriptive or usual, key=lambda words: (counts[words], len(words)))]


def phrase_span(character: Character, caption: str) -> Span | None:
    """Where the caption has the character's description for the first time."""
    return next(iter(find_word(character.description, caption)), None)


def identifying_spans(character: Character, caption: str) -> tuple[Span, ...]:
    """The words of the description that say who it is, in a caption that has it: its `identifying_words`."""
    span = phrase_span(character, caption)
    if span is None:
        return ()
    start, end = find_word(character.word, caption[slice(*span)])[0]
    class_word = (span[0] + start, span[0] + end)
    return identifying_words(caption, [Mention(character, span, True)], [character], [class_word])[0]


def _phrases(caption: str, word: str) -> dict[tuple[str, ...], str]:
    """Every run of words around an occurrence of the class word, in lower case, and as it is written."""
    places = [match.span() for match in _WORD.finditer(caption)]
    tokens = [caption[start:end].lower() for start, end in places]
    around = {span for span in find_word(word, caption)}
    found: dict[tuple[str, ...], str] = {}
    for first, (start, _) in enumerate(places):
        for last in range(first, min(first + _LONGEST, len(places))):
            end = places[last][1]
            plain = tokens[first][0].isalnum() and tokens[last][0].isalnum()
            if plain and any(start <= low and high <= end for low, high in around):
                found.setdefault(tuple(tokens[first : last + 1]), caption[start:end])
    return found
