"""Attention in plain steps, which trains faster on a processor if rows are short.

There the fused kernel's backward pass is slow: a step of the toy world's synchronizer takes 2.3 s with it, and 1.9 s
in plain steps.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.attention import SDPBackend, sdpa_kernel

_SHORT = 1024
"""Cells of a latent up to which rows are short. Plain steps keep whole rows, so longer ones would fill the memory."""


@contextmanager
def plain_attention(device: str, cells: int) -> Iterator[None]:
    """Inside, attention is computed in plain steps where that trains faster.

    Args:
        device: A torch device's type.
        cells: Of a latent, on the finest grid.
    """
    if device == "cpu" and cells <= _SHORT:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    else:
        yield
