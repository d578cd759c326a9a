"""The files of a StoryDB group: a tar in webdataset's convention, or the same files in a folder.

A picture is `KEY.png` or `KEY.jpg`, `KEY.txt` (its caption), `KEY.json` (who is on it) and `KEY.mask.png` (where: 0 is
the background, n the nth character), KEY being `group/number`. The bytes of a tar depend on those of its files alone.
"""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from ...core.atomic_files import replacing


def write_shard(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a tar; it is there whole or not at all."""
    with replacing(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as shard:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)  # of nobody, at no time
            entry.size = len(content)
            shard.addfile(entry, io.BytesIO(content))


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write the files below a folder, one after the other; a database's manifest names it when all are there."""
    for name, content in files.items():
        with replacing(path / name) as temporary:
            temporary.write_bytes(content)


def read_files(path: Path, ending: str = "") -> dict[str, bytes]:
    """What `write_shard` or `write_folder` wrote there, or only the files whose names end so.

    Raises:
        ValueError: If there is nothing, or a tar is damaged.
    """
    if path.is_dir():
        files = (file for file in path.rglob(f"*{ending}") if file.is_file())
        return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}
    try:
        with tarfile.open(path, "r:") as shard:
            chosen = (entry for entry in shard if entry.name.endswith(ending))
            return {entry.name: file.read() for entry in chosen if (file := shard.extractfile(entry)) is not None}
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
