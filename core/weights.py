"""The weight files of the workflows: which they are, where they belong, whether they are sound, how to fetch one.

Nothing is ever fetched unless `download` is called. The file also runs as a script (`python core/weights.py list`, see
weights_cli.py) with any Python from 3.10 on and under any folder name, so it imports the standard library only.
"""

import contextlib
import hashlib
import http.client
import importlib
import json
import os
import re
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any
from urllib.parse import urlsplit

MANIFEST = Path(__file__).absolute().parents[1] / "models.json"
HASH_SOURCES = ("publisher", "mirrors", "SwarmUI")
TIMEOUT_S = 30.0
SPARE_BYTES = 256 * 2**20
CHUNK_BYTES = 2**20


class WeightError(ValueError):
    """A file is not the one the manifest describes."""


class DownloadError(RuntimeError):
    """A file could not be fetched; the text says why and what to do."""


@dataclass(frozen=True)
class WeightFile:
    """One entry of models.json.

    `folder` is relative to ComfyUI's models folder. `size` is in bytes and exact; a size known only roughly is text in
    `size_about`. `sha256_source` tells who published the hash: the file's publisher, or third parties who copied it.
    """

    id: str
    name: str
    folder: str
    url: str
    size: int | None
    size_about: str | None
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
        return (
            f"{self.name} is missing from {folder} (ComfyUI/models/{self.folder}): get it from {self.url} "
            f"({self.size_text}, licence: {self.licence}{use}) and save it there as {self.name}, or run: {command}"
        )


def load_manifest(path: str | Path = MANIFEST) -> dict[str, WeightFile]:
    """Read the manifest, keyed by id.

    Raises:
        ValueError: If it is malformed; the text names the file, the entry and the field.
    """
    try:
        manifest = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), list):
        raise ValueError(f'{path}: expected an object with a list "files"')
    weights: dict[str, WeightFile] = {}
    for index, entry in enumerate(manifest["files"]):
        where = f"{path}: files[{index}]"
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: expected an object, found {entry!r}")
        if problem := next(_problems(entry), None):
            raise ValueError(f"{where} ({entry.get('id')}): {problem}")
        weight = WeightFile(**{**entry, "used_by": tuple(entry["used_by"])})
        for other in weights.values():
            if weight.id == other.id or (weight.folder, weight.name) == (other.folder, other.name):
                raise ValueError(f"{where} ({weight.id}): same id or same folder and name as {other.id}")
        weights[weight.id] = weight
    return weights


