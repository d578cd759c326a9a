"""Iterative Identity Discovery (IdentityStory, section 3.1) and the identity file."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .atomic_files import replacing
from .quoting import quote
from .shapes import Float

PACK_VERSION = "0.1.0"
_LONGEST_NAME = 200  # bytes; file systems take 255, with room for a number and the ending
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{digit}" for port in ("COM", "LPT") for digit in range(1, 10))}
_FILE_FORMAT = "story-identity/1"


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
    """Rows entering round 1, 2, ... and, last, the rows left: 64 at 0.6 three times gives [64, 38, 22, 13]."""
    rows = [count]
    for _ in range(iterations):
        rows.append(max(int(rows[-1] * keep_ratio), 1))
    return rows


def largest_usable_rank(count: int, width: int, keep_ratio: int | float = 0.6, iterations: int = 3) -> int:
    """The largest rank at which the errors still tell rows apart; 0 if there is none.

    A rank of the width, or of the number of rows entering the last round, reconstructs every row exactly.
    """
    if iterations == 0:
        return width
    return min(rows_per_round(count, keep_ratio, iterations)[-2], width) - 1


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
        iterations: Rounds. The paper's p; 0 gives the plain mean of all rows.

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
        cohesion_before=_mean_pairwise_cosine(rows),
        cohesion_after=_mean_pairwise_cosine(rows[kept]),
    )


def _check_settings(embeddings: Tensor, rank: int, keep_ratio: int | float, iterations: int) -> None:
    count, width = embeddings.shape
    if count == 0:
        raise ValueError("There are no portraits: discovery needs at least one embedding.")
    for row, values in enumerate(embeddings):
        if not torch.isfinite(values).all():
            raise ValueError(f"The embedding of portrait {row + 1} of {count} has NaN or infinite values.")
        if not values.any():
            raise ValueError(f"The embedding of portrait {row + 1} of {count} is all zero.")
    if not 0 < keep_ratio <= 1:
        raise ValueError(f"keep_ratio is {keep_ratio}; it must be above 0 and at most 1.")
    if iterations < 0:
        raise ValueError(f"iterations is {iterations}; it must be 0 or more.")
    if rank < 1:
        raise ValueError(f"rank is {rank}; it must be 1 or more.")
    largest = largest_usable_rank(count, width, keep_ratio, iterations)
    if iterations and rank > largest:
        usable = f"The largest usable rank is {largest}." if largest else "No rank works with so few."
        raise ValueError(
            f"rank {rank} is too large for {count} portraits of width {width} with keep_ratio {keep_ratio} and "
            f"{iterations} iterations: the last round would reconstruct every row exactly and keep arbitrary ones. "
            f"{usable} Lower the rank, make more portraits, or run fewer iterations."
        )


def _mean_pairwise_cosine(rows: Float[Tensor, "m d"]) -> float:
    count = len(rows)
    if count == 1:
        return 1.0
    unit = torch.nn.functional.normalize(rows, dim=1)
    total = unit.sum(dim=0).square().sum() - unit.square().sum()
    return float(total / (count * (count - 1)))


@dataclass(frozen=True)
class Identity:
    """A character's identity, ready to be saved and used again.

    Args:
        name: The character's name.
        description: The words it was found from; may be empty.
        encoder: Which identity encoder the embedding belongs to, such as `photomaker-v1`.
        embedding: Float32, finite, not all zero.
        metadata: Anything JSON can hold: settings, seeds, notes.
    """

    name: str
    description: str
    encoder: str
    embedding: Float[Tensor, " d"]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("An identity needs a name.")
        if not self.encoder.strip():
            raise ValueError(f'The identity "{self.name}" does not say which encoder it belongs to.')
        if not torch.isfinite(self.embedding).all() or not self.embedding.any():
            raise ValueError(f'The embedding of the identity "{self.name}" is all zero, NaN or infinite.')

    def require_encoder(self, encoder: str) -> None:
        """Raise a ValueError unless this identity belongs to `encoder`."""
        if self.encoder != encoder:
            raise ValueError(
                f'The identity "{self.name}" was made with the encoder "{self.encoder}", but "{encoder}" is in use. '
                "Discover it again with this encoder, or load the encoder it was made with."
            )

    def save(self, path: str | Path) -> Path:
        """Write the identity as safetensors, atomically: the file is there whole or not at all.

        The folder is made if need be. Returns the path written.
        """
        path = Path(path)
        header = {
            "format": _FILE_FORMAT,
            "pack_version": PACK_VERSION,
            "name": self.name,
            "description": self.description,
            "encoder": self.encoder,
            "metadata": self._metadata_json(),
        }
        tensors = {"embedding": self.embedding.detach().to("cpu", torch.float32).contiguous()}
        with replacing(path) as temporary:
            temporary.write_bytes(_with_sorted_header(save(tensors, metadata=header)))
        return path

    def _metadata_json(self) -> str:
        try:
            return json.dumps(dict(self.metadata), ensure_ascii=False, sort_keys=True)
        except TypeError as error:
            raise ValueError(f'The metadata of the identity "{self.name}" is not JSON: {error}.') from error

    @classmethod
    def load(cls, path: str | Path, encoder: str | None = None) -> "Identity":
        """Read an identity file.

        Args:
            path: The file.
            encoder: If given, the encoder the identity must belong to.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not an identity file, is damaged, or belongs to another encoder.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"There is no identity file {path}.")
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        except SafetensorError as error:
            raise ValueError(f"{path.name} is not a safetensors file, or it is damaged: {error}") from error
        if header.get("format") != _FILE_FORMAT or "embedding" not in tensors:
            raise ValueError(
                f"{path.name} is not an identity file: its format is {header.get('format')!r}, "
                f"expected {_FILE_FORMAT!r}."
            )
        embedding = tensors["embedding"]
        if embedding.ndim != 1:
            raise ValueError(f"{path.name}: the embedding has shape {tuple(embedding.shape)}, expected one dimension.")
        try:
            metadata = json.loads(header["metadata"])
            name, description, made_by = (header[key] for key in ("name", "description", "encoder"))
        except (KeyError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{path.name}: the header of the identity file is incomplete or damaged: {error}"
            ) from error
        if not isinstance(metadata, dict):
            raise ValueError(f"{path.name}: the metadata is {metadata!r}, expected a JSON object.")
        identity = cls(name, description, made_by, embedding.to(torch.float32), metadata)
        if encoder is not None:
            identity.require_encoder(encoder)
        return identity


def _with_sorted_header(content: bytes) -> bytes:
    """A safetensors file with the keys of its header in order, so that equal contents are equal bytes.

    The format is the header's length in 8 bytes, the header as JSON padded with blanks, and the numbers.
    """
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def safe_file_name(name: str) -> str:
    """Turn a character's name into a file name that every system takes; raises ValueError if nothing is left."""
    cleaned = re.sub(r"[^\w\- ]", "_", name).strip(" _").encode()[:_LONGEST_NAME].decode(errors="ignore").strip()
    if cleaned.upper() in _RESERVED:
        cleaned = f"{cleaned}_"
    if not cleaned:
        raise ValueError(f"{quote(name)} leaves no usable file name: use at least one letter or digit.")
    return cleaned
