"""Seeing and changing the attention layers of a diffusers UNet."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor

from ..core.attention import plain_attention
from ..core.attention_hooks import Hook, Layer, unchanged


@contextmanager
def hooked_attention(unet: Any, self_attention: Hook = unchanged, cross_attention: Hook = unchanged) -> Iterator[None]:
    """Inside, every attention layer of a UNet calls the hooks; afterwards its own processors are back.

    A layer is named by its number (see `layer_names`).

    Gradients pass, LoRA adapters count. With gradient checkpointing the backward pass asks the hooks again: stay
    inside until it is done, and let the hooks give the same answers.

    Raises:
        ValueError: If the UNet has no attention of the kind that SD1.5's and SDXL's have.
    """
    transformers = {name: each for name, each in unet.named_modules() if isinstance(each, Transformer2DModel)}
    if not transformers:
        raise ValueError(f"{type(unet).__name__} has no attention layers as those of SD1.5 and SDXL.")
    numbers = {name: number for number, name in enumerate(layer_names(unet))}
    with ExitStack() as stack:
        for name, transformer in transformers.items():
            grid = _Grid()
            stack.callback(transformer.register_forward_pre_hook(grid.note).remove)
            for inner, attention in transformer.named_modules():
                if isinstance(attention, Attention):
                    number = numbers[f"{name}.{inner}"]
                    stack.callback(attention.set_processor, attention.processor)
                    hook = cross_attention if number % 2 else self_attention
                    attention.set_processor(_HookedProcessor(number, grid, hook))  # pyright: ignore[reportArgumentType]
        yield


def layer_names(unet: Any) -> list[str]:
    """The attention modules of a UNet by number, counted from 0 in diffusers' order (down, up, middle).

    Self-attention has even numbers, cross-attention odd ones, as in IP-Adapter files.
    """
    return [name.removesuffix(".processor") for name in unet.attn_processors]


class _Grid:
    """Notes the grid on which a transformer is called; its attention layers receive only numbers of tokens."""

    size: tuple[int, int]

    def note(self, module: Any, arguments: tuple[Tensor, ...]) -> None:
        height, width = arguments[0].shape[-2:]
        self.size = (height, width)


class _HookedProcessor:
    """An attention processor, diffusers' form of it."""

    def __init__(self, number: int, grid: _Grid, hook: Hook) -> None:
        self.number, self.grid, self.hook = number, grid, hook

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        if attention_mask is not None:
            raise ValueError("Attention masks are not supported here; encode prompts without one.")
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text)
        out = self.hook(q, k, v, attn.heads, Layer(self.number, self.grid.size), plain_attention)
        for module in attn.to_out:
            out = module(out)
        return out