def _problems(entry: Mapping[str, Any]) -> Iterator[str]:
    expected = {field.name for field in fields(WeightFile)}
    if set(entry) != expected:
        yield f"missing fields {sorted(expected - set(entry))}, unknown fields {sorted(set(entry) - expected)}"
    optional = {"size": int, "size_about": str, "sha256": str, "sha256_source": str, "licence_note": str}
    required = {"id": str, "name": str, "folder": str, "url": str, "licence": str, "non_commercial": bool}
    allowed = {field: (kind, NoneType) for field, kind in optional.items()}
    allowed |= {field: (kind,) for field, kind in required.items()} | {"used_by": (list,)}
    for field, kinds in allowed.items():
        if type(entry[field]) not in kinds or entry[field] == "":
            yield f"{field} must be {' or '.join(kind.__name__ for kind in kinds)}, not {entry[field]!r}"
    plain = r"[A-Za-z0-9][A-Za-z0-9._-]*"
    for field, pattern in {"id": plain, "name": plain, "folder": rf"{plain}(/{plain})*"}.items():
        if not re.fullmatch(pattern, entry[field]):
            yield f"{field} must be plain letters, digits, dots, dashes and underscores, not {entry[field]!r}"
    if not _is_safe(entry["url"]):
        yield f"url must be https, not {entry['url']!r}"
    if entry["size"] is not None and entry["size"] <= 0:
        yield f"size must be positive, not {entry['size']}"
    if entry["sha256"] is not None and not re.fullmatch("[0-9a-f]{64}", entry["sha256"]):
        yield f"sha256 must be 64 lower-case hex digits, not {entry['sha256']!r}"
    if entry["sha256_source"] not in (HASH_SOURCES if entry["sha256"] else (None,)):
        yield f"sha256_source must be one of {HASH_SOURCES} beside a hash and null without one"
    if not entry["used_by"] or not all(isinstance(user, str) and user for user in entry["used_by"]):
        yield f"used_by must be a list of workflows or features, not {entry['used_by']!r}"


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
        What was compared, all of it equal: "size", "sha256", both, or nothing when the manifest knows neither.

    Raises:
        WeightError: If one differs.
    """
    checked: list[str] = []
    if weight.size is not None:
        found = Path(path).stat().st_size
        if found != weight.size:
            raise WeightError(f"{path}: size differs: expected {weight.size} bytes, found {found}")
        checked.append("size")
    if weight.sha256 is not None:
        digest = hashlib.sha256()
        with Path(path).open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
        if digest.hexdigest() != weight.sha256:
            source = "" if weight.sha256_source == "publisher" else f" (a third-party hash: {weight.sha256_source})"
            expected = f"expected {weight.sha256}{source}"
            raise WeightError(f"{path}: sha256 differs: {expected}, found {digest.hexdigest()}")
        checked.append("sha256")
    return tuple(checked)


def download(
    weight: WeightFile,
    destination_folder: str | Path,
    *,
    accept_licence: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
    opener: Callable[..., Any] | None = None,
) -> Path:
    """Fetch one file, continuing an interrupted transfer, and put it in place only if it is whole and right.

    Args:
        weight: What to fetch.
        destination_folder: The folder the file goes into; made if missing. A transfer under way is NAME.part in it.
        accept_licence: Needed for files that are not for commercial use.
        progress: Called with the bytes here so far and in all (None if the server does not say).
        opener: Called like `urllib.request.urlopen`; by default one that refuses to be redirected away from https.

    Raises:
        DownloadError: Licence not accepted, no space, another download of it under way, or the transfer failed.
        WeightError: What arrived, or was there already, is not the file of the manifest.
    """
    if weight.non_commercial and not accept_licence:
        raise DownloadError(
            f"{weight.name} is not for commercial use; its licence is: {weight.licence}. {weight.licence_note or ''} "
            "If your use is allowed, download it with the licence accepted (accept_licence, --accept-licence)."
        )
    _require_safe(weight.url)
    target = Path(destination_folder) / weight.name
    if not _is_in_place(weight, target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_download_of(target):
            if not _is_in_place(weight, target):
                part = target.with_name(target.name + ".part")
                _fetch(weight, part, progress or (lambda done, total: None), opener or _open)
                _put_in_place(weight, part, target)
    return target


def _is_in_place(weight: WeightFile, target: Path) -> bool:
    if not target.exists():
        return False
    try:
        verify(weight, target)
    except WeightError as error:
        raise WeightError(f"{error}. It was left as it is: move or delete it, then download again.") from error
    return True


@contextlib.contextmanager
def _only_download_of(target: Path) -> Iterator[None]:
    lock = target.with_name(target.name + ".part.lock")
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError as error:
        raise DownloadError(
            f"Another download of {target.name} is under way. If none is running, delete {lock} and try again."
        ) from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _fetch(weight: WeightFile, part: Path, progress: Callable[[int, int | None], None], opener: Callable) -> None:
    have = _bytes_to_continue_from(weight, part)
    if have and have == weight.size:
        return
    if weight.size is not None:
        _require_space(part.parent, weight.size - have)
    try:
        response = opener(_request(weight, part, have), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
                raise DownloadError(f"{weight.url}: the server answered {error.code} {error.reason}") from error
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return
        _discard(part)
        return _fetch(weight, part, progress, opener)
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"{weight.url}: no connection: {error}") from error
    with response:
        _receive(weight, part, have, response, progress)


def _bytes_to_continue_from(weight: WeightFile, part: Path) -> int:
    """What is kept of an earlier transfer; only where a mix of two versions would show, by hash or by ETag."""
    if not part.exists():
        return 0
    have = part.stat().st_size
    if (weight.size is not None and have > weight.size) or not (weight.sha256 or _etag_of(part).exists()):
        _discard(part)
        return 0
    return have


def _request(weight: WeightFile, part: Path, have: int) -> urllib.request.Request:
    request = urllib.request.Request(weight.url, headers={"User-Agent": "ComfyUI-StoryIdentity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if weight.sha256 is None:
            request.add_header("If-Range", _etag_of(part).read_text(encoding="ascii"))
    return request


def _receive(
    weight: WeightFile, part: Path, have: int, response: Any, progress: Callable[[int, int | None], None]
) -> None:
    start, total = _announced(response)
    etag = response.headers.get("ETag") or ""
    if start and weight.sha256 is None and etag != _etag_of(part).read_text(encoding="ascii"):
        start = None
    if start is None or start != have:
        _discard(part)
        if start != 0:
            raise DownloadError(f"{weight.url}: unexpected answer {response.status}; the next try starts anew")
        have = 0
    total = _agreed_total(weight, response, total)
    if weight.size is None and total is not None:
        _require_space(part.parent, total - have)
    if weight.sha256 is None and re.fullmatch('"[!-~]*"', etag):
        _etag_of(part).write_text(etag, encoding="ascii")
    stopped, total_text = "", "an unknown number of" if total is None else total
    try:
        with part.open("ab") as file:
            while (total is None or have <= total) and (chunk := response.read(CHUNK_BYTES)):
                file.write(chunk)
                have += len(chunk)
                progress(have, total)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, http.client.HTTPException) as error:
        stopped = f": {error!r}"
    if stopped or (total is not None and have < total):
        kept = f"stopped after {have} of {total_text} bytes, which are kept; download again to continue"
        raise DownloadError(f"{weight.url}: {kept}{stopped}")


def _announced(response: Any) -> tuple[int | None, int | None]:
    """The position the answer starts from (None: not usable) and the length of the whole file (None: not said)."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        sent = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range") or "")
        return (int(sent[1]), int(sent[2])) if sent else (None, None)
    length = response.headers.get("Content-Length") or ""
    return 0 if response.status == http.HTTPStatus.OK else None, int(length) if length.isdigit() else None


