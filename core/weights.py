"""The weight files of the workflows: which they are, where they belong, whether they are sound.

How to fetch one is in weights_download.py. The file also runs as a script (`python core/weights.py list`, see
weights_cli.py) with any Python from 3.10 on and under any folder name, so it imports the standard library only, and
files of this folder that do the same.
"""

import hashlib
import importlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any
from urllib.parse import urlsplit

if __package__:
    from .quoting import printable, quote, quote_all
    from .weights_format import FormatError, check_format, describe_stand_in, is_known
else:
    from quoting import printable, quote, quote_all
    from weights_format import FormatError, check_format, describe_stand_in, is_known

MANIFEST = Path(__file__).absolute().parents[1] / "models.json"
HASH_SOURCES = ("publisher", "mirrors", "SwarmUI")
CHUNK_BYTES = 2**20


class WeightError(ValueError):
    """A file is not the one the manifest describes."""


@dataclass(frozen=True)
class WeightFile:
    """One entry of models.json.

    `folder` is relative to ComfyUI's models folder. `size` is in bytes and exact; a size known only roughly is text in
    `size_about`. `min_size` is a bound in bytes that every version of the file exceeds, for files with neither hash nor
    exact size. `sha256_source` tells who published the hash: the file's publisher, or third parties who copied it.
    """

    id: str
    name: str
    folder: str
    url: str
    size: int | None
    size_about: str | None
    min_size: int | None
    sha256: str | None
    sha256_source: str | None
    licence: str
    licence_note: str | None
    non_commercial: bool
    used_by: tuple[str, ...]

    @property
    def size_text(self) -> str:
        if self.size is None:
            return self.size_about or "size unknown"
        return f"{self.size / 1e9:.2f} GB" if self.size >= 1e9 else f"{self.size / 1e6:.0f} MB"

    def describe_missing(self, folder_path: str | Path) -> str:
        """One sentence for a user who lacks this file; `folder_path` is the host's folder for this kind of file."""
        folder = Path(folder_path)
        depth = len(self.folder.split("/"))
        words = [sys.executable or "python", str(Path(__file__).absolute()), "download", self.id]
        if folder.parts[-depth:] == tuple(self.folder.split("/")):
            words += ["--models-dir", str(folder.parents[depth - 1])]
        words += ["--accept-licence"] if self.non_commercial else []
        command = " ".join(f'"{word}"' if " " in word else word for word in words)
        use = ", not for commercial use" if self.non_commercial else ""
        place = f"{printable(str(folder))} (ComfyUI/models/{self.folder})"
        return (
            f"{self.name} is missing from {place}: get it from {self.url} ({self.size_text}, licence: "
            f"{self.licence}{use}) and save it there as {self.name}, or run: {printable(command)}"
        )


def load_manifest(path: str | Path = MANIFEST) -> dict[str, WeightFile]:
    """Read the manifest, keyed by id.

    Raises:
        ValueError: If it is malformed; the text names the file, the entry and the field.
    """
    try:
        manifest = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {printable(str(error))}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), list):
        raise ValueError(f'{path}: expected an object with a list "files"')
    weights: dict[str, WeightFile] = {}
    for index, entry in enumerate(manifest["files"]):
        where = f"{path}: files[{index}]"
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: expected an object, found {quote(entry)}")
        if problem := next(_problems(entry), None):
            raise ValueError(f"{where} ({quote(entry.get('id'))}): {problem}")
        weight = WeightFile(**{**entry, "used_by": tuple(entry["used_by"])})
        for other in weights.values():
            if weight.id == other.id or (weight.folder, weight.name) == (other.folder, other.name):
                raise ValueError(f"{where} ({quote(weight.id)}): same id or same folder and name as {other.id}")
        weights[weight.id] = weight
    return weights


def _problems(entry: Mapping[str, Any]) -> Iterator[str]:
    expected = {field.name for field in fields(WeightFile)}
    if missing := expected - set(entry):
        yield f"missing fields: {quote_all(sorted(missing))}"
    if unknown := set(entry) - expected:
        yield f"unknown fields: {quote_all(sorted(unknown))}"
    optional = {"size": int, "size_about": str, "min_size": int, "sha256": str, "sha256_source": str}
    optional |= {"licence_note": str}
    required = {"id": str, "name": str, "folder": str, "url": str, "licence": str, "non_commercial": bool}
    allowed = {field: (kind, NoneType) for field, kind in optional.items()}
    allowed |= {field: (kind,) for field, kind in required.items()} | {"used_by": (list,)}
    for field, kinds in allowed.items():
        if type(entry[field]) not in kinds or entry[field] == "":
            yield f"{field} must be {' or '.join(kind.__name__ for kind in kinds)}, not {quote(entry[field])}"
    plain = r"[A-Za-z0-9][A-Za-z0-9._-]*"
    for field, pattern in {"id": plain, "name": plain, "folder": rf"{plain}(/{plain})*"}.items():
        if not re.fullmatch(pattern, entry[field]):
            yield f"{field} must be plain letters, digits, dots, dashes and underscores, not {quote(entry[field])}"
    if not is_safe(entry["url"]):
        yield f"url must be https, not {quote(entry['url'])}"
    if not entry["used_by"] or not all(isinstance(user, str) and user for user in entry["used_by"]):
        yield f"used_by must be a list of workflows or features, not {quote(entry['used_by'])}"
    yield from _problems_of_checks(entry)


