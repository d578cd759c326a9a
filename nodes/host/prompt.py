"""Where a word of a prompt lands in the text encoder's output, found by the host's own tokenizer."""

from typing import Any

from ...core.story import find_word


def word_end_position(clip: Any, text: str, span: tuple[int, int], label: str) -> int:
    """Position, on the CONDITIONING's token axis, of the last token of the word at `span`.

    The word is tokenized alone and its tokens are looked for in the prompt's; which of its occurrences is meant comes
    from counting the word in the text. Commas, weights such as `(word:1.2)`, words of several tokens, repeated words
    and prompts of several 77-token windows are the tokenizer's own business, so they come out right.

    Args:
        clip: ComfyUI's CLIP.
        text: The prompt.
        span: Start and end of the word in `text`.
        label: What messages call the frame.

    Raises:
        ValueError: If the tokens do not show the word as often as the text does.
    """
    word = text[slice(*span)]
    places = find_word(word, text)
    prompt_tokens, word_tokens = (clip.tokenize(part, return_word_ids=True) for part in (text, word))
    found = set()
    for encoder, windows in prompt_tokens.items():
        ends = _ends_of(_plain_tokens(word_tokens[encoder]), _plain_tokens(windows))
        if len(ends) != len(places):
            raise ValueError(
                f'{label}: the word "{word}" stands {len(places)} times in the prompt, but the tokenizer shows it '
                f'{len(ends)} times. Write it as a plain word, not as part of an embedding: "{text}".'
            )
        found.add(ends[places.index(span)])
    if len(found) != 1:
        raise ValueError(f'{label}: the text encoders place the word "{word}" differently, at {sorted(found)}.')
    return found.pop()


def _plain_tokens(windows: list[list[tuple[Any, float, int]]]) -> list[tuple[int, int]]:
    """(token, position) of everything that is text; -1 stands for a token of an embedding file."""
    everything = [entry for window in windows for entry in window]
    return [
        (token if isinstance(token, int) else -1, position)
        for position, (token, _, word_id) in enumerate(everything)
        if word_id
    ]


def _ends_of(word: list[tuple[int, int]], prompt: list[tuple[int, int]]) -> list[int]:
    wanted = [token for token, _ in word]
    tokens = [token for token, _ in prompt]
    size = len(wanted)
    starts = [start for start in range(len(tokens) - size + 1) if tokens[start : start + size] == wanted]
    return [prompt[start + size - 1][1] for start in starts]
