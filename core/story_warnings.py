"""What a story's author should look at: names that seem misspelt, names that are words too, people without a name."""

import re
from collections.abc import Iterator, Sequence

from .character_mentions import marked_names
from .names_that_are_words import ALSO_WORDS
from .near_misses import numbered, unfound_names
from .quoting import quote
from .story import Frame, Story
from .text_search import SearchedText, Span, composed, content_words, folded

_PERSON_WORDS = frozenset(
    "baby boy boyfriend bride brother child daughter doctor father fisherman gentleman girl girlfriend "
    "grandfather grandma grandmother grandpa groom guy husband kid king knight lady man mother nurse person "
    "pirate policeman prince princess queen robot sailor sister soldier son teenager toddler wife witch wizard "
    "woman".split()
)
"""Words that mean one person, who would be drawn anew in every frame."""

_BEFORE_A_PERSON = frozenset("a an another her his my one our some the their your".split())

_SENTENCE_END = re.compile(r"[.!?:;\u2026\n][\"'\u201d\u2019)]*\s*$")
_OPENING = "\"'\u201c\u2018( "


def story_warnings(story: Story) -> list[str]:
    """One sentence for everything in a story that may not be meant as it is written.

    These are the sentences of `near_misses.unfound_names`; names that are words too and begin a sentence (May, Rose,
    Will); and words for a person that no character bears.
    """
    return [*unfound_names(story), *_names_that_are_words(story), *_strangers(story)]


def _names_that_are_words(story: Story) -> Iterator[str]:
    names = [each.name for each in story.characters if each.name[:1].isupper() and folded(each.name) in ALSO_WORDS]
    marked = marked_names(names, (frame.caption for frame in story.frames))
    for name in names:
        if name in marked:
            bare = [frame.index + 1 for frame in story.frames if _stands_there(name, frame) and not _shows(name, frame)]
            if bare:
                yield (
                    f'{numbered(bare).capitalize()}: {quote(name)} is not the character, since "[{name}]" is written '
                    "in another frame. Write the brackets there too if it is."
                )
            continue
        asked = [frame.index + 1 for frame in story.frames if _begins_a_sentence(name, frame)]
        if asked:
            yield (
                f"{numbered(asked).capitalize()}: {quote(name)} begins a sentence and is a word as well; it is taken "
                f'for the character. If it is not always, write "[{name}]" wherever it is: then only these count.'
            )


def _stands_there(name: str, frame: Frame) -> bool:
    return any(SearchedText(composed(frame.caption)).find(name, ignore_case=False))


def _shows(name: str, frame: Frame) -> bool:
    return any(composed(character.name) == name for character in frame.cast)


def _begins_a_sentence(name: str, frame: Frame) -> bool:
    caption = composed(frame.caption)
    return any(
        not before.strip(_OPENING) or _SENTENCE_END.search(before.rstrip(_OPENING))
        for before in (caption[:start] for start, _ in SearchedText(caption).find(name, ignore_case=False))
    )


def _strangers(story: Story) -> Iterator[str]:
    borne = {folded(character.word) for character in story.characters}
    places: dict[str, list[int]] = {}
    for frame in story.frames:
        described = {word for each in frame.cast for word in map(folded, each.description.split())}
        for word in dict.fromkeys(_people(composed(frame.caption))):
            if word not in borne and word not in described:
                places.setdefault(word, []).append(frame.index + 1)
    for word, frames in places.items():
        yield (
            f"{numbered(frames).capitalize()}: {quote(word)} is the class word of no character, so that each frame may "
            "show somebody else. Give them a line in characters if they are to stay the same."
        )


def _people(caption: str) -> Iterator[str]:
    """The words for one person that follow an article or the like, with at most two words between."""
    words = [(folded(caption[slice(*span)]), span) for span in content_words(caption)]
    for place, (word, span) in enumerate(words):
        if word in _PERSON_WORDS and _has_determiner(words[max(place - 3, 0) : place], span, caption):
            yield word


def _has_determiner(before: Sequence[tuple[str, Span]], span: Span, caption: str) -> bool:
    for word, (_, end) in reversed(before):
        if caption[end : span[0]].count(",") or caption[end : span[0]].count("."):
            return False
        if word in _BEFORE_A_PERSON:
            return True
    return False