def _problems_of_checks(entry: Mapping[str, Any]) -> Iterator[str]:
    for field in ("size", "min_size"):
        if entry[field] is not None and entry[field] <= 0:
            yield f"{field} must be positive, not {quote(entry[field])}"
    if entry["sha256"] is not None and not re.fullmatch("[0-9a-f]{64}", entry["sha256"]):
        yield f"sha256 must be 64 lower-case hex digits, not {quote(entry['sha256'])}"
    if entry["sha256_source"] not in (HASH_SOURCES if entry["sha256"] else (None,)):
        yield f"sha256_source must be one of {HASH_SOURCES} beside a hash and null without one"
    if entry["sha256"] is None and not is_known(entry["name"]):
        yield f"sha256 must be there, since the format of {quote(entry['name'])} is none that can be checked"
    if entry["sha256"] is None and entry["size"] is None and entry["min_size"] is None:
        yield "without sha256 and size, min_size must be there"


def by_name(folder: str, name: str, path: str | Path = MANIFEST) -> WeightFile | None:
    """The entry for what a dropdown of `folder` shows as `name`, subfolder or not; None for files of the user's own."""
    file_name = name.replace("\\", "/").rsplit("/", 1)[-1]
    wanted = (folder, file_name)
    return next((weight for weight in load_manifest(path).values() if (weight.folder, weight.name) == wanted), None)


def find(weight: WeightFile, folders: Sequence[str | Path]) -> Path | None:
    """The file in the host's folders for its kind, in their order, or else in a folder just below one of them."""
    for folder in map(Path, folders):
        below = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        for candidate in (path / weight.name for path in (folder, *below)):
            if os.path.isfile(candidate):  # unlike Path.is_file, False for what may not be read (lost+found)
                return candidate
    return None


def verify(weight: WeightFile, path: str | Path) -> tuple[str, ...]:
    """Compare a file with what the manifest knows of it.

    Returns:
        What was compared, all of it right: some of "size", "least size", "sha256", and "format" where there is no hash.

    Raises:
        WeightError: If one differs.
        OSError: If the file cannot be read.
    """
    shown = printable(str(path))
    found = Path(path).stat().st_size
    checked: list[str] = []
    if weight.size is not None:
        if found != weight.size:
            raise WeightError(f"{shown}: size differs: expected {weight.size} bytes, found {found}{_stand_in(path)}")
        checked.append("size")
    if weight.min_size is not None:
        if found < weight.min_size:
            expected = f"expected at least {weight.min_size} bytes"
            raise WeightError(f"{shown}: too small: {expected}, found {found}{_stand_in(path)}")
        checked.append("least size")
    if weight.sha256 is not None:
        digest = _sha256(path)
        if digest != weight.sha256:
            source = "" if weight.sha256_source == "publisher" else f" (a third-party hash: {weight.sha256_source})"
            expected = f"expected {weight.sha256}{source}"
            raise WeightError(f"{shown}: sha256 differs: {expected}, found {digest}{_stand_in(path)}")
        return (*checked, "sha256")
    try:
        check_format(path, weight.name)
    except FormatError as error:
        raise WeightError(f"{shown} is not the content of {weight.name}: {error}") from error
    return (*checked, "format")


def _sha256(path: str | Path) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _stand_in(path: str | Path) -> str:
    stand_in = describe_stand_in(path)
    return f": it is {stand_in}" if stand_in else ""


def is_safe(url: str) -> bool:
    """Whether an address is https, or http on this machine (a mirror through a tunnel, a test)."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and is_local(url)))


def is_local(url: str) -> bool:
    """Whether an address is of this machine."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


if __name__ == "__main__":
    cli = importlib.import_module(f"{__package__}.weights_cli" if __package__ else "weights_cli")
    sys.exit(cli.main())
