"""Iterative Identity Discovery (IdentityStory, section 3.1) and the identity file."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from .atomic_files import atomic_write
from .quoting import printable, quote
from .scores.cosines import mean_pairwise_cosine
from .shapes import Float
from .state_dict import WeightFileError, reading

PACK_VERSION = "0.2.0"
_LONGEST_NAME = 200  # bytes; file systems take 255, with room for a number and the ending
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{digit}" for port in ("COM", "LPT") for digit in range(1, 10))}
_FILE_FORMAT = "story-identity/1"
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
        for what, text in (("name", self.name), ("description", self.description), ("encoder", self.encoder)):
            if (surrogate := _lone_surrogate(text)) is not None:
                raise ValueError(f"The {what} of an identity, {quote(text)}, has {surrogate}. Write it anew.")
        if not self.name.strip():
            raise ValueError("An identity needs a name.")
        if not self.encoder.strip():
            raise ValueError(f"The identity {quote(self.name)} does not say which encoder it belongs to.")
        _check_embedding(self.embedding, f"The embedding of the identity {quote(self.name)}")

    def require_encoder(self, encoder: str) -> None:
        """Raise a ValueError unless this identity belongs to `encoder`."""
        if self.encoder != encoder:
            raise ValueError(
                f"The identity {quote(self.name)} was made with the encoder {quote(self.encoder)}, but "
                f"{quote(encoder)} is in use. Discover it again with this encoder, or load the encoder it was made "
                "with."
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
        with atomic_write(path) as temporary:
            temporary.write_bytes(_with_sorted_header(save(tensors, metadata=header)))
        return path

    def _metadata_json(self) -> str:
        whose = f"The metadata of the identity {quote(self.name)}"
        try:
            text = json.dumps(dict(self.metadata), ensure_ascii=False, sort_keys=True)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{whose} is not JSON: {printable(str(error), 200)}.") from error
        if (surrogate := _lone_surrogate(text)) is not None:
            raise ValueError(f"{whose} has {surrogate}.")
        return text

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
        name = printable(str(path))
        if not path.exists():
            raise FileNotFoundError(f"There is no identity file {name}.")
        with reading(path, "an identity that this pack saved", ending=".safetensors"):
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        if header.get("format") != _FILE_FORMAT or "embedding" not in tensors:
            lacking = "" if "embedding" in tensors else " and has no embedding"
            raise WeightFileError(
                f"{name} is not an identity file: its format is {quote(header.get('format'))}{lacking}, expected "
                f"{quote(_FILE_FORMAT)} with an embedding."
            )
        metadata = _read_metadata(header, name)
        _check_embedding(tensors["embedding"], f"{name}: the embedding")
        try:
            identity = cls(header["name"], header["description"], header["encoder"], tensors["embedding"], metadata)
        except ValueError as error:
            raise WeightFileError(f"{name}: {error}") from error
        if encoder is not None:
            identity.require_encoder(encoder)
        return replace(identity, embedding=identity.embedding.to(torch.float32))


def _check_embedding(embedding: Tensor, whose: str) -> None:
    """Raise a ValueError unless it is one row of fractions that float32 can hold, not all of them zero."""
    if not embedding.is_floating_point():
        raise WeightFileError(f"{whose} is of {str(embedding.dtype).removeprefix('torch.')}; it must hold fractions.")
    if embedding.ndim != 1:
        raise WeightFileError(f"{whose} has shape {tuple(embedding.shape)}, expected one dimension.")
    values = embedding.to(torch.float32)
    if not torch.isfinite(values).all() or not values.any():
        raise WeightFileError(f"{whose} is all zero, NaN or infinite.")


def _read_metadata(header: Mapping[str, str], name: str) -> dict[str, Any]:
    """The metadata in a file's header, of which all fields must be there.

    Raises:
        ValueError: If one is missing, or the metadata is no JSON object of text that can be written again.
    """
    missing = [key for key in ("name", "description", "encoder", "metadata") if key not in header]
    if missing:
        raise WeightFileError(f"{name}: the header of the identity file is incomplete or damaged: no {missing[0]}.")
    try:
        metadata = json.loads(header["metadata"])
        written = json.dumps(metadata, ensure_ascii=False)
    except (ValueError, RecursionError) as error:
        raise WeightFileError(
            f"{name}: the header of the identity file is incomplete or damaged: its metadata is not JSON "
            f"({printable(str(error), 200)})."
        ) from error
    if (surrogate := _lone_surrogate(written)) is not None:
        raise WeightFileError(f"{name}: the metadata of the identity file has {surrogate}.")
    if not isinstance(metadata, dict):
        raise WeightFileError(f"{name}: the metadata is {quote(metadata)}, expected a JSON object.")
    return metadata


def _with_sorted_header(content: bytes) -> bytes:
    """A safetensors file with the keys of its header in order, so that equal contents are equal bytes.

    The format is the header's length in 8 bytes, the header as JSON padded with blanks, and the numbers.
    """
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def safe_file_name(name: str) -> str:
    """A file name that every system takes, from a character's name: letters, digits, blanks, - and _ of it.

    A name of other signs, such as an emoji, gives the numbers of its characters: U+1F98A. No other name gives these,
    and two such names never give the same.

    Raises:
        ValueError: If the name is empty or of nothing but ASCII punctuation, or has half of a surrogate pair, which no
            file name can hold.
    """
    if (surrogate := _lone_surrogate(name)) is not None:
        raise ValueError(f"{quote(name)} cannot be a file name: it has {surrogate}.")
    cleaned = re.sub(r"[^\w\- ]", "_", name).strip(" _").encode()[:_LONGEST_NAME].decode(errors="ignore").strip()
    if cleaned.upper() in _RESERVED:
        cleaned = f"{cleaned}_"
    return cleaned or _numbers_of(name)


def _numbers_of(name: str) -> str:
    """The code points of a name, or, where that grows too long, a hash of them."""
    if not any(character > "\x7f" and character.isprintable() for character in name):
        raise ValueError(f"{quote(name)} leaves no usable file name: use at least one letter or digit.")
    numbers = "U+" + "+".join(f"{ord(character):04X}" for character in name.strip())
    return numbers if len(numbers) <= _LONGEST_NAME else f"U+sha256+{hashlib.sha256(name.strip().encode()).hexdigest()}"


def _lone_surrogate(text: str) -> str | None:
    """What to say of half a surrogate pair in a text; None if there is none."""
    found = re.search("[\ud800-\udfff]", text)
    return None if found is None else f"half of a surrogate pair (U+{ord(found[0]):04X}), which is no character"
