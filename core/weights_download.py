"""Fetch a weight file: continued where it stopped, one process at a time, put in place only if it is whole and right.

Nothing is ever fetched unless `download` is called. Standard library only, see weights.py, except for filelock, which
ComfyUI requires too and which only a download needs.
"""

import contextlib
import errno
import http.client
import os
import re
import shutil
import sys
import types
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

if __package__:
    from .quoting import printable
    from .weights import CHUNK_BYTES, WeightError, WeightFile, is_local, is_safe, verify
else:
    from quoting import printable
    from weights import CHUNK_BYTES, WeightError, WeightFile, is_local, is_safe, verify

TIMEOUT_S = 30.0
SPARE_BYTES = 256 * 2**20

_KEPT = "make room; what has arrived is kept, and the next download continues"
_REFUSED = "choose a folder that you may write to, or change its permissions"
_IN_THE_WAY = "move or rename the file that stands where a folder is needed"
_REMEDIES = {
    errno.ENOSPC: _KEPT,
    errno.EDQUOT: _KEPT,
    errno.EFBIG: "choose a folder on a file system that takes files of this size",
    errno.EACCES: _REFUSED,
    errno.EPERM: _REFUSED,
    errno.EROFS: _REFUSED,
    errno.EEXIST: _IN_THE_WAY,
    errno.ENOTDIR: _IN_THE_WAY,
}


class DownloadError(RuntimeError):
    """A file could not be fetched; the text says why and what to do."""


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
        DownloadError: Licence not accepted, no space or no right to write, another download of it under way, or the
            transfer failed.
        WeightError: What arrived, or was there already, is not the file of the manifest.
    """
    if weight.non_commercial and not accept_licence:
        raise DownloadError(
            f"{weight.name} is not for commercial use; its licence is: {weight.licence}. {weight.licence_note or ''} "
            "If your use is allowed, download it with the licence accepted (accept_licence, --accept-licence)."
        )
    _require_safe(weight.url)
    target = Path(destination_folder) / weight.name
    part = target.with_name(target.name + ".part")
    _refuse_folders(target, part, _etag_of(part), _lock_of(part))
    if not _is_in_place(weight, target):
        with _file_errors(target.parent, "made"):
            target.parent.mkdir(parents=True, exist_ok=True)
        with _only_download_of(part):
            if not _is_in_place(weight, target):
                _fetch(weight, part, progress or (lambda done, total: None), opener or _open)
                _put_in_place(weight, part, target)
    return target


def _refuse_folders(*paths: Path) -> None:
    for path in paths:
        if os.path.exists(path) and not os.path.isfile(path):  # unlike Path's, False for what may not be read
            kind = "a folder" if os.path.isdir(path) else "a device"
            raise DownloadError(
                f"{_shown(path)} is {kind}, and a file is to take that place: move or rename it, then download again"
            )


def _is_in_place(weight: WeightFile, target: Path) -> bool:
    if not os.path.exists(target):
        return False
    try:
        with _file_errors(target, "read"):
            verify(weight, target)
    except WeightError as error:
        raise WeightError(f"{error}. It was left as it is: move or delete it, then download again.") from error
    return True


@contextlib.contextmanager
def _only_download_of(part: Path) -> Iterator[None]:
    """Hold a lock of the operating system, which ends with the process, however that ends."""
    filelock, path = _filelock(), _lock_of(part)
    lock = filelock.FileLock(path)
    with _file_errors(path, "written"):
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise DownloadError(
                f"Another download of {part.stem} is under way in {_shown(part.parent)}: wait until it has ended"
            ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows refuses, and deletes the file when the lock is released
            path.unlink()
        lock.release()


def _filelock() -> types.ModuleType:
    try:
        import filelock
    except ImportError as error:
        python = printable(sys.executable or "python")
        raise DownloadError(
            f"A download needs the Python package filelock, which ComfyUI installs: use ComfyUI's Python, or run: "
            f"{python} -m pip install filelock"
        ) from error
    return filelock


@contextlib.contextmanager
def _file_errors(path: Path, what: str) -> Iterator[None]:
    """Say in one sentence which file the system refuses, why, and what to do."""
    try:
        yield
    except OSError as error:
        reason = printable(error.strerror or repr(error), 200)
        remedy = f"; {_REMEDIES[error.errno]}" if error.errno in _REMEDIES else ""
        raise DownloadError(f"{_shown(path)} cannot be {what}: {reason}{remedy}") from error


def _shown(path: Path) -> str:
    return printable(str(path))


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
                answer = f"{error.code} {printable(str(error.reason), 200)}"
                raise DownloadError(f"{weight.url}: the server answered {answer}") from error
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return
        _discard(part)
        return _fetch(weight, part, progress, opener)
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a redirect to what is no address
        raise DownloadError(f"{weight.url}: no connection: {printable(str(error), 200)}") from error
    with response:
        _receive(weight, part, have, response, progress)


def _bytes_to_continue_from(weight: WeightFile, part: Path) -> int:
    """What is kept of an earlier transfer; only where a mix of two versions would show, by hash or by ETag."""
    if not os.path.exists(part):
        return 0
    have = part.stat().st_size
    if (weight.size is not None and have > weight.size) or not (weight.sha256 or _known_etag(part)):
        _discard(part)
        return 0
    return have


def _request(weight: WeightFile, part: Path, have: int) -> urllib.request.Request:
    request = urllib.request.Request(weight.url, headers={"User-Agent": "ComfyUI-StoryIdentity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if weight.sha256 is None:
            request.add_header("If-Range", _known_etag(part))
    return request


def _receive(
    weight: WeightFile, part: Path, have: int, response: Any, progress: Callable[[int, int | None], None]
) -> None:
    start, total = _announced(response)
    etag = _etag_in(response.headers.get("ETag") or "")
    if start and weight.sha256 is None and etag != _known_etag(part):
        start = None
    if start is None or start != have:
        _discard(part)
        if start != 0:
            raise DownloadError(
                f"{weight.url}: unexpected answer {response.status}; the next attempt starts from the beginning"
            )
        have = 0
    total = _agreed_total(weight, response, total)
    if weight.size is None and total is not None:
        _require_space(part.parent, total - have)
    if weight.sha256 is None and etag:
        with _file_errors(_etag_of(part), "written"):
            _etag_of(part).write_text(etag, encoding="ascii")
    have, stopped = _append(part, have, total, response, progress)
    if stopped or (total is not None and have < total):
        total_text = "an unknown number of" if total is None else total
        kept = f"stopped after {have} of {total_text} bytes, which are kept; download again to continue"
        raise DownloadError(f"{weight.url}: {kept}{stopped}")


def _append(
    part: Path, have: int, total: int | None, response: Any, progress: Callable[[int, int | None], None]
) -> tuple[int, str]:
    """Write what arrives; returns how many bytes are there, and what broke the connection, if anything did."""
    stopped = ""
    with _file_errors(part, "written"):
        file = part.open("ab", buffering=0)
    with file:
        while total is None or have <= total:
            try:
                chunk = response.read(CHUNK_BYTES)
            except (OSError, http.client.HTTPException) as error:
                stopped = f": {printable(repr(error), 200)}"
                break
            if not chunk:
                break
            if total is None:
                _require_space(part.parent, len(chunk))
            with _file_errors(part, "written"):
                _write(file, chunk)
            have += len(chunk)
            progress(have, total)
        with _file_errors(part, "written"):
            os.fsync(file.fileno())
    return have, stopped


def _write(file: IO[bytes], chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]


def _announced(response: Any) -> tuple[int | None, int | None]:
    """The position the answer starts from (None: not usable) and the length of the whole file (None: not said)."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        sent = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]+/([0-9]{1,18})", response.headers.get("Content-Range") or "")
        return (int(sent[1]), int(sent[2])) if sent else (None, None)
    length = re.fullmatch("[0-9]{1,18}", response.headers.get("Content-Length") or "")
    return 0 if response.status == http.HTTPStatus.OK else None, int(length[0]) if length else None