def _agreed_total(weight: WeightFile, response: Any, total: int | None) -> int | None:
    if (response.headers.get("Content-Encoding") or "identity") != "identity":
        raise DownloadError(f"{weight.url}: the server sent it compressed, though it was not asked to")
    if weight.size is not None and total not in (None, weight.size):
        raise DownloadError(f"{weight.url}: the server has {total} bytes, expected {weight.size}: not the same file")
    ends_by_itself = (response.headers.get("Transfer-Encoding") or "").lower() == "chunked"
    total = weight.size if total is None else total
    if total is None and weight.sha256 is None and not ends_by_itself:
        raise DownloadError(f"{weight.url}: the server gives no length, so a broken transfer would not show")
    return total


def _put_in_place(weight: WeightFile, part: Path, target: Path) -> None:
    try:
        verify(weight, part)
    except WeightError as error:
        _discard(part)
        raise WeightError(f"{weight.url} did not give the expected file; it was deleted. {error}") from error
    os.replace(part, target)
    _discard(part)


def _require_space(folder: Path, remaining: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < remaining + SPARE_BYTES:
        raise DownloadError(
            f"Not enough space in {folder}: {remaining} bytes are still to come and {SPARE_BYTES} must stay free, "
            f"{free} are free"
        )


def _etag_of(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _etag_of(part).unlink(missing_ok=True)


def _is_safe(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    is_local = parts.hostname in ("127.0.0.1", "localhost", "::1")
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and is_local))


def _require_safe(url: str) -> None:
    if not _is_safe(url):
        raise DownloadError(f"{url}: not an https address")


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        _require_safe(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(request: urllib.request.Request, timeout: float) -> Any:
    return urllib.request.build_opener(_HttpsRedirects).open(request, timeout=timeout)


if __name__ == "__main__":
    cli = importlib.import_module(f"{__package__}.weights_cli" if __package__ else "weights_cli")
    sys.exit(cli.main())
