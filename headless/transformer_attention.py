"""Seeing and changing the attention layers of a diffusers FluxTransformer2DModel."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor

from ..core.attention import plain_attention
from ..core.attention_hooks import Hook, Layer, unchanged
from ..core.map_reader import MapReader


@contextmanager
def hooked_transformer(
    transformer: Any,
    grid: tuple[int, int],
    text: int,
    reader: MapReader | None = None,
    joint_attention: Hook = unchanged,
) -> Iterator[None]:
    """Inside, every block's attention is read and calls the hook; afterwards the blocks' own processors are back.

    Text, picture and reference pictures are one sequence, in this order. Queries and keys already have their positions.
    Blocks are counted from 0, those with weights of their own for text first.

    Args:
        transformer: The network.
        grid: The picture's height and width in tokens.
        text: Tokens of the text.
        reader: What looks at the attention of the picture to the text.
        joint_attention: What the attention is.
    """
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    with ExitStack() as stack:
        for number, block in enumerate(blocks):
            stack.callback(block.attn.set_processor, block.attn.processor)
            block.attn.set_processor(_HookedProcessor(number, grid, text, reader, joint_attention))
        yield


@dataclass(frozen=True)
class _HookedProcessor:
    """An attention processor, diffusers' form of it."""

    number: int
    grid: tuple[int, int]
    text: int
    reader: MapReader | None
    hook: Hook

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> Any:
        if attention_mask is not None:
            raise ValueError("Attention masks are not supported here; encode prompts without one.")
        q, k, v = _of_heads(attn, [attn.to_q, attn.to_k, attn.to_v], hidden_states, attn.norm_q, attn.norm_k)
        if encoder_hidden_states is not None:
            layers = [attn.add_q_proj, attn.add_k_proj, attn.add_v_proj]
            of_text = _of_heads(attn, layers, encoder_hidden_states, attn.norm_added_q, attn.norm_added_k)
            q, k, v = (torch.cat(both, dim=1) for both in zip(of_text, (q, k, v), strict=True))
        turn: Any = partial(apply_rotary_emb, freqs_cis=image_rotary_emb, sequence_dim=1)
        q, k = turn(q), turn(k)
        heads = q.shape[2]
        out = self._attend(q.flatten(2), k.flatten(2), v.flatten(2), heads)
        if encoder_hidden_states is None:
            return out
        picture = out[:, self.text :]
        for module in attn.to_out:
            picture = module(picture)
        return picture, attn.to_add_out(out[:, : self.text])

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        behind = q.shape[1] - self.text - self.grid[0] * self.grid[1]
        layer = Layer(self.number, self.grid, self.text, behind, self.number)
        if self.reader is not None:
            self.reader.look(q[:, layer.picture], k[:, : self.text], heads, self.grid, self.text)
        return self.hook(q, k, v, heads, layer, plain_attention)


def _of_heads(
    attn: Any, layers: Sequence[Any], states: Tensor, norm_q: Any, norm_k: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of tokens, `(rows, tokens, heads, width)`, queries and keys at unit scale."""
    q, k, v = (layer(states).unflatten(-1, (-1, attn.head_dim)) for layer in layers)
    return norm_q(q), norm_k(k), v
