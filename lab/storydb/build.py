"""StoryDB (Storynizor, section 4): groups of pictures of the same characters, made of folders that a user has.

`build_storydb` reads pictures and captions, drops what does not fit, finds the words by which a group's captions name
the character and the masks of where it is, and writes one file per group of 5 to 12 pictures next to `manifest.json`.
`reader` reads it. Where the paper downloads and has a language model write captions, the user brings both.

    SOURCE/mia/01.jpg, 01.txt, 02.jpg, ...         one folder per character (or per set of characters)
    SOURCE/03.jpg, 04.jpg, ...                     loose pictures, put together by face (or by CLIP)
    OUT/manifest.json, OUT/groups/mia-1a2b3c4d.tar
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...core.atomic_files import remove_unfinished
from ...core.identity import PACK_VERSION
from ...core.locking import locked
from ...core.quoting import quote
from ...headless.run_files import mark_of, write_json
from .group_filter import LOOSE, Drop, GroupFilter, Kept, about_member, clusters
from .manifest import FORMAT, GROUPS, find_storydb
from .measures import Measures
from .pictures import stored_picture
from .settings import StoryDBSettings
from .shards import write_folder, write_shard
from .sources import Source, find_sources

Report = Callable[[str, int, int], None]

_MARK = 8
_WRITTEN = re.compile(rf"[\w-]+-\d+-[0-9a-f]{{{_MARK}}}(\.tar)?", re.ASCII)
"""What the files and folders of groups are called."""


def build_storydb(
    root: Path,
    out: Path,
    settings: StoryDBSettings,
    measures: Measures,
    report: Report = lambda what, done, total: None,
) -> dict[str, Any]:
    """Make a StoryDB of the pictures below a folder, or bring it up to date.

    A source (a folder, or a set of loose pictures that are alike) is done again only if one of its pictures, captions
    or names changed, or the settings or models did, or a file of it is gone; the files of the others are not touched.
    Old and new file both stay until the manifest names it: whenever the process is killed, the manifest
    names complete files only, and the same call continues from there. One process at a time can build in a folder.

    Args:
        root: The user's folder; see `sources.find_sources`. Nothing in it is changed.
        out: Where the database goes; outside of `root`.
        settings: The thresholds.
        measures: The models.
        report: Called with every source that is done.

    Returns:
        The manifest, see `read_storydb`.

    Raises:
        FileNotFoundError, ValueError: For what is wrong with the folders or the files that describe pictures, or if
            another process builds there.
    """
    if out.resolve().is_relative_to(root.resolve()):
        raise ValueError(
            f"{quote(str(out))} lies in {quote(str(root))}, and its pictures would become sources; choose a folder "
            "outside."
        )
    sources, loose = find_sources(root)
    refusal = f"Another build-storydb is at work in {quote(str(out))}. Wait for it, or choose another folder."
    with locked(out, refusal):
        old = find_storydb(out) or {"sources": {}, "groups": [], "drops": []}
        remove_unfinished(out)
        return _build(_Builder(root, out, settings, measures, old), sources, loose, report)


def _build(builder: "_Builder", sources: list[Source], loose: Source | None, report: Report) -> dict[str, Any]:
    if loose is not None:
        report("loose pictures", 0, 1)
        sources = [*sources, *builder.put_together(loose)]
        report("loose pictures", 1, 1)
    for number, source in enumerate(sources, start=1):
        builder.build(source)
        report("groups", number, len(sources))
    builder.finish({source.name for source in sources} | ({LOOSE} if loose else set()))
    return builder.manifest


class _Builder:
    """Keeps a manifest and the files of its groups in step."""

    def __init__(
        self, root: Path, out: Path, settings: StoryDBSettings, measures: Measures, manifest: dict[str, Any]
    ) -> None:
        about = {"format": FORMAT, "pack_version": PACK_VERSION}
        models = dict(sorted(measures.names.items()))
        self.manifest = {**about, **manifest, **about, "settings": settings.record(), "models": models}
        self._root, self._out = root, out
        self._settings, self._measures = settings, measures

    def put_together(self, loose: Source) -> list[Source]:
        """Sources of loose pictures that show the same character; found again only if one of them changed."""
        before, mark = self.manifest["sources"].get(LOOSE, {}), self._fingerprint(loose)
        if before.get("fingerprint") != mark or not _are_sets_of(before.get("clusters"), loose.files):
            group_filter = GroupFilter(self._root, loose, self._settings, self._measures)
            files, vectors = group_filter.vectors()
            numbers = clusters(vectors, self._settings.cluster).tolist()
            sets: dict[int, list[str]] = {}
            for file, number in zip(files, numbers, strict=True):
                sets.setdefault(number, []).append(file)
            self._record(LOOSE, {"fingerprint": mark, "clusters": list(sets.values())}, [], group_filter.drops)
        captions = loose.captions
        return [
            Source(f"{LOOSE}{each[0]}", tuple(each), {file: captions[file] for file in each if file in captions})
            for each in self.manifest["sources"][LOOSE]["clusters"]
        ]

    def build(self, source: Source) -> None:
        """Make a source's groups, unless they are there."""
        mark = self._fingerprint(source)
        before = self.manifest["sources"].get(source.name, {})
        there = all((self._out / entry["file"]).exists() for entry in self._groups_of(source.name))
        if before.get("fingerprint") == mark and there:
            return
        group_filter = GroupFilter(self._root, source, self._settings, self._measures)
        kept = group_filter.groups()
        entries = [self._write(source, number, mark, each) for number, each in enumerate(kept, start=1)]
        self._record(source.name, {"fingerprint": mark}, entries, group_filter.drops)

    def finish(self, names: set[str]) -> None:
        """Forget sources that are gone, and delete the files of groups that the manifest does not name.

        Whatever else is in the folder stays, and no link is followed.
        """
        self.manifest["sources"] = {name: each for name, each in self.manifest["sources"].items() if name in names}
        for part in ("groups", "drops"):
            self.manifest[part] = [each for each in self.manifest[part] if each["source"] in names]
        self._save()
        named = {entry["file"] for entry in self.manifest["groups"]}
        folder = self._out / GROUPS
        for path in [] if folder.is_symlink() else folder.glob("*"):
            if f"{GROUPS}/{path.name}" in named or not _WRITTEN.fullmatch(path.name) or path.is_symlink():
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _groups_of(self, name: str) -> Iterator[dict[str, Any]]:
        return (entry for entry in self.manifest["groups"] if entry["source"] == name)

    def _write(self, source: Source, number: int, mark: str, kept: Kept) -> dict[str, Any]:
        """One group's files, and what the manifest says of them."""
        key = f"{_slug(source.name)}-{number}"
        files: dict[str, bytes] = {}
        pictures = []
        for place, member in enumerate(kept.members):
            suffix, content = stored_picture(self._root / member.file)
            parts = {
                suffix: content,
                "txt": member.caption.encode(),
                "json": json.dumps(about_member(kept, member), ensure_ascii=False).encode(),
                "mask.png": member.masks,
            }
            files |= {f"{key}/{place:03d}.{part}": each for part, each in parts.items()}
            sums = {part: hashlib.sha256(each).hexdigest() for part, each in parts.items()}
            pictures.append({"key": f"{key}/{place:03d}", "source": member.file, "sha256": sums})
        name = f"{GROUPS}/{key}-{mark[:_MARK]}"
        if self._settings.form == "tar":
            name += ".tar"
            write_shard(self._out / name, files)
        else:
            write_folder(self._out / name, files)
        people = [asdict(character) for character in kept.characters]
        for person in people:
            del person["reference_images"]
        return {"key": key, "source": source.name, "file": name, "characters": people, "pictures": pictures}

    def _record(self, name: str, about: dict[str, Any], groups: Sequence[dict], drops: Sequence[Drop]) -> None:
        """Replace all that the manifest says of a source."""
        self.manifest["sources"][name] = about
        for part, new in (("groups", groups), ("drops", [asdict(drop) for drop in drops])):
            others = [each for each in self.manifest[part] if each["source"] != name]
            order = "key" if part == "groups" else "file"
            self.manifest[part] = sorted([*others, *new], key=lambda each: each[order])
        self._save()

    def _save(self) -> None:
        self.manifest["sources"] = dict(sorted(self.manifest["sources"].items()))
        write_json(self._out / "manifest.json", self.manifest)

    def _fingerprint(self, source: Source) -> str:
        """A hash of everything that a source's groups depend on."""
        inputs = {
            "format": FORMAT,
            "settings": self._settings.record(),
            "models": dict(self._measures.names),
            "characters": [asdict(character) for character in source.characters],
            "pictures": [[file, mark_of(self._root / file), source.captions.get(file)] for file in source.files],
            "refused": {file: asdict(why) for file, why in source.refused.items()},
        }
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _are_sets_of(sets: Any, files: Sequence[str]) -> bool:
    """Whether a manifest's value holds sets of these files, none of them empty."""
    if not isinstance(sets, list) or not all(isinstance(each, list) and each for each in sets):
        return False
    known = set(files)
    return all(isinstance(file, str) and file in known for each in sets for file in each)


def _slug(name: str) -> str:
    """A name for files, different for different names."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:60]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
