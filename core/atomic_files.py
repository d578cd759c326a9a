"""Files that are complete or absent, whenever the process that writes them is stopped."""

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from .quoting import printable

_PREFIX, _SUFFIX = ".unfinished-", ".tmp"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_WRITING = (*_FULL, errno.EFBIG, errno.EROFS)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary file in the folder of `path`, which replaces it when the block ends well and is removed if not.

    The folder is made if need be. A process that is killed leaves the temporary file; `remove_unfinished` deletes it.

    Raises:
        OSError: If the file cannot be written; the message names it and, where the disk is full, says what to do.
    """
    temporary = _made_beside(path)
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if error.errno in _NO_WRITING or error.filename == str(temporary):
            raise unwritable(path, error) from error
        raise
    except SafetensorError as error:
        raise unwritable(path, _as_os_error(error)) from error
    finally:
        temporary.unlink(missing_ok=True)


def unwritable(path: Path, problem: OSError) -> OSError:
    """The same error in words that name the file which could not be written, in place of a temporary one or of none."""
    advice = " Make room there, then do the same again: what is finished stays as it is." if is_full(problem) else ""
    reason = problem.strerror or str(problem)
    said = type(problem)(f"{printable(str(path))} cannot be written: {printable(reason)}.{advice}")
    said.errno = problem.errno
    return said


def remove_unfinished(folder: Path, below: bool = True) -> None:
    """Delete what killed processes left; only while no other process writes there.

    Args:
        folder: Where to look.
        below: Look into the folders in it too; links are not followed.
    """
    pattern = f"{_PREFIX}*{_SUFFIX}"
    for path in folder.rglob(pattern) if below else folder.glob(pattern):
        path.unlink(missing_ok=True)


def _made_beside(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=_SUFFIX, dir=path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    os.close(handle)
    return Path(name)


def _as_os_error(problem: SafetensorError) -> OSError:
    """Safetensors says in words alone what the system said when it could not write."""
    code = re.search(r"os error (\d+)", str(problem))
    return OSError(int(code[1]), os.strerror(int(code[1]))) if code else OSError(str(problem))


def is_full(problem: OSError) -> bool:
    """Whether the reason is that a disk is full, or a quota."""
    return problem.errno in _FULL
