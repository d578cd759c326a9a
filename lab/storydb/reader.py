"""Groups out of a StoryDB, in an order that a seed gives, for one of several processes."""

import hashlib
import io
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import get_worker_info

from ...core.quoting import printable
from ...headless.reference_pictures import open_picture
from ..training.groups import Group
from .manifest import read_storydb
from .shards import read_files

_log = logging.getLogger(__name__)
_WORKERS = 256

Entry = Mapping[str, Any]


class StoryDBReader:
    """Reads groups, checked against their checksums, at one size.

    A picture of which a file is missing, unreadable or not as it was written is left out; a group of which fewer than
    `least` pictures remain is skipped. Both are logged and counted, in the processes of a DataLoader too.

    Args:
        folder: The StoryDB's folder.
        height: The pictures' height in pixels.
        width: The pictures' width in pixels.
        seed: The seed of the order and of the choice of pictures.
        frames: Pictures per group, chosen again each time; groups that have fewer are skipped. 0: all of them.
        least: Pictures below which a group is skipped, where `frames` is 0.

    Raises:
        FileNotFoundError: If there is no StoryDB.
        ValueError: If it is none of ours, or has no groups of that many pictures.
    """

    def __init__(
        self, folder: Path, height: int, width: int, *, seed: int = 0, frames: int = 0, least: int = 2
    ) -> None:
        self._folder = folder
        self._size = height, width
        self._seed, self._frames = seed, frames
        self._least = frames or least
        entries = read_storydb(folder)["groups"]
        self._entries: list[Entry] = [each for each in entries if len(each["pictures"]) >= self._least]
        if not self._entries:
            raise ValueError(
                f"{folder} has {len(entries)} groups, none of {self._least} pictures or more. Lower frames, or build "
                "it from more pictures."
            )
        if small := len(entries) - len(self._entries):
            few = f"{small} of {len(entries)} groups have fewer than {self._least} pictures"
            _log.warning("%s: %s and are left out", folder, few)
        # A row for this process and one for each worker it may have: nobody writes into another's.
        self._counts = torch.zeros(1 + _WORKERS, 2, dtype=torch.long).share_memory_()

    def __len__(self) -> int:
        """How many groups an epoch has, over all processes."""
        return len(self._entries)

    @property
    def skipped(self) -> dict[str, int]:
        """How many pictures and groups were skipped until now; one that is met again counts again."""
        return dict(zip(("pictures", "groups"), self._counts.sum(dim=0).tolist(), strict=True))

    def captions(self) -> Iterator[tuple[str, str]]:
        """Every picture's file, as it was called when the StoryDB was built, and its caption.

        A group that cannot be read has none; `stream` skips and counts it.
        """
        for entry in self._entries:
            try:
                files = read_files(self._folder / entry["file"], ".txt")
            except ValueError:
                continue
            for picture in entry["pictures"]:
                if caption := files.get(f"{picture['key']}.txt"):
                    yield picture["source"], caption.decode(errors="replace")

    def stream(self, first: int = 0, process: int = 0, processes: int = 1) -> Iterator[Group]:
        """Groups without end, one epoch after another, each epoch in an order of its own.

        Of all groups in a row, a process gets every `processes`th; in a DataLoader's workers these are shared out once
        more, and the DataLoader puts them back in order. In the place of a group that is skipped comes another one, so
        that the `first`th group is the same whatever was read before it.

        Args:
            first: How many groups this process has had.
            process: Which process this is, from 0.
            processes: How many there are.

        Raises:
            ValueError: If the numbers make no sense, or no group at all can be read.
        """
        self._check(process, processes, first)
        worker = get_worker_info()
        turn, step = (worker.id, worker.num_workers) if worker else (0, 1)
        place = first + turn
        while True:
            yield self._instead_of_none(place * processes + process)
            place += step

    def epoch(self, number: int = 0, process: int = 0, processes: int = 1) -> Iterator[Group]:
        """One process's groups of one epoch: over all processes every group once, but those that are skipped."""
        self._check(process, processes, number)
        worker = get_worker_info()
        turn, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for place in range(process + turn * processes, len(self), processes * step):
            group = self._read(self._order(number)[place], number, place)
            if group is not None:
                yield group

    def _instead_of_none(self, position: int) -> Group:
        """The group of a position in the endless row, or if it is skipped, the next one that can be read."""
        epoch, place = divmod(position, len(self))
        order = self._order(epoch)
        for offset in range(len(self)):
            group = self._read(order[(place + offset) % len(self)], epoch, place)
            if group is not None:
                return group
        raise ValueError(f"None of the {len(self)} groups in {self._folder} can be read; build it again.")

    def _order(self, epoch: int) -> list[int]:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self)).tolist()

    def _read(self, index: int, epoch: int, place: int) -> Group | None:
        """A group, or None if it is skipped; which pictures of it are chosen depends on seed, epoch and place."""
        entry = self._entries[index]
        try:
            files = read_files(self._folder / entry["file"])
        except ValueError as error:
            self._skip(1, f"the group {entry['key']}: {error}")
            return None
        pictures = entry["pictures"]
        if self._frames:
            drawn = np.random.default_rng([self._seed, epoch, place]).permutation(len(pictures))
            pictures = [pictures[number] for number in drawn]
        found = []
        for picture in pictures:
            if self._frames and len(found) == self._frames:
                break
            try:
                found.append(_decoded(files, entry, picture, *self._size))
            except Exception as error:  # whatever is wrong with one picture, the others go on
                why = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
                self._skip(0, f"the picture {picture['key']}: {why}")
        if len(found) < self._least:
            self._skip(1, f"the group {entry['key']}: {len(found)} pictures are whole, least {self._least}")
            return None
        return _together(entry, found)

    def _skip(self, what: int, why: str) -> None:
        worker = get_worker_info()
        self._counts[1 + worker.id if worker else 0, what] += 1
        _log.warning("%s: skipped %s", self._folder, printable(why))

    def _check(self, process: int, processes: int, first: int) -> None:
        if not 0 <= process < processes or first < 0:
            raise ValueError(
                f"Process {process} of {processes}, from {first} on: counted from 0, and below {processes}."
            )


