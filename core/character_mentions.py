"""Who is in a frame, and which words of its prompt say so."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

Span = tuple[int, int]
"""Start and end of a piece of text."""

_FUNCTION_WORDS = frozenset(
    "a an and any as at be by for from had has have he her his in is it its of on or she some that the their they this "
    "to was which who whose with".split()
)


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


def find_word(word: str, text: str, ignore_case: bool = True) -> list[Span]:
    """Start and end of every whole-word occurrence; parts of compounds such as "man-made" are no words."""
    return [match.span() for match in re.finditer(_whole(re.escape(word)), text, re.IGNORECASE if ignore_case else 0)]


def cut_after_word(character: Character) -> str:
    """The description up to its class word, as the published code shortens it."""
    return character.description[: find_word(character.word, character.description)[0][1]]


def expand_names(caption: str, characters: Sequence[Character]) -> tuple[str, list[Mention]]:
    """Replace names by what a text encoder understands.

    The first mention that is no possessive (or the first, if all are) becomes the description, the others become
    "the <class word>".

    Returns:
        The text, and who is mentioned where in it, by name or by description.
    """
    by_name = {
        character.name: character
        for character in characters
        if character.name.lower() != character.word.lower() and not find_word(character.description, caption)
    }
    longest_first = sorted(by_name, key=len, reverse=True)
    found = list(re.finditer(_whole("|".join(map(re.escape, longest_first))), caption)) if by_name else []
    described = {_introduction([match for match in found if match[0] == name], caption) for name in by_name}
    text, mentions, done = "", [], 0
    for match in found:
        character = by_name[match[0]]
        describes = match.start() in described
        text += caption[done : match.start()]
        words = character.description if describes else f"the {character.word}"
        mentions.append(Mention(character, (len(text), len(text) + len(words)), describes))
        text += words
        done = match.end()
    text += caption[done:]
    return text, mentions + _descriptions(text, characters, mentions)


def find_cast(text: str, mentions: Sequence[Mention], characters: Sequence[Character], where: str) -> list[Character]:
    """Everybody who is mentioned, and those whose class word stands there by itself.

    Raises:
        ValueError: If a class word could be one of several characters.
    """
    cast = list(dict.fromkeys(mention.character for mention in mentions))
    for word in dict.fromkeys(character.word.lower() for character in characters):
        alike = [character for character in characters if character.word.lower() == word]
        free = _free_words(word, text, mentions)
        if not free or any(character in cast for character in alike):
            continue
        if len(alike) > len(free):
            names = " or ".join(f'"{character.name}"' for character in alike)
            raise ValueError(f'{where}: "{word}" could be {names}. Use a name, or give the frame a "cast".')
        cast += alike
    return cast


def word_spans(text: str, mentions: Sequence[Mention], cast: Sequence[Character], where: str) -> list[Span]:
    """Where each of the cast's class words stands: in their description, in another mention, or by itself.

    Raises:
        ValueError: If somebody's class word is not there.
    """
    spans: list[Span] = []
    for character in cast:
        own = [mention for mention in mentions if mention.character == character]
        own.sort(key=lambda mention: (not mention.describes, mention.span))
        choices = [_class_word(mention, text) for mention in own]
        choices += [span for span in _free_words(character.word, text, mentions) if span not in spans]
        if not choices:
            raise ValueError(
                f'{where}: the class word "{character.word}" of "{character.name}" is not in the prompt "{text}". '
                f'Write the name "{character.name}" or the word "{character.word}" into it, or take the character out '
                "of the cast."
            )
        spans.append(choices[0])
    return spans


def telling_words(
    text: str, mentions: Sequence[Mention], cast: Sequence[Character], class_words: Sequence[Span]
) -> list[tuple[Span, ...]]:
    """For each of the cast, the words that say who they are: of their descriptions, and the class word elsewhere.

    These are the words whose attention maps show where somebody is (Storynizor, equation 5). The paper encodes the
    whole description; we leave out articles, prepositions and the like, to which the background attends as much as the
    person.

    Args:
        text: The expanded prompt.
        mentions: As `expand_names` gives them.
        cast: Who is in the frame.
        class_words: What `word_spans` gives; it stands for those whom the text mentions by their class word alone.
    """
    found = []
    for character, class_word in zip(cast, class_words, strict=True):
        spans = {class_word}
        for mention in mentions:
            if mention.character == character:
                spans.update(_content_words(mention.span, text) if mention.describes else [_class_word(mention, text)])
        found.append(tuple(sorted(spans)))
    return found


def _content_words(span: Span, text: str) -> list[Span]:
    """The words of a piece of text but function words; numbers of weights (red:1.2) and embeddings are no words."""
    words = re.finditer(r"embedding:\S+|(?<![\w.:'\u2019-])\w[\w'\u2019-]*", text[slice(*span)])
    found = [word for word in words if word[0].lower() not in _FUNCTION_WORDS and ":" not in word[0]]
    return [(span[0] + word.start(), span[0] + word.end()) for word in found]


def _class_word(mention: Mention, text: str) -> Span:
    start, end = find_word(mention.character.word, text[slice(*mention.span)])[0]
    return mention.span[0] + start, mention.span[0] + end


def _whole(pattern: str) -> str:
    return rf"(?<![\w-])(?:{pattern})(?![\w-])"


def _introduction(matches: Sequence[re.Match[str]], caption: str) -> int:
    """Start of the mention of one name that takes the description; -1 where the name does not occur."""
    plain = [match for match in matches if caption[match.end() : match.end() + 2] not in ("'s", "\u2019s")]
    return min((match.start() for match in plain or matches), default=-1)


def _descriptions(text: str, characters: Sequence[Character], taken: Sequence[Mention]) -> list[Mention]:
    """Descriptions the author wrote out, whole or cut after the class word if that says more than "a woman"."""
    candidates = []
    for character in characters:
        cut = cut_after_word(character)
        tells = len(cut.split()) > len(character.word.split()) + 1
        for words in (character.description, cut) if tells else (character.description,):
            candidates += [Mention(character, span, True) for span in find_word(words, text)]
    candidates.sort(key=lambda mention: mention.span[0] - mention.span[1])  # the longest first
    spans, found = [mention.span for mention in taken], []
    for mention in candidates:
        if not any(_overlap(mention.span, span) for span in spans):
            spans.append(mention.span)
            found.append(mention)
    return found


def _free_words(word: str, text: str, mentions: Sequence[Mention]) -> list[Span]:
    """Occurrences of a word that belong to nobody's mention."""
    return [span for span in find_word(word, text) if not any(_overlap(span, mention.span) for mention in mentions)]


def _overlap(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]
