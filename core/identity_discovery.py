"""Iterative Identity Discovery (IdentityStory, section 3.1), and which portraits represent what it found."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .quoting import quote
from .scores.cosines import mean_pairwise_cosine
from .shapes import Float

_MOST_ROWS = 1_000_000
_MOST_ITERATIONS = 1000


@dataclass(frozen=True)
class DiscoveryRound:
    """One round of the filter.

    `kept` are positions in the input of the rows that survive, `errors` the reconstruction error of every row that
    entered the round (same order), `energy` the share of the squared singular values in the leading directions.
    """

    kept: list[int]
    errors: list[float]
    energy: float


@dataclass(frozen=True)
class Discovery:
    """What the filter found: the mean of the kept rows, and how it came about.

    Cohesion is the mean pairwise cosine of all rows (before) and of the kept rows (after); 1.0 for a single row.
    """

    embedding: Float[Tensor, " d"]
    kept: list[int]
    rounds: list[DiscoveryRound]
    rank: int
    cohesion_before: float
    cohesion_after: float


def rows_per_round(count: int, keep_ratio: int | float, iterations: int) -> list[int]:
    """Rows entering round 1, 2, ... and, last, the rows left: 64 at 0.6 three times gives [64, 38, 22, 13].

    Raises:
        ValueError: If there are over a million rows or a thousand rounds, or the ratio is not in (0, 1].
    """
    if not 0 < keep_ratio <= 1:
        raise ValueError(f"keep_ratio is {quote(keep_ratio)}; it must be above 0 and at most 1.")
    if not 0 <= iterations <= _MOST_ITERATIONS:
        raise ValueError(f"iterations is {quote(iterations)}; there can be 0 to {_MOST_ITERATIONS} rounds.")
    if not 0 <= count <= _MOST_ROWS:
        raise ValueError(f"There are {quote(count)} portraits; there can be up to {_MOST_ROWS:,}.")
    rows = [count]
    for _ in range(iterations):
        rows.append(max(int(rows[-1] * keep_ratio), 1))
    return rows


def largest_usable_rank(count: int, width: int, keep_ratio: int | float = 0.6, iterations: int = 3) -> int:
    """The largest rank at which the errors still tell rows apart; 0 if there is none.

    A rank of the width, or of the number of rows entering the last round, reconstructs every row exactly.

    Raises:
        ValueError: As `rows_per_round` does.
    """
    rows = rows_per_round(count, keep_ratio, iterations)
    return min(rows[-2], width) - 1 if iterations else width


def discover_identity(
    embeddings: Float[Tensor, "m d"], rank: int = 10, keep_ratio: int | float = 0.6, iterations: int = 3
) -> Discovery:
    """Find the identity most portraits agree on (IdentityStory, equations 1 and 2).

    Each round takes the thin SVD of the uncentred rows, projects every row on the leading `rank` right singular
    vectors and keeps the `int(rows * keep_ratio)` rows that lose least. The identity is the mean of the rows left.
    The paper's equation 2 indexes columns, which cannot give one error per portrait; the error here is the row form,
    the mean over d of the squared residual.

    Args:
        embeddings: One row per portrait, any float dtype; the computation is float32 on the device of the input.
        rank: Directions kept, 1 to `largest_usable_rank(m, d, keep_ratio, iterations)`. The paper's k.
        keep_ratio: Share of rows kept per round, in (0, 1]. The paper's r.
        iterations: Rounds, up to 1000. The paper's p; 0 gives the plain mean of all rows.

    Returns:
        The discovery; its embedding is float32 on the device of the input.

    Raises:
        ValueError: If a setting is out of range, a row is zero or not finite, or the rank is too large; the message
            names the row or the largest usable rank.
    """
    _check_settings(embeddings, rank, keep_ratio, iterations)
    rows = embeddings.detach().to(torch.float32)
    kept = torch.arange(len(rows), device=rows.device)
    rounds = []
    for _ in range(iterations):
        if rounds and len(rounds[-1].kept) == len(rounds[-1].errors):
            rounds.append(rounds[-1])  # nothing was left out, so the next round is the same again
            continue
        current = rows[kept]
        _, singular_values, directions = torch.linalg.svd(current, full_matrices=False)
        leading = directions[:rank]
        errors = (current - current @ leading.T @ leading).square().mean(dim=1)
        count = max(int(len(current) * keep_ratio), 1)
        kept = kept[errors.argsort(stable=True)[:count].sort().values]
        energy = singular_values.square()
        rounds.append(DiscoveryRound(kept.tolist(), errors.tolist(), float(energy[:rank].sum() / energy.sum())))
    return Discovery(
        embedding=rows[kept].mean(dim=0),
        kept=kept.tolist(),
        rounds=rounds,
        rank=rank,
        cohesion_before=_cohesion(rows),
        cohesion_after=_cohesion(rows[kept]),
    )


def identity_movement(
    embeddings: Float[Tensor, "m d"], last: int, rank: int = 10, keep_ratio: int | float = 0.6, iterations: int = 3
) -> float:
    """How far the last portraits moved the identity: 1 minus the cosine of what is found without and with them.

    With few portraits the rank of either discovery is the largest usable one, if that is below `rank`. Infinite where
    there is no identity yet without the last portraits. Drawing more portraits changes little once this is small.

    Args:
        embeddings: One row per portrait, in the order in which they were drawn.
        last: How many came last, 1 or more.
        rank: As for `discover_identity`, like the two after it.
        keep_ratio: Share of rows kept per round.
        iterations: Rounds.
    """
    found = []
    for rows in (embeddings[: len(embeddings) - last], embeddings):
        count, width = rows.shape
        usable = largest_usable_rank(count, width, keep_ratio, iterations) if count else 0
        if usable < 1:
            return math.inf
        found.append(discover_identity(rows, min(rank, usable), keep_ratio, iterations).embedding.double())
    return 1 - float(torch.nn.functional.cosine_similarity(*found, dim=0))


def _check_settings(embeddings: Tensor, rank: int, keep_ratio: int | float, iterations: int) -> None:
    count, width = embeddings.shape
    if count == 0:
        raise ValueError("There are no portraits: discovery needs at least one embedding.")
    for row, values in enumerate(embeddings.detach().to(torch.float32)):
        if not torch.isfinite(values).all():
            raise ValueError(f"The embedding of portrait {row + 1} of {count} has NaN or infinite values.")
        if not values.any():
            raise ValueError(f"The embedding of portrait {row + 1} of {count} is all zero.")
    largest = largest_usable_rank(count, width, keep_ratio, iterations)
    if rank < 1:
        raise ValueError(f"rank is {quote(rank)}; it must be 1 or more.")
    if iterations and rank > largest:
        usable = f"The largest usable rank is {largest}." if largest else "No rank works with so few."
        raise ValueError(
            f"rank {quote(rank)} is too large for {count} portraits of width {width} with keep_ratio {keep_ratio} and "
            f"{iterations} iterations: the last round would reconstruct every row exactly and keep arbitrary ones. "
            f"{usable} Lower the rank, make more portraits, or run fewer iterations."
        )


def _cohesion(rows: Float[Tensor, "m d"]) -> float:
    """The mean cosine of every two rows; 1 for a single one."""
    cosine = mean_pairwise_cosine(rows)
    return 1.0 if cosine is None else cosine


def nearest_portraits(
    embeddings: Float[Tensor, "m d"], identity: Float[Tensor, " d"], count: int
) -> tuple[list[int], list[float]]:
    """The portraits most like an identity, best first, by the cosine of their embeddings with the identity's.

    Equal cosines stay in the order of the rows. Computed in double precision on the CPU.

    Args:
        embeddings: One row per portrait.
        identity: What `discover_identity` found, or the embedding of a saved identity of the same encoder.
        count: How many, 1 or more; where there are fewer rows, all of them.

    Returns:
        The rows, and their cosines in [-1, 1].

    Raises:
        ValueError: If `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"There are to be {quote(count)} representative portraits; it must be 1 or more.")
    unit = torch.nn.functional.normalize(embeddings.detach().cpu().double(), dim=1)
    cosines = unit @ torch.nn.functional.normalize(identity.detach().cpu().double(), dim=0)
    order = cosines.argsort(descending=True, stable=True)[:count]
    return order.tolist(), cosines[order].tolist()


def describe_discovery(
    name: str, found: Discovery, asked: int, rows: list[int], count: int, nearest: list[int], cosines: list[float]
) -> str:
    """A report of a discovery in lines of text; portraits are numbered from 1.

    Args:
        name: The character's name.
        found: How the identity came about, in positions among `rows`.
        asked: The rank that was asked for.
        rows: Which of the portraits have an embedding.
        count: How many portraits there were.
        nearest: What `nearest_portraits` gave, positions among `rows`.
        cosines: The cosines of those.
    """
    entered = [len(rows), *(len(each.kept) for each in found.rounds)]
    best = (f"{rows[row] + 1} ({cosine:.4f})" for row, cosine in zip(nearest, cosines, strict=True))
    lines = [
        f"{name}: {' → '.join(map(str, entered))} portraits, rank {found.rank}"
        + (f" (asked: {asked})" if found.rank != asked else ""),
        f"mean pairwise cosine: {found.cohesion_before:.4f} before, {found.cohesion_after:.4f} after",
        f"nearest to the identity, with their cosine: {', '.join(best)}",
    ]
    if len(rows) < count:
        without = sorted(set(range(count)) - set(rows))
        lines.append(f"no face was found in: {', '.join(str(row + 1) for row in without)}")
    lines += [
        f"round {number}: {each.energy:.2%} of the energy in the rank; kept "
        + ", ".join(str(rows[row] + 1) for row in each.kept)
        for number, each in enumerate(found.rounds, 1)
    ]
    if len(found.kept) < 3:
        lines.append(f"only {len(found.kept)} left: hardly an agreement; draw more portraits")
    return "\n".join(lines)
