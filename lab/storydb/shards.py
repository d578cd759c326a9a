"""The files of a StoryDB group: a tar in webdataset's convention, or the same files in a folder.

A picture is `KEY.png` or `KEY.jpg`, `KEY.txt` (its caption), `KEY.json` (who is on it) and `KEY.mask.png` (where: 0 is
the background, n the nth character), KEY being `group/number`. The bytes of a tar depend on those of its files alone.
"""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from ...core.atomic_files import atomic_write
from ...core.quoting import printable, quote


def write_shard(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a tar, which is complete or absent."""
    with atomic_write(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as shard:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)  # of nobody, at no time
            entry.size = len(content)
            shard.addfile(entry, io.BytesIO(content))


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write the files below a folder, one after the other; a database's manifest names it when all are there."""
    for name, content in files.items():
        with atomic_write(path / name) as temporary:
            temporary.write_bytes(content)


def read_files(path: Path, ending: str = "") -> dict[str, bytes]:
    """What `write_shard` or `write_folder` wrote there, or only the files whose names end so.

    Links, folders and devices in a tar are passed over; nothing is written anywhere, whatever the names say.

    Raises:
        ValueError: If there is nothing, or a tar is damaged.
    """
    try:
        if path.is_dir():
            files = (file for file in path.rglob(f"*{ending}") if file.is_file())
            return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}
        with tarfile.open(path, "r:") as shard:
            return {entry.name: _content(shard, entry, path) for entry in shard if _is_ours(entry, ending)}
    except Exception as error:  # what a damaged tar makes tarfile raise is not bounded
        raise ValueError(f"{path} cannot be read: {printable(f'{type(error).__name__}: {error}')}") from error


def _is_ours(entry: tarfile.TarInfo, ending: str) -> bool:
    return entry.isreg() and not entry.issparse() and entry.name.endswith(ending)


def _content(shard: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> bytes:
    if entry.size > path.stat().st_size:
        raise ValueError(f"{quote(entry.name)} claims to have {entry.size:,} bytes, more than the whole file")
    file = shard.extractfile(entry)
    assert file is not None  # of regular files there is one
    return file.read()
