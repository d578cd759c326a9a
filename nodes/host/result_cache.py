"""Results of frames, kept from run to run.

ComfyUI drops a result that is not of the workflow it was sent, as those of copies are, once another story runs. Here
they are kept, bounded, in memory, and what arrives at Collect Frames also on the disk. Nothing is kept of any node but
the copies that `expansion` makes.
"""

import hashlib
import inspect
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import comfy.cli_args
import comfy.model_management
import comfy.samplers
import folder_paths
import psutil
import torch
from aiohttp import web
from comfyui_version import __version__ as comfyui_version
from server import PromptServer

from ...core.kept_values import is_storable, load_value, save_value, size_of
from ...core.quoting import printable, quote

MEMORY_VARIABLE, DISK_VARIABLE = "STORY_IDENTITY_MEMORY_GIB", "STORY_IDENTITY_DISK_GIB"
"""Environment variables: how much may be kept in memory and on the disk; 0 switches it off."""

_GIB = 1024**3
_SHARE = 0.25
"""Of the memory that is free, what is kept in memory counted as free."""

_DISK_GIB = 2.0
_ABANDONED_SECONDS = 3600
"""A file that is still unfinished after so long is one that a killed server left."""

_ARGUMENTS = (
    "fp",
    "bf16",
    "attention",
    "precision",
    "deterministic",
    "cpu",
    "fast",
    "directml",
    "vae",
    "unet",
    "force",
)
"""Parts of the names of ComfyUI's arguments by which a result may change in its last bits."""

Value = list[Any]
"""The values of a node's output: one, or more where the output is a list."""


class KeptInMemory:
    """Values by key, least recently used first out; intermediate ones before those that a frame comes to.

    Args:
        budget: How many bytes may be kept now.
    """

    def __init__(self, budget: Callable[[int], int]) -> None:
        self._budget, self._lock = budget, Lock()  # ComfyUI's server, which may clear it, is another thread
        self._values: dict[bool, OrderedDict[str, tuple[Value, int]]] = {False: OrderedDict(), True: OrderedDict()}
        self.size = 0

    def get(self, key: str) -> Value | None:
        with self._lock:
            for values in self._values.values():
                if key in values:
                    values.move_to_end(key)
                    return values[key][0]
        return None

    def put(self, key: str, value: Value, size: int, is_result: bool) -> None:
        budget = self._budget(self.size)
        with self._lock:
            if size > budget or any(key in values for values in self._values.values()):
                return
            self._values[is_result][key] = value, size
            self.size += size
            while self.size > budget:
                oldest = self._values[not self._values[False]]
                self.size -= oldest.popitem(last=False)[1][1]

    def clear(self) -> None:
        with self._lock:
            for values in self._values.values():
                values.clear()
            self.size = 0


class KeptOnDisk:
    """Values as files by key in one folder, those not used for longest deleted first.

    Args:
        folder: Where they lie; it holds nothing else.
        limit: How many bytes they may take together.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._size: int | None = None

    def get(self, key: str) -> Value | None:
        path = self._path(key)
        if self._limit <= 0 or not path.is_file():
            return None
        try:
            value = load_value(path)
            os.utime(path)
        except (OSError, ValueError) as problem:
            logging.warning("Collect Frames: %s The frame is made again.", printable(str(problem)))
            path.unlink(missing_ok=True)
            return None
        return value

    def put(self, key: str, value: Value, size: int) -> None:
        path = self._path(key)
        if size > self._limit or not is_storable(value) or path.is_file():
            return
        try:
            save_value(path, value)
        except OSError as problem:
            logging.warning("Collect Frames: a finished frame is not kept on the disk. %s", printable(str(problem)))
            return
        with suppress(FileNotFoundError):
            size = path.stat().st_size
        self._size = None if self._size is None else self._size + size
        if self._size is None or self._size > self._limit:
            self._make_room()

    def clear(self) -> None:
        for path in (*self._files(), *self._folder.glob("??/.unfinished-*.tmp")):
            path.unlink(missing_ok=True)
        self._size = 0

    @property
    def size(self) -> int:
        return sum(size for _, size, _ in self._states())

    def _make_room(self) -> None:
        for left in self._folder.glob("??/.unfinished-*.tmp"):  # by servers that were killed, not those that write
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                    left.unlink()
        files = sorted(self._states())
        self._size = sum(size for _, size, _ in files)
        for _, size, path in files:
            if self._size <= self._limit:
                break
            path.unlink(missing_ok=True)
            self._size -= size

    def _states(self) -> Iterator[tuple[int, int, Path]]:
        """When each file was used last, and its size; another server may delete one meanwhile."""
        for path in self._files():
            with suppress(FileNotFoundError):
                state = path.stat()
                yield state.st_mtime_ns, state.st_size, path

    def _files(self) -> list[Path]:
        return list(self._folder.glob("??/*.safetensors"))

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.safetensors"


def _is_plain_sampler(part: object) -> bool:
    """Whether it is a sampler of the host's, which a noisy latent cache names, with nothing in it but settings."""
    if type(part) is not comfy.samplers.KSAMPLER:
        return False
    if getattr(inspect.unwrap(part.sampler_function), "__closure__", None):
        return False  # a function that remembers something, perhaps a model
    return size_of([part.extra_options, part.inpaint_options]) is not None