def _decoded(files: Mapping[str, bytes], entry: Entry, picture: Entry, height: int, width: int) -> tuple[Any, ...]:
    """Pixels, caption, words per character and masks of one picture.

    Raises:
        ValueError: If one of its files is missing, damaged, or not the one that was written.
    """
    parts = {}
    for part, expected in picture["sha256"].items():
        content = files.get(f"{picture['key']}.{part}")
        if content is None:
            raise ValueError(f"there is no .{part}")
        if hashlib.sha256(content).hexdigest() != expected:
            raise ValueError(f"its .{part} has another checksum than the manifest")
        parts[part] = content
    image = open_picture(io.BytesIO(parts["png"] if "png" in parts else parts["jpg"]))
    with Image.open(io.BytesIO(parts["mask.png"])) as numbered:
        masks = numbered.copy()
    if masks.size != image.size:
        raise ValueError(f"its mask is {masks.size}, and the picture is {image.size}")
    image, masks = fitted(image, masks, height, width)
    numbers = torch.from_numpy(np.array(masks))
    people = json.loads(parts["json"])["characters"]
    words = [tuple((start, end) for start, end in person["words"]) for person in people]
    return (
        torch.from_numpy(np.asarray(image, dtype=np.float32) / 255),
        parts["txt"].decode(),
        words,
        torch.stack([numbers == number for number in range(1, len(entry["characters"]) + 1)]),
    )


def fitted(image: Image.Image, masks: Image.Image, height: int, width: int) -> tuple[Image.Image, Image.Image]:
    """Picture and masks scaled until they fill a size, and cut to it so that the characters are in the middle."""
    box = masks.getbbox() or (0, 0, *masks.size)
    scale = max(width / image.width, height / image.height)
    sides = width / scale, height / scale
    corner = [
        min(max((low + high - side) / 2, 0), whole - side)
        for low, high, side, whole in zip(box[:2], box[2:], sides, image.size, strict=True)
    ]
    cut = (corner[0], corner[1], corner[0] + sides[0], corner[1] + sides[1])
    resample = Image.Resampling
    return image.resize((width, height), resample.LANCZOS, cut), masks.resize((width, height), resample.NEAREST, cut)


def _together(entry: Entry, found: list[tuple[Any, ...]]) -> Group:
    pictures, captions, words, masks = zip(*found, strict=True)
    return Group(
        names=tuple(character["name"] for character in entry["characters"]),
        pictures=torch.stack(pictures),
        captions=tuple(captions),
        words=tuple(zip(*words, strict=True)),
        masks=torch.stack(masks),
    )
