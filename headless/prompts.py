"""Prompts as a text encoder sees them: embeddings, and where a word lands among the tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core.character_mentions import Span
from ..core.photomaker import with_repeated_word
from ..core.quoting import quote
from ..core.shapes import Float
from ..core.story import FRAME, Story


@dataclass(frozen=True)
class Prompt:
    """An encoded prompt, or several, a row each. `pooled` is SDXL's summary; SD1.5 and the toy world have none."""

    embeddings: Float[Tensor, "n t d"]
    pooled: Float[Tensor, "n e"] | None = None

    @classmethod
    def joined(cls, prompts: Sequence["Prompt"]) -> "Prompt":
        """All rows of several prompts of one checkpoint."""
        pooled = [prompt.pooled for prompt in prompts if prompt.pooled is not None]
        return cls(torch.cat([prompt.embeddings for prompt in prompts]), torch.cat(pooled) if pooled else None)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Prompt":
        """The same elsewhere."""
        return Prompt(self.embeddings.to(device, dtype), None if self.pooled is None else self.pooled.to(device, dtype))

    def with_token(self, position: int, token: Float[Tensor, " d"]) -> "Prompt":
        """The prompt with another embedding at one position; this one stays as it is."""
        embeddings = self.embeddings.clone()
        embeddings[0, position] = token.to(embeddings.device, embeddings.dtype)
        return replace(self, embeddings=embeddings)


def encode_prompt(pipe: Any, text: str, label: str) -> Prompt:
    """`encode_prompts` of one."""
    return encode_prompts(pipe, [text], [label])


@torch.no_grad()
def encode_prompts(pipe: Any, texts: Sequence[str], labels: Sequence[str]) -> Prompt:
    """Encode prompts as the checkpoint's own pipeline does, a row each.

    Args:
        pipe: A StableDiffusionPipeline or StableDiffusionXLPipeline.
        texts: The prompts; weights such as `(word:1.2)` are not interpreted, they belong to ComfyUI.
        labels: What messages call each.

    Raises:
        ValueError: If one is longer than the text encoder reads.
    """
    for text, label in zip(texts, labels, strict=True):
        check_length(pipe, text, label)
    encoded = pipe.encode_prompt(
        prompt=list(texts), device=pipe.unet.device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return Prompt(encoded[0], encoded[2] if len(encoded) == 4 else None)


def check_length(pipe: Any, text: str, label: str) -> None:
    """Raise a ValueError for a prompt of which the text encoder would not see the end."""
    for tokenizer in _tokenizers(pipe):
        count = len(tokenizer(text, truncation=False, verbose=False).input_ids)
        if count > tokenizer.model_max_length:
            raise ValueError(
                f"{label}: the prompt has {count} tokens, start and end among them, but the text encoder reads "
                f"{tokenizer.model_max_length}. Shorten it: {quote(text)}"
            )


def check_prompts(pipe: Any, story: Story, prompt: str = FRAME, tokens: int = 1) -> None:
    """Raise a ValueError if a prompt of a story is too long, or a class word is no token of its own.

    Args:
        pipe: A Stable Diffusion or SDXL pipeline.
        story: The story.
        prompt: What the second pass draws a character from, one of `core.story.PROMPTS`.
        tokens: How many tokens an identity has; as often the class word stands in the second pass's prompt.
    """
    for frame in story.frames:
        check_length(pipe, frame.prompt, frame.label)
        check_length(pipe, frame.negative, f"{frame.label}, negative prompt")
        for each in frame.appearances:
            text, class_words = with_repeated_word(*frame.prompt_about(each, prompt), tokens)
            check_length(pipe, text, frame.label)
            for class_word in class_words:
                word_position(pipe, text, class_word, frame.label)


def word_position(pipe: Any, text: str, span: Span, label: str) -> int:
    """The last of `word_positions`."""
    return word_positions(pipe, text, span, label)[-1]


def word_positions(pipe: Any, text: str, span: Span, label: str) -> list[int]:
    """Positions, on the embeddings' token axis, of the tokens of the word at `span`.

    The text up to the end of the word is tokenized by itself; its tokens must be the beginning of the whole prompt's,
    and end in the word's own.

    Raises:
        ValueError: If the tokens do not show the word there.
    """
    positions = set()
    for tokenizer in _tokenizers(pipe):
        whole, before, word = (_content(tokenizer, piece) for piece in (text, text[: span[1]], text[slice(*span)]))
        if whole[: len(before)] != before or before[-len(word) :] != word:
            raise ValueError(
                f"{label}: the tokenizer does not show the word {quote(text[slice(*span)])} as a word of its own in "
                f"{quote(text)}. Write it plainly, not glued to other letters."
            )
        last = len(before)  # the start token stands before the first
        positions.add(tuple(range(last - len(word) + 1, last + 1)))
    if len(positions) != 1:
        word = quote(text[slice(*span)])
        raise ValueError(f"{label}: the text encoders place the word {word} differently: {positions}.")
    return list(positions.pop())


def _tokenizers(pipe: Any) -> list[Any]:
    both = (getattr(pipe, "tokenizer", None), getattr(pipe, "tokenizer_2", None))
    return [tokenizer for tokenizer in both if tokenizer is not None]


def _content(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, truncation=False, add_special_tokens=False, verbose=False).input_ids)
