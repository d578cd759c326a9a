"""Where words of a prompt land among the tokens of the text encoders of diffusion transformers.

An encoder here reads the prompt as it is (T5, Gemma) or inside a chat template (Qwen, Mistral), of which it may leave
the beginning out of what it gives. So places are counted from the end: the last token of the text is the last of the
CONDITIONING. With SD3's, CLIP's tokens come first, and the words are in both.
"""

from typing import Any

from ...core.quoting import quote, quote_all
from .prompt import span_positions, text_tokens

CLIP = {"l", "g", "h"}
"""What the host calls the text encoders of UNets with cross-attention."""

TOKENIZERS = {
    "FluxTokenizer": "Flux.1",
    "Flux2Tokenizer": "Flux.2",
    "KleinTokenizer": "Flux.2 klein",
    "PixArtTokenizer": "Chroma",
    "QwenImageTokenizer": "Qwen-Image",
    "Krea2Tokenizer": "Krea 2",
    "ZImageTokenizer": "Z-Image",
    "LuminaTokenizer": "Lumina 2",
    "SD3Tokenizer": "SD3",
}
"""The host's tokenizers whose encoders keep the end of what they read, and whose models people use them with."""

_OTHERS = ("cat", "dogs", "the", "I")


def encoder_of(clip: Any, who: str) -> str | None:
    """The text encoder whose tokens end a CLIP's CONDITIONING; None where CLIP's own are all there is.

    Raises:
        ValueError: If where words are among its tokens is not known.
    """
    others = set(clip.tokenize("")) - CLIP
    if not others:
        return None
    kinds = {kind.__name__ for kind in type(getattr(clip, "tokenizer", None)).__mro__}
    if len(others) == 1 and kinds & TOKENIZERS.keys():
        return others.pop()
    raise ValueError(
        f"{who}: where words are among the tokens of the text encoder {quote_all(sorted(others))} is not known to this "
        f"pack. Connect the CLIP of a checkpoint of SD1.5, SDXL, {', '.join(TOKENIZERS.values())}."
    )


def word_places(clip: Any, encoder: str, text: str, span: tuple[int, int], label: str, tokens: int) -> list[int]:
    """All tokens, on the CONDITIONING's token axis, of the words at `span`.

    The prompt is tokenized as it is and with other words at the span: the words' tokens are those that any of these
    changes.

    Args:
        clip: ComfyUI's CLIP.
        encoder: From `encoder_of`.
        text: The prompt.
        span: Start and end of the words in `text`.
        label: What messages call the frame.
        tokens: Length of the CONDITIONING's token axis.

    Raises:
        ValueError: If the tokens do not show the words, as where the encoder cut the prompt.
    """
    start, end = span
    shown, length = text_tokens(clip, text)[encoder]
    found: set[int] = set()
    for other in _OTHERS:
        changed, _ = text_tokens(clip, text[:start] + other + text[end:])[encoder]
        first, last = _differing([token for token, _ in shown], [token for token, _ in changed])
        found.update(range(first, last))
    places = [shown[index][1] + tokens - length for index in range(min(found, default=0), max(found, default=-1) + 1)]
    if not places or places[0] < 0:
        words = quote(text[start:end])
        raise ValueError(f"{label}: the text encoder does not show the words {words} of {quote(text)}. Reword them.")
    before = tokens - length
    clip_streams = [name for name in clip.tokenize("") if name in CLIP]
    if before > 0 and clip_streams:
        places += span_positions(clip, text, span, label, clip_streams)
    return sorted(places)


def _differing(one: list[int], other: list[int]) -> tuple[int, int]:
    """Where in `one` the first and the last difference are: a slice's bounds."""
    shorter = min(len(one), len(other))
    first = next((index for index in range(shorter) if one[index] != other[index]), shorter)
    behind = next((index for index in range(shorter - first) if one[-1 - index] != other[-1 - index]), shorter - first)
    return first, len(one) - behind
