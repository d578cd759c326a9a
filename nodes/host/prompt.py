"""Where words of a prompt land in the text encoder's output, found by the host's own tokenizer."""

from collections.abc import Iterable
from typing import Any

from comfy_api.latest import io

from ...core.character_mentions import find_word
from ...core.quoting import quote
from ...core.story import FRAME, PROMPTS

_OTHER_WORDS = ("cat", "dog", "the", "a", "and")


def prompt_input() -> io.Combo.Input:
    """The choice between the frame's prompt and the character's description."""
    return io.Combo.Input(
        "prompt",
        options=list(PROMPTS),
        default=FRAME,
        optional=True,
        tooltip="With a frame: its whole prompt, or the character's description alone, after the style (the paper's "
        "c_j). Without a frame the text is used.",
    )


def first_word(text: str, class_word: str) -> tuple[int, int]:
    """Where a class word stands first in a prompt without a frame.

    Raises:
        ValueError: If it is not there: the identity would go nowhere.
    """
    places = find_word(class_word.strip(), text) if class_word.strip() else []
    if not places:
        raise ValueError(
            f"The class word {quote(class_word)} is not a word of the prompt {quote(text)}. Write the word that stands "
            "for this person (woman, boy ...) into both, or connect a frame."
        )
    return places[0]


def word_end_position(clip: Any, text: str, span: tuple[int, int], label: str) -> int:
    """Position, on the CONDITIONING's token axis, of the last token of the word at `span`; see `span_positions`."""
    return span_positions(clip, text, span, label)[-1]


def span_positions(
    clip: Any, text: str, span: tuple[int, int], label: str, encoders: Iterable[str] | None = None
) -> tuple[int, ...]:
    """Positions, on the CONDITIONING's token axis, of all tokens of the words at `span`.

    The prompt is tokenized twice, as it is and with another word at the span: the tokens between the first and the last
    difference are the words'. So commas, weights such as `(word:1.2)`, repeated words, longer words that contain it,
    words of several tokens and prompts of several 77-token windows are the tokenizer's own business and come out right.

    Args:
        clip: ComfyUI's CLIP.
        text: The prompt.
        span: Start and end of the words in `text`.
        label: What messages call the frame.
        encoders: Those of CLIP's text encoders that are asked; None: all.

    Raises:
        ValueError: If the tokens do not show the words there, as where one is the name of an embedding file.
    """
    start, end = span
    words = text[start:end]
    alone, prompt = _tokens(clip, words), _tokens(clip, text)
    found = set()
    for encoder in prompt if encoders is None else encoders:
        stream = prompt[encoder]
        wanted = [token for token, _ in alone[encoder]]
        other = next(o for o in _OTHER_WORDS if _tokens(clip, o)[encoder][0][0] not in (wanted[0], wanted[-1]))
        shown = [token for token, _ in stream]
        changed = [token for token, _ in _tokens(clip, text[:start] + other + text[end:])[encoder]]
        first = _first_difference(shown, changed)
        last = len(shown) - _first_difference(shown[::-1], changed[::-1])
        if shown[first:last] != wanted:
            raise ValueError(
                f"{label}: the tokenizer does not show the word {quote(words)} as a word of its own in {quote(text)}. "
                "Write it plainly, not as part of an embedding's name or glued to other letters."
            )
        found.add(tuple(position for _, position in stream[first:last]))
    if len(found) != 1:
        raise ValueError(
            f"{label}: the text encoders place the word {quote(words)} differently, at {quote(sorted(found))}."
        )
    return found.pop()


def text_tokens(clip: Any, text: str) -> dict[str, tuple[list[tuple[int, int]], int]]:
    """Per text encoder: (token, position) of everything that is text, and how many tokens there are in all.

    -1 stands for a token of an embedding file. A tokenizer that does not number words (LongCat-Image's) numbers padding
    alone, with 0.
    """
    found = {}
    for encoder, windows in clip.tokenize(text, return_word_ids=True).items():
        entries = [entry for window in windows for entry in window]
        shown = [
            (token if isinstance(token, int) else -1, position)
            for position, (token, _, *word_id) in enumerate(entries)
            if not word_id or word_id[0]
        ]
        found[encoder] = (shown, len(entries))
    return found


def _tokens(clip: Any, text: str) -> dict[str, list[tuple[int, int]]]:
    return {encoder: shown for encoder, (shown, _) in text_tokens(clip, text).items()}


def _first_difference(one: list[int], other: list[int]) -> int:
    same = [a == b for a, b in zip(one, other, strict=False)]
    return same.index(False) if False in same else len(same)
