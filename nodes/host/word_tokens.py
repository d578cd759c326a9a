"""Where words of a prompt land among the tokens of the text encoders of diffusion transformers.

An encoder here reads the prompt as it is (T5, Gemma) or inside a chat template (Qwen, Mistral), of which it may leave
the beginning out of what it gives. So places are counted from the end: the last token of the text is the last of the
CONDITIONING. With SD3's, CLIP's tokens come first, and the words are in both. HiDream's network reads T5's tokens and,
twice, those of Llama.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...core.quoting import quote, quote_all
from ..types import Conditioning
from .prompt import span_positions, text_tokens

CLIP = {"l", "g", "h"}
"""What the host calls the text encoders of UNets with cross-attention."""


@dataclass(frozen=True)
class Encoder:
    """How the words of a CLIP's prompts become the text of a transformer.

    Args:
        family: Whose text encoder it is, as people call it.
        key: What the host calls the encoder whose tokens the words are.
        ends_text: Its last token is the last of the CONDITIONING; otherwise its first is the first of the text that
            the network makes of the CONDITIONING.
        left_out: Tokens at the end of the text that the encoder leaves out of what it gives.
        further: What the host calls another encoder, whose tokens follow twice, and what it gives: the states of all
            layers, `(rows, layers, tokens, width)`.
    """

    family: str
    key: str
    ends_text: bool = True
    left_out: int = 0
    further: tuple[str, str] | None = None


TOKENIZERS = {
    "FluxTokenizer": Encoder("Flux.1", "t5xxl"),
    "Flux2Tokenizer": Encoder("Flux.2", "mistral3_24b"),
    "KleinTokenizer": Encoder("Flux.2 klein", "qwen3_4b"),
    "KleinTokenizer8B": Encoder("Flux.2 klein 9B", "qwen3_8b"),
    "PixArtTokenizer": Encoder("Chroma", "t5xxl"),
    "QwenImageTokenizer": Encoder("Qwen-Image", "qwen25_7b"),
    "Krea2Tokenizer": Encoder("Krea 2", "qwen3vl_4b"),
    "ZImageTokenizer": Encoder("Z-Image", "qwen3_4b"),
    "LuminaTokenizer": Encoder("Lumina 2", "gemma2_2b"),
    "SD3Tokenizer": Encoder("SD3", "t5xxl"),
    "AuraT5Tokenizer": Encoder("AuraFlow", "pile_t5xl"),
    "AnimaTokenizer": Encoder("Anima", "t5xxl", ends_text=False),
    "LongCatImageTokenizer": Encoder("LongCat-Image", "qwen25_7b", left_out=5),  # the end of the chat template
    "HiDreamTokenizer": Encoder("HiDream", "t5xxl", ends_text=False, further=("llama", "conditioning_llama3")),
}
"""What is known, by the class of the host's tokenizer."""

_OTHERS = ("cat", "dogs", "the", "I")


def encoder_of(clip: Any, who: str) -> Encoder | None:
    """The text encoder of a CLIP that says where words are; None where CLIP's own are all there is.

    Raises:
        ValueError: If where words are among its tokens is not known.
    """
    others = set(clip.tokenize("")) - CLIP
    if not others:
        return None
    kinds = [kind.__name__ for kind in type(getattr(clip, "tokenizer", None)).__mro__]
    known = next((TOKENIZERS[kind] for kind in kinds if kind in TOKENIZERS), None)
    if known is not None and known.key in others:
        return known
    families = ", ".join(each.family for each in TOKENIZERS.values())
    raise ValueError(
        f"{who}: where words are among the tokens of the text encoder {quote_all(sorted(others))} is not known to this "
        f"pack. Connect the CLIP of a checkpoint of SD1.5, SDXL, {families}."
    )


def word_places(
    clip: Any, encoder: Encoder, text: str, span: tuple[int, int], label: str, encoded: Conditioning
) -> list[int]:
    """All tokens, on the CONDITIONING's token axis or that of the network's text, of the words at `span`.

    The prompt is tokenized as it is and with other words at the span: the words' tokens are those that any of these
    changes.

    Args:
        clip: ComfyUI's CLIP.
        encoder: From `encoder_of`.
        text: The prompt.
        span: Start and end of the words in `text`.
        label: What messages call the frame.
        encoded: The prompt's CONDITIONING.

    Raises:
        ValueError: If the tokens do not show the words, as where the encoder cut the prompt.
    """
    start, end = span
    shown = text_tokens(clip, text)
    others = [text_tokens(clip, text[:start] + other + text[end:]) for other in _OTHERS]
    places: list[int] = []
    before = 0
    for key, before in _streams(encoder, encoded, {key: length for key, (_, length) in shown.items()}):
        found: set[int] = set()
        for changed in others:
            first, last = _differing(*([token for token, _ in each[key][0]] for each in (shown, changed)))
            found.update(range(first, last))
        stream = range(min(found, default=0), max(found, default=-1) + 1)
        places += [shown[key][0][index][1] + before for index in stream]
    if not places or min(places) < 0:
        words = quote(text[start:end])
        raise ValueError(f"{label}: the text encoder does not show the words {words} of {quote(text)}. Reword them.")
    clip_streams = [name for name in shown if name in CLIP]
    if before > 0 and clip_streams and encoder.further is None:
        places += span_positions(clip, text, span, label, clip_streams)
    return sorted(places)


def _streams(encoder: Encoder, encoded: Conditioning, lengths: dict[str, int]) -> Iterator[tuple[str, int]]:
    """The encoders whose tokens the text consists of, and what to add to a token's number to get its place there.

    Of two encoders, one whose file was not loaded gives nothing but zeros, which say nothing of the words.
    """
    rows, extras = encoded[0]
    tokens = rows.shape[1]
    if encoder.further is None:
        yield encoder.key, tokens + encoder.left_out - lengths[encoder.key] if encoder.ends_text else 0
        return
    if rows.any():
        yield encoder.key, 0
    key, name = encoder.further
    if extras[name].any():
        yield key, tokens
        yield key, tokens + extras[name].shape[2]


def _differing(one: list[int], other: list[int]) -> tuple[int, int]:
    """Where in `one` the first and the last difference are: a slice's bounds."""
    shorter = min(len(one), len(other))
    first = next((index for index in range(shorter) if one[index] != other[index]), shorter)
    behind = next((index for index in range(shorter - first) if one[-1 - index] != other[-1 - index]), shorter - first)
    return first, len(one) - behind
