"""One process at a time in a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_FILE = ".lock"


@contextmanager
def locked(folder: Path, refusal: str) -> Iterator[None]:
    """Keep other processes that call this out of a folder, which is made if need be.

    The system releases the lock when the process ends, however it ends.

    Args:
        folder: The folder; the lock is a file in it.
        refusal: What the error says if another process has the lock.

    Raises:
        ValueError: If another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(refusal) from error
    try:
        yield
    finally:
        lock.release()
