"""A character's identity and its file. How one is found is in `identity_discovery`, whose names are importable here."""

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
from .identity_discovery import (
    Discovery,
    DiscoveryRound,
    discover_identity,
    largest_usable_rank,
    nearest_portraits,
    rows_per_round,
)
from .quoting import printable, quote
from .shapes import Float, UInt8
from .state_dict import WeightFileError, reading

__all__ = [
    "PACK_VERSION",
    "Discovery",
    "DiscoveryRound",
    "Identity",
    "discover_identity",
    "largest_usable_rank",
    "nearest_portraits",
    "rows_per_round",
    "safe_file_name",
]

PACK_VERSION = "0.2.0"
_LONGEST_NAME = 200  # bytes; file systems take 255, with room for a number and the ending
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{digit}" for port in ("COM", "LPT") for digit in range(1, 10))}
_FILE_FORMAT = "story-identity/1"


@dataclass(frozen=True)
class Identity:
    """A character's identity, ready to be saved and used again.

    Args:
        name: The character's name.
        description: The words it was found from; may be empty.
        encoder: Which identity encoder the embedding belongs to, such as `photomaker-v1`.
        embedding: Float32, finite, not all zero.
        metadata: Anything JSON can hold: settings, seeds, notes.
        portraits: The portraits that represent them, best first, in the 8-bit levels of a picture file; None if the
            identity carries none.
    """

    name: str
    description: str
    encoder: str
    embedding: Float[Tensor, " d"]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    portraits: UInt8[Tensor, "n h w 3"] | None = None

    def __post_init__(self) -> None:
        for what, text in (("name", self.name), ("description", self.description), ("encoder", self.encoder)):
            if (surrogate := _lone_surrogate(text)) is not None:
                raise ValueError(f"The {what} of an identity, {quote(text)}, has {surrogate}. Write it anew.")
        if not self.name.strip():
            raise ValueError("An identity needs a name.")
        if not self.encoder.strip():
            raise ValueError(f"The identity {quote(self.name)} does not say which encoder it belongs to.")
        _check_embedding(self.embedding, f"The embedding of the identity {quote(self.name)}")
        if self.portraits is not None:
            _check_portraits(self.portraits, f"The portraits of the identity {quote(self.name)}")

    def portrait_images(self, count: int | None = None) -> Float[Tensor, "n h w 3"]:
        """The first `count` of the portraits in [0, 1], float32 on the CPU; all of them if it is None.

        Raises:
            ValueError: If the identity carries no portraits, or fewer than `count`.
        """
        if self.portraits is None:
            raise ValueError(
                f"The identity {quote(self.name)} carries no portraits: it was saved without, or by a version of this "
                "pack that kept none. Discover it again, or give pictures of the character."
            )
        if count is not None and count > len(self.portraits):
            raise ValueError(
                f"The identity {quote(self.name)} carries {len(self.portraits)} portraits; {quote(count)} are asked "
                "for. Ask for fewer, or discover it again and keep more."
            )
        return self.portraits[:count].cpu().float() / 255

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
        if self.portraits is not None:
            tensors["portraits"] = self.portraits.cpu().contiguous()
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
        if "portraits" in tensors:
            _check_portraits(tensors["portraits"], f"{name}: the portraits")
        who, description, made_by = (header[key] for key in ("name", "description", "encoder"))
        try:
            identity = cls(who, description, made_by, tensors["embedding"], metadata, tensors.get("portraits"))
        except ValueError as error:
            raise WeightFileError(f"{name}: {error}") from error
        if encoder is not None:
            identity.require_encoder(encoder)
        return replace(identity, embedding=identity.embedding.to(torch.float32))


def identity_metadata(path: Path) -> dict[str, Any] | None:
    """The metadata of an identity file, without reading the rest; None if it is no whole identity file."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except Exception:  # safetensors has an error of its own for each kind of damage
        return None
    if header.get("format") != _FILE_FORMAT:
        return None
    try:
        return _read_metadata(header, printable(str(path)))
    except WeightFileError:
        return None


def _check_embedding(embedding: Tensor, whose: str) -> None:
    """Raise a ValueError unless it is one row of fractions that float32 can hold, not all of them zero."""
    if not embedding.is_floating_point():
        raise WeightFileError(f"{whose} is of {str(embedding.dtype).removeprefix('torch.')}; it must hold fractions.")
    if embedding.ndim != 1:
        raise WeightFileError(f"{whose} has shape {tuple(embedding.shape)}, expected one dimension.")
    values = embedding.to(torch.float32)
    if not torch.isfinite(values).all() or not values.any():
        raise WeightFileError(f"{whose} is all zero, NaN or infinite.")


def _check_portraits(portraits: Tensor, whose: str) -> None:
    """Raise a ValueError unless these are pictures in 8-bit levels, at least one."""
    if portraits.dtype != torch.uint8:
        raise WeightFileError(f"{whose} are of {str(portraits.dtype).removeprefix('torch.')}; they must be of uint8.")
    if portraits.ndim != 4 or portraits.shape[-1] != 3 or not portraits.numel():
        raise WeightFileError(
            f"{whose} have shape {tuple(portraits.shape)}, expected (number, height, width, 3), none of them 0."
        )


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