class FrameResults:
    """What frames came to, by the keys of `result_keys`."""

    def __init__(self, memory: KeptInMemory, disk: KeptOnDisk) -> None:
        self.memory, self.disk = memory, disk

    def get(self, key: str, on_disk: bool) -> Value | None:
        """The values of a node's output, one or more; None if they are not kept."""
        found = self.memory.get(key)
        return self.disk.get(_durable(key)) if found is None and on_disk else found

    def put(self, key: str, value: Value, on_disk: bool) -> None:
        """Keep the values of a node's output, if they are such as may be kept."""
        size = size_of(value, _is_plain_sampler)
        if size is None:
            return
        self.memory.put(key, value, size, is_result=on_disk)
        if on_disk:
            self.disk.put(_durable(key), value, size)

    def clear(self) -> None:
        """Forget everything, in memory and on the disk."""
        self.memory.clear()
        self.disk.clear()


@cache
def frame_results() -> FrameResults:
    """The results of this process, kept as the environment wants it.

    Raises:
        ValueError: If a variable is no number of GiB.
    """
    usual = 0.0 if comfy.cli_args.args.cache_none else _DISK_GIB
    memory, disk = _gib(MEMORY_VARIABLE), _gib(DISK_VARIABLE)

    def budget(kept: int) -> int:
        share = 0.0 if comfy.cli_args.args.cache_none else _SHARE
        return int(share * (psutil.virtual_memory().available + kept)) if memory is None else memory

    folder = Path(folder_paths.get_user_directory()) / "story_identity" / "frames"
    return FrameResults(KeptInMemory(budget), KeptOnDisk(folder, int(usual * _GIB) if disk is None else disk))


def _gib(variable: str) -> int | None:
    text = os.environ.get(variable, "").strip()
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e6:
        raise ValueError(f"{variable} is {quote(text)}; it must be a number of GiB from 0, which keeps nothing.")
    return int(number * _GIB)


def _durable(key: str) -> str:
    """The key of a file: ComfyUI's, and what else a result depends on that may change from one start to the next."""
    arguments = vars(comfy.cli_args.args).items()
    chosen = [f"{name}={value}" for name, value in sorted(arguments) if any(part in name for part in _ARGUMENTS)]
    device = comfy.model_management.get_torch_device()
    here = [comfyui_version, torch.__version__, str(device), str(torch.get_num_threads()), *chosen]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return hashlib.sha256("\n".join([key, name, *here]).encode()).hexdigest()


def add_routes(server: PromptServer) -> None:
    """How much is kept, and how to forget it: GET and DELETE of /story_identity/finished_frames."""
    path = "/story_identity/finished_frames"

    @server.routes.get(path)
    async def sizes(_: web.Request) -> web.Response:
        results = frame_results()
        return web.json_response({"memory": results.memory.size, "disk": results.disk.size})

    @server.routes.delete(path)
    async def forget(_: web.Request) -> web.Response:
        frame_results().clear()
        return web.json_response({"memory": 0, "disk": 0})
