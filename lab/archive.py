"""What the registry ships: `python -m story_identity.lab.archive [FILE.zip]` writes it and counts what the nodes use.

The registry's own tool packs the files that git tracks, except those that `.comfyignore` names.
"""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import grimp

PACK = Path(__file__).absolute().parents[1]


def is_in_git() -> bool:
    """Whether the pack is a git checkout, from which alone the archive can be made."""
    return (PACK / ".git").exists() and shutil.which("git") is not None


def shipped_files() -> list[Path]:
    """The files of the archive, relative to the pack's folder, sorted.

    Raises:
        subprocess.CalledProcessError: If the pack does not lie in a git repository.
    """
    tracked, ignored = (set(_git("ls-files", *more)) for more in ((), ("-ci", "-X", ".comfyignore")))
    return sorted(Path(name) for name in tracked - ignored if (PACK / name).is_file())


def write_archive(path: Path) -> None:
    """Write the archive as a zip file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in shipped_files():
            archive.write(PACK / file, file.as_posix())


def lines_used() -> tuple[int, int]:
    """How many lines of shipped Python code an import of the nodes reaches, and how many there are."""
    graph = grimp.build_graph("story_identity")
    nodes = {name for name in graph.modules if name.startswith("story_identity.nodes")}
    reached = nodes.union(*(graph.find_upstream_modules(name) for name in nodes)) | {"story_identity"}
    lines = {_module(file): _count_lines(PACK / file) for file in shipped_files() if file.suffix == ".py"}
    return sum(count for name, count in lines.items() if name in reached), sum(lines.values())


def _git(*words: str) -> list[str]:
    done = subprocess.run(["git", *words, "-z"], cwd=PACK, capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def _module(file: Path) -> str:
    return ".".join(("story_identity", *file.with_suffix("").parts)).removesuffix(".__init__")


def _count_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def main() -> None:
    """Write the archive if a file is named, and say how much of the code the nodes use."""
    if len(sys.argv) > 1:
        write_archive(Path(sys.argv[1]))
    used, shipped = lines_used()
    sys.stdout.write(f"{len(shipped_files())} files; the nodes use {used} of {shipped} lines: {used / shipped:.1%}\n")


if __name__ == "__main__":
    main()
