"""Which reference picture each frame sees: the Shuffling Reference Strategy (Storynizor, section 3.2, eq. 10 to 12)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .quoting import quote
from .shapes import Float, Int

MODES = ("shuffled", "aligned", "average", "stacked")
"""How references are assigned, see `deal_references`."""


def derangement(n: int, generator: torch.Generator) -> Int[Tensor, " n"]:
    """A permutation without fixed points, each as likely as any other: in training, no picture is its own reference.

    Permutations are drawn until one has no fixed point, which takes about e = 2.7 draws whatever n is.

    Args:
        n: How many pictures there are of one character, 2 or more.
        generator: On the CPU.

    Raises:
        ValueError: If n is less than 2.
    """
    if n < 2:
        raise ValueError(
            f"{n} pictures cannot refer to each other: every picture needs another one of the same character as its "
            "reference. Give the character at least 2 pictures."
        )
    own = torch.arange(n)
    while True:
        drawn = torch.randperm(n, generator=generator)
        if not (drawn == own).any():
            return drawn


def deal_references(n_references: int, n_frames: int, mode: str, generator: torch.Generator) -> list[tuple[int, ...]]:
    """The references of one character that each frame is given.

    Args:
        n_references: How many there are, 1 or more.
        n_frames: How many frames; 0 gives an empty list.
        mode: `shuffled` (one each in random order; all are used before one is used again, and neighbouring frames
            differ where there are 2 or more), `aligned` (frame f gets reference f, counted around), `average` and
            `stacked` (all of them in every frame; `deal_tokens` makes one out of them or puts them side by side).
        generator: On the CPU; only `shuffled` draws from it.

    Returns:
        Per frame, positions in the list of references: a single one for `shuffled` and `aligned`.

    Raises:
        ValueError: If there are no references, or the mode or the number of frames makes no sense.
    """
    _check_mode(mode)
    if n_references < 1:
        raise ValueError("There are no references to deal; give the character at least 1 picture.")
    if n_frames < 0:
        raise ValueError(f"There are {n_frames} frames; expected 0 or more.")
    if mode == "shuffled":
        return [(index,) for index in _shuffled(n_references, n_frames, generator)]
    if mode == "aligned":
        return [(frame % n_references,) for frame in range(n_frames)]
    return [tuple(range(n_references))] * n_frames


def deal_tokens(tokens: Float[Tensor, "r k c"], assigned: Sequence[Sequence[int]], mode: str) -> Float[Tensor, "n _ c"]:
    """Each frame's identity tokens, from those of all references and what `deal_references` returned.

    `average` takes the mean of the *projected* tokens. They correspond from picture to picture (token i is the answer
    to the same question about each), where CLIP's patches do not, and the mean of unit-length face embeddings is none.
    Storynizor says neither; its table 5 has only `stacked`, with which poses came out stiff.

    Args:
        tokens: From the adapter's image side, k per reference.
        assigned: Per frame, positions in `tokens`, as many in each; 1 frame or more.
        mode: As in `deal_references`.

    Returns:
        k tokens per frame; where a frame has several references that are not averaged, k for each of them.
    """
    _check_mode(mode)
    chosen = tokens[torch.tensor(assigned, dtype=torch.long, device=tokens.device)]
    return chosen.mean(dim=1) if mode == "average" else chosen.flatten(1, 2)


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise ValueError(
            f"There is no mode {quote(mode)}; references are assigned {', '.join(MODES[:-1])} or {MODES[-1]}."
        )


def _shuffled(n_references: int, n_frames: int, generator: torch.Generator) -> list[int]:
    order: list[int] = []
    while len(order) < n_frames:
        hand = torch.randperm(n_references, generator=generator).tolist()
        if n_references == 1 or not order or hand[0] != order[-1]:
            order += hand
    return order[:n_frames]
