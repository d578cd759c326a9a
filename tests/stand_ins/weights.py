"""Random weights for networks that are only described by the shapes of their tensors."""

import hashlib
import math

import torch

Shapes = dict[str, tuple[int, ...]]


def linear(name: str, n_in: int, n_out: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (n_out, n_in)} | ({f"{name}.bias": (n_out,)} if bias else {})


def conv(name: str, n_in: int, n_out: int, size: int = 3, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (n_out, n_in, size, size)} | ({f"{name}.bias": (n_out,)} if bias else {})


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def join(*parts: Shapes) -> Shapes:
    """One mapping of all parts; a key in two of them is a mistake."""
    joined: Shapes = {}
    for part in parts:
        if twice := joined.keys() & part.keys():
            raise ValueError(f"described twice: {sorted(twice)}")
        joined |= part
    return joined


def random_weights(shapes: Shapes, seed: int, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
    """Weights that keep the size of what passes through them: 1/sqrt(fan in), norms near one, small biases.

    Each tensor has a generator of its own, seeded by its name, so one more tensor changes no other.
    """
    return {name: _random(name, shape, seed).to(dtype) for name, shape in shapes.items()}


def _random(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")))
    if len(shape) > 1:
        return noise / math.sqrt(math.prod(shape[1:]))
    return 0.02 * noise + (1.0 if name.endswith("weight") else 0.0)
