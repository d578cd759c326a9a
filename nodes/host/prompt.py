"""Where words of a prompt land in the text encoder's output, found by the host's own tokenizer."""

from collections.abc import Iterable
from typing import Any

from ...core.quoting import quote

_OTHER_WORDS = ("cat", "dog", "the", "a", "and")


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

    -1 stands for a token of an embedding file.
    """
    found = {}
    for encoder, windows in clip.tokenize(text, return_word_ids=True).items():
        entries = [entry for window in windows for entry in window]
        shown = [
            (token if isinstance(token, int) else -1, position)
            for position, (token, _, word_id) in enumerate(entries)
            if word_id
        ]
        found[encoder] = (shown, len(entries))
    return found


def _tokens(clip: Any, text: str) -> dict[str, list[tuple[int, int]]]:
    return {encoder: shown for encoder, (shown, _) in text_tokens(clip, text).items()}


def _first_difference(one: list[int], other: list[int]) -> int:
    same = [a == b for a, b in zip(one, other, strict=False)]
    return same.index(False) if False in same else len(same)
