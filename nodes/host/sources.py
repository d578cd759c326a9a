"""What a frame's result depends on besides the workflow: files that its nodes name, and the code of the nodes.

ComfyUI's keys have the names of files and nodes. A result that is kept on the disk must also not outlive another file
under the same name, or another version of a node.
"""

import hashlib
import os
import sys
from functools import cache
from pathlib import Path

import folder_paths

import nodes

from .loops import Graph, Loop, NodeInfo

_LONGEST_NAME = 255
_NOT_CODE = {"venv", "node_modules", "site-packages"}


_first_states: dict[Path, str] = {}
"""Files as this process first saw them: ComfyUI may still hold what it loaded from them."""


def sources_digest(graph: Graph, loop: Loop) -> tuple[str, bool]:
    """A digest of the files and of the code that a loop's values come from, by sizes and times of change.

    Returns:
        The digest, and whether all files are as this process first saw them. If not, ComfyUI may draw with the former
        content of a file, and results must not be kept for its new content.
    """
    lines, steady = set(), True
    for node_id in graph.ancestors(*(origin for origin, _ in loop.ends.values()), without=loop.known):
        lines.add(_code(graph.kind(node_id)))
        files, unchanged = _file_states(graph.node(node_id))
        lines |= files
        steady &= unchanged
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest(), steady


def files_digest(graph: Graph, node_id: str) -> tuple[str, bool]:
    """A digest of the files that a node's result comes from, by sizes and times of change, wherever they lie.

    Returns:
        The digest, and whether all files are as this process first saw them, as `sources_digest` says it.
    """
    lines, steady = set(), True
    for ancestor in graph.ancestors(node_id):
        files, unchanged = _file_states(graph.node(ancestor))
        lines |= {line.rpartition("/")[2] for line in files}
        steady &= unchanged
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest(), steady


def _file_states(node: NodeInfo) -> tuple[set[str], bool]:
    """The states of the files that a node reads, and whether they are as this process first saw them."""
    texts = [value for value in node["inputs"].values() if isinstance(value, str)]
    own = getattr(nodes.NODE_CLASS_MAPPINGS[node["class_type"]], "weight_files", list)()
    states = {path: _state(path) for path in [*own, *(path for text in texts for path in _files(text))]}
    steady = [_first_states.setdefault(path, state) == state for path, state in states.items()]
    return set(states.values()), all(steady)


def _files(name: str) -> list[Path]:
    """Each file that the name means in one of ComfyUI's folders."""
    if not 0 < len(name) <= _LONGEST_NAME or not Path(name).suffix or not name.isprintable():
        return []
    paths = (folder_paths.get_full_path(kind, name) for kind in folder_paths.folder_names_and_paths)
    return [Path(path) for path in paths if path is not None]


def _state(path: Path) -> str:
    state = path.stat()
    return f"{path.as_posix()}:{state.st_size}:{state.st_mtime_ns}"


@cache
def _code(class_type: str) -> str:
    """The state of a node's code: its pack, or its file if it is one of ComfyUI's.

    It is read once, since the process does not read the code again either.
    """
    module = sys.modules.get(nodes.NODE_CLASS_MAPPINGS[class_type].__module__)
    file = getattr(module, "__file__", None)
    if file is None:
        return class_type
    path = Path(file).resolve()
    roots = [Path(root) for root in folder_paths.get_folder_paths("custom_nodes") if Path(root).is_dir()]
    packs = (pack.resolve() for root in roots for pack in root.iterdir() if pack.is_dir())
    pack = next((each for each in packs if path.is_relative_to(each)), None)
    return "\n".join(map(_state, [path] if pack is None else _sources(pack)))


def _sources(pack: Path) -> list[Path]:
    """The Python files of a pack, without those of a virtual environment or the like in it."""
    found: list[Path] = []
    for folder, inner, files in os.walk(pack):
        inner[:] = sorted(name for name in inner if not name.startswith((".", "__")) and name not in _NOT_CODE)
        found += [Path(folder, name) for name in sorted(files) if name.endswith(".py")]
    return found