def _agreed_total(weight: WeightFile, response: Any, total: int | None) -> int | None:
    if (response.headers.get("Content-Encoding") or "identity") != "identity":
        raise DownloadError(f"{weight.url}: the server sent it compressed, though it was not asked to")
    if weight.size is not None and total not in (None, weight.size):
        raise DownloadError(f"{weight.url}: the server has {total} bytes, expected {weight.size}: not the same file")
    if weight.min_size is not None and total is not None and total < weight.min_size:
        few = f"the server has {total} bytes, expected at least {weight.min_size}"
        raise DownloadError(f"{weight.url}: {few}: not this file, perhaps a web page")
    ends_by_itself = (response.headers.get("Transfer-Encoding") or "").lower() == "chunked"
    total = weight.size if total is None else total
    if total is None and weight.sha256 is None and not ends_by_itself:
        raise DownloadError(f"{weight.url}: the server gives no length, so a broken transfer would not show")
    return total


def _put_in_place(weight: WeightFile, part: Path, target: Path) -> None:
    try:
        with _file_errors(part, "read"):
            verify(weight, part)
    except WeightError as error:
        _discard(part)
        raise WeightError(f"{weight.url} did not give the expected file; it was deleted. {error}") from error
    with _file_errors(target, "written"):
        os.replace(part, target)
    _discard(part)


def _require_space(folder: Path, remaining: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < remaining + SPARE_BYTES:
        raise DownloadError(
            f"Not enough space in {_shown(folder)}: {remaining} bytes are still to come and {SPARE_BYTES} must stay "
            f"free, {free} are free"
        )


def _lock_of(part: Path) -> Path:
    return part.with_name(part.name + ".lock")


def _etag_of(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _known_etag(part: Path) -> str:
    """The ETag that an earlier transfer came with; empty if none is known."""
    if not os.path.exists(_etag_of(part)):
        return ""
    with _file_errors(_etag_of(part), "read"):
        return _etag_in(_etag_of(part).read_text(encoding="ascii", errors="replace"))


def _etag_in(text: str) -> str:
    """The text if it is a strong ETag, else nothing."""
    return text if re.fullmatch('"[!-~]*"', text) else ""


def _discard(part: Path) -> None:
    for path in (part, _etag_of(part)):
        with _file_errors(path, "deleted"):
            path.unlink(missing_ok=True)


def _require_safe(url: str) -> None:
    if not is_safe(url):
        raise DownloadError(f"{printable(url, 200)}: not an https address")


class HttpsRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to an https address only; from this machine also to http on it."""

    def http_error_302(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except (DownloadError, ValueError):  # an HTTPError closes it when it is closed
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        _require_safe(newurl)
        if urlsplit(newurl).scheme != "https" and not is_local(req.full_url):
            raise DownloadError(f"{printable(newurl, 200)}: not an https address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(request: urllib.request.Request, timeout: float) -> Any:
    return urllib.request.build_opener(HttpsRedirects).open(request, timeout=timeout)
