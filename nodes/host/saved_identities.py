"""Identities in models/identities that Find Identity wrote, and whether one is what it would find again.

What an identity was found from is noted in its file (`core.known_identities.FOUND_FROM`). The models are noted as
digests of the nodes that make them, with their settings, and of the sizes and times of the files that they name: a
LoRA, a patch or another checkpoint on the way is another digest, and nothing has to be loaded to know it.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import folder_paths

from ...core.identity import Identity, identity_metadata, safe_file_name
from ...core.known_identities import FOUND_FROM, differences
from ...core.quoting import printable
from .loops import Graph
from .result_keys import key_of
from .sources import files_digest

Note = Mapping[str, Any]
"""What an identity was found from."""


def input_digest(graph: Graph, node_id: str, name: str) -> str | None:
    """A digest of what arrives at an input, by where it comes from; None if that does not say it.

    It does not where a node before it gives something else each time, or where a file was replaced since this process
    read it.
    """
    link = graph.links(node_id).get(name)
    if link is None:
        return None
    origin, slot = link
    key = key_of(graph, origin)
    files, steady = files_digest(graph, origin)
    return hashlib.sha256(f"{key}\n{slot}\n{files}".encode()).hexdigest() if key and steady else None


@dataclass(frozen=True)
class Saved:
    """What there is of an identity that is looked for.

    Args:
        identity: The saved one, if one fits.
        file: Its name; empty if none fits.
        why_not: A sentence that says in what the nearest one differs; empty if one fits.
    """

    identity: Identity | None
    file: str
    why_not: str


def saved_identity(note: Note, name: str, description: str) -> Saved:
    """The saved identity that was found from the same.

    Args:
        note: What it would be found from now.
        name: The name that it gets, whatever it was called.
        description: The description that it gets; one that was found in pictures may have had another.
    """
    nearest: tuple[int, str, list[str]] | None = None
    for path, found_from in _found_before():
        differing = differences(found_from, note)
        if not differing:
            try:
                return Saved(replace(Identity.load(path), name=name, description=description), path.name, "")
            except ValueError as problem:
                logging.warning("Find Identity: %s It is found again.", printable(str(problem)))
                differing = ["it is damaged"]
        is_of_them = any(found_from.get(key) == note.get(key) for key in ("description", "pictures") if key in note)
        if is_of_them and (nearest is None or len(differing) < nearest[0]):
            nearest = len(differing), path.name, differing
    if nearest is None:
        return Saved(None, "", "No identity of these words is saved.")
    return Saved(None, "", f"{printable(nearest[1], 120)} does not fit: {'; '.join(nearest[2])}.")


def save_found(identity: Identity, note: Note) -> Path:
    """Write an identity with what it was found from, under its name and a digest of that."""
    digest = hashlib.sha256(json.dumps(note, sort_keys=True).encode()).hexdigest()[:8]
    stem = f"{safe_file_name(identity.name)}_{digest}"
    folder, number = Path(folder_paths.get_folder_paths("identities")[0]), 1
    path = folder / f"{stem}.safetensors"
    while path.exists() and (identity_metadata(path) or {}).get(FOUND_FROM) != note:
        number += 1
        path = folder / f"{stem}_{number}.safetensors"
    return replace(identity, metadata={**identity.metadata, FOUND_FROM: dict(note)}).save(path)


def _found_before() -> Iterator[tuple[Path, Note]]:
    """Every identity file that says what it was found from."""
    for folder in map(Path, folder_paths.get_folder_paths("identities")):
        for path in sorted(folder.rglob("*.safetensors")):
            found_from = (identity_metadata(path) or {}).get(FOUND_FROM)
            if isinstance(found_from, dict):
                yield path, found_from
