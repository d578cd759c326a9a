"""A prompt that says which reference picture shows a character, as reference-conditioned editors are told."""

import re

from .text_search import Span

_BEFORE_NOTHING = ",.;:!?)]}"
"""Signs before which an inserted piece needs no comma of its own."""
_INDEFINITE = re.compile(r"\b(an?|one)(\s+(?:(?!(?:an?|one|the)\s)[^\s,.;:()]+\s+){0,8})$", re.IGNORECASE)
"""An article of the word that follows: between the two are adjectives, and no other article."""


def with_reference(prompt: str, class_word: Span, description: str, pictures: int, noun: str = "image") -> str:
    """The prompt with "the woman in image 1" in it; several pictures are images 1 to n.

    Where the character's description stands around the class word, and says more than "a woman", the words come after
    it: "a young woman with red hair, the woman in image 1, waits". Else they come after the class word, and "a woman
    waits" becomes "the woman in image 1 waits".

    Args:
        prompt: A frame's prompt, or any other.
        class_word: Where it has the character's class word.
        description: The character's description; empty if it is not known.
        pictures: How many reference pictures there are, 1 or more.
        noun: What the model calls a reference picture.
    """
    word = prompt[slice(*class_word)]
    which = f"in {_numbered(noun, pictures)}"
    end = _end_of_description(prompt, class_word, description)
    if end is not None:
        rest = prompt[end:].lstrip()
        comma = "," if rest and rest[0] not in _BEFORE_NOTHING else ""
        return f"{prompt[:end]}, the {word} {which}{comma}{prompt[end:]}"
    before = _INDEFINITE.sub(_definite, prompt[: class_word[0]])
    return f"{before}{word} {which}{prompt[class_word[1] :]}"


def _numbered(noun: str, count: int) -> str:
    if count == 1:
        return f"{noun} 1"
    return f"{noun}s 1 {'and' if count == 2 else 'to'} {count}"


def _end_of_description(prompt: str, class_word: Span, description: str) -> int | None:
    """Where a description around the class word ends; None if there is none, or it says no more than the word."""
    if len(description.split()) <= len(prompt[slice(*class_word)].split()) + 1:
        return None
    for found in re.finditer(re.escape(description), prompt, re.IGNORECASE):
        if found.start() <= class_word[0] and class_word[1] <= found.end():
            return found.end()
    return None


def _definite(article: re.Match[str]) -> str:
    """Put the definite article in place of the indefinite one; the adjectives after it stay."""
    return f"{'The' if article[1][0].isupper() else 'the'}{article[2]}"
