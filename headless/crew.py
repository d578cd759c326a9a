"""Workers on Ray: processes of this machine or of a cluster, each with its models loaded; one that ends is replaced.

Ray (https://docs.ray.io) starts the processes, finds out which of them are gone, and carries tasks and results. Which
task is next is decided in `story_set`.
"""

import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import torch

from ..core.atomic_files import atomic_write
from ..core.quoting import printable, quote
from .run_settings import RunSettings
from .worker import Done, Failed, Opened

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to Ray's makers
    "RAY_AUTH_MODE": "token",  # only who can read ~/.ray/auth_token gives tasks
    "RAY_worker_niceness": "0",  # workers have the priority of the command itself
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_worker_register_timeout_seconds": "600",  # on a machine that is busy the start of one takes its time
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # its processes listen on 127.0.0.1 only, on Linux too
}
_OBJECTS = 100 * 2**20  # bytes; tasks and results are small where the folder is shared
_OPENINGS = 10
_STARTS = 3  # Ray gives itself half a minute, which can be too short on a busy machine
_GROWTH = 5.0
_GOING = 10.0


@dataclass(frozen=True)
class Pool:
    """Where workers run.

    Args:
        needs: What one takes of Ray's resources, "CPU" and perhaps "GPU".
        most: How many there are to be; None for as many as the cluster has room for.
        dashboard: The address of Ray's dashboard; empty where that is not installed.
        is_local: Whether it is this machine alone.
    """

    needs: Mapping[str, int]
    most: int | None
    dashboard: str
    is_local: bool

    def room(self) -> int:
        """How many workers there may be at present."""
        if self.is_local and self.most is not None:
            return self.most
        found = import_ray().cluster_resources()
        fitting = min(int(found.get(name, 0)) // count for name, count in self.needs.items())
        return fitting if self.most is None else min(self.most, fitting)


def import_ray() -> Any:
    """Ray, which only work with several workers needs.

    Raises:
        ValueError: If it is not installed; it gives the command.
    """
    try:
        import ray
    except ModuleNotFoundError as missing:
        raise ValueError('Several workers need Ray: pip install "storyidentity[cluster]"') from missing
    return ray


@contextmanager
def pool(settings: RunSettings, workers: int | None, address: str | None) -> Iterator[Pool]:
    """Start Ray on this machine, or join a cluster; inside, what Ray itself writes to stdout is left out.

    A program that has called `ray.init` itself stays connected as it is.

    Args:
        settings: Of the run: the device, and the CPU threads of each worker.
        workers: How many; None for as many as the cluster has room for.
        address: Of the cluster; None starts Ray on this machine, where only its own users reach it.

    Raises:
        ValueError: If Ray is not installed, or the cluster cannot be reached or has no room for a worker.
    """
    if address is None:
        _check_gpus(settings, workers or 1)
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
    ray, on_gpu = import_ray(), settings.device != "cpu"
    needs = {"CPU": settings.threads, **({"GPU": 1} if on_gpu else {})}
    begun = not ray.is_initialized()
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        try:
            with _own_signals():
                dashboard = _connect(ray, needs, workers, address) if begun else ""
            found = Pool(needs, workers, dashboard, is_local=begun and address is None)
            if not found.room():
                raise ValueError(
                    f"The cluster has no room for a worker, which takes "
                    f"{' and '.join(f'{count} {name}' for name, count in needs.items())}."
                )
            yield found
        finally:
            if begun:
                ray.shutdown()


@contextmanager
def _own_signals() -> Iterator[None]:
    """What SIGTERM does afterwards is what it did before: Ray would have it end the process without tidying up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_gpus(settings: RunSettings, workers: int) -> None:
    present = torch.cuda.device_count()
    if settings.device != "cpu" and workers > present:
        raise ValueError(f"{workers} workers need a GPU each, but there are {present}: give --workers {present}.")


def _connect(ray: Any, needs: Mapping[str, int], workers: int | None, address: str | None) -> str:
    """Start or join; returns the dashboard's address."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    count = workers or 1
    local = {"num_cpus": needs["CPU"] * count, "num_gpus": needs.get("GPU", 0) * count, "object_store_memory": _OBJECTS}
    begin = partial(ray.init, "local", **local, **quiet) if address is None else partial(ray.init, address, **quiet)
    what = "Ray cannot be started" if address is None else f"No Ray cluster answers at {quote(address)}"
    tries = _STARTS if address is None else 1
    while True:
        try:
            return begin().dashboard_url or ""
        except Exception as error:  # Ray raises plain ones too, where a process of its own does not start in time
            ray.shutdown()
            tries -= 1
            if not tries:
                reason = printable(str(error).strip().partition("\n")[0], 300)
                raise ValueError(f"{what}: {reason}") from error


@dataclass(frozen=True)
class Died:
    """The worker ended while it was at a task, or raised what is no mistake of the user's."""

    why: str


@dataclass(eq=False)
class Slot:
    """One worker; `opened` is None until its models are loaded, `task` while it has none."""

    actor: Any
    opened: Opened | None = None
    task: Any = None
    progress: tuple[str, int, int] | None = None
    is_asked: bool = False


@dataclass(frozen=True)
class Event:
    """A worker came to the end of a task."""

    slot: Slot
    task: Any
    outcome: Done | Failed | Died


@dataclass
class Crew:
    """All workers.

    Args:
        pool: Where they run.
        worker: Their class: `Worker`, or one with the same methods.
        arguments: What it is made with.
        opening: What its `open` is called with.
        notice: Called with sentences about workers that end.
    """

    pool: Pool
    worker: type
    arguments: tuple
    opening: tuple
    notice: Callable[[str], None]
    slots: set[Slot] = field(default_factory=set)
    idle: list[Slot] = field(default_factory=list)
    _actor: Any = None
    _refused: list[str] = field(default_factory=list)
    _ended_at_opening: int = 0
    _next_growth: float = 0.0
    _events: Queue = field(default_factory=Queue)

    @property
    def opened(self) -> list[Opened]:
        """The workers that are at work or can be."""
        return [slot.opened for slot in list(self.slots) if slot.opened is not None]

    def grow(self) -> None:
        """Add workers for which there is room, at most every few seconds."""
        if time.monotonic() < self._next_growth:
            return
        self._next_growth = time.monotonic() + _GROWTH
        for _ in range(self.pool.room() - len(self.slots) - len(self._refused)):
            self._add()

    def give(self, slot: Slot, task: Any, *arguments: Any) -> None:
        """Have an idle worker do something; `task` is what the event will say it was."""
        slot.task = task
        self._call(slot, "do", *arguments)

    def ask_progress(self, slot: Slot) -> None:
        """Ask what a worker is at, which `Slot.progress` says as soon as it has answered."""
        if not slot.is_asked:
            slot.is_asked = True
            self._call(slot, "progress")

    def next_event(self, timeout: float) -> Event | None:
        """Wait for a worker to come to the end of its task; None where nothing like that happened.

        Raises:
            ValueError: If no worker can load the models.
        """
        try:
            slot, what, future = self._events.get(timeout=timeout)
        except Empty:
            return None
        if slot not in self.slots:
            return None
        error = future.exception()
        if what == "progress":
            slot.is_asked = False
            slot.progress = slot.progress if error else future.result()
            return None
        if what == "open":
            self._opened(slot, future, error)
            return None
        task, slot.task, slot.progress = slot.task, None, None
        if error is None:
            self.idle.append(slot)
            return Event(slot, task, future.result())
        self._replace(slot)
        return Event(slot, task, Died(_reason(error)))

    def close(self) -> None:
        """End all workers; those of this machine are gone when it returns."""
        ray, here = import_ray(), socket.gethostname()
        processes = [each.process for each in self.opened if each.host == here]
        for slot in self.slots:
            ray.kill(slot.actor)
        end = time.monotonic() + _GOING
        while any(map(_runs, processes)) and time.monotonic() < end:
            time.sleep(0.05)

    def _add(self) -> None:
        if self._actor is None:
            needs = self.pool.needs
            self._actor = (
                import_ray()
                .remote(self.worker)
                .options(
                    num_cpus=needs["CPU"],
                    num_gpus=needs.get("GPU", 0),
                    max_restarts=0,
                    max_concurrency=2,  # a task, and the question how far it is
                )
            )
        slot = Slot(self._actor.remote(*self.arguments))
        self.slots.add(slot)
        self._call(slot, "open", *self.opening)

    def _call(self, slot: Slot, method: str, *arguments: Any) -> None:
        future = getattr(slot.actor, method).remote(*arguments).future()
        future.add_done_callback(lambda done: self._events.put((slot, method, done)))

    def _opened(self, slot: Slot, future: Any, error: BaseException | None) -> None:
        outcome = future.result() if error is None else None
        if isinstance(outcome, Opened):
            slot.opened, self._ended_at_opening = outcome, 0
            self.idle.append(slot)
        elif isinstance(outcome, Failed):
            self._remove(slot)
            self._refused.append(outcome.why)
            if not self.slots:
                raise ValueError(outcome.why)
            self.notice(f"A worker is left out. {outcome.why}")
        elif error is not None:
            self._ended_at_opening += 1
            if self._ended_at_opening >= _OPENINGS:
                raise ValueError(
                    f"{_OPENINGS} workers in a row ended while they loaded the models: {_reason(error)} Fewer workers "
                    "need less memory."
                )
            self._replace(slot)

    def _replace(self, slot: Slot) -> None:
        self._remove(slot)
        self._add()

    def _remove(self, slot: Slot) -> None:
        import_ray().kill(slot.actor)  # it may still be there, if it cannot be reached or raised something
        self.slots.discard(slot)


def _reason(error: BaseException) -> str:
    """Why a call of a worker did not come to its end."""
    cause = getattr(error, "cause", None)
    if cause is not None:
        return f"{type(cause).__name__}: {printable(str(cause), 300)}"
    return f"its process is gone ({type(error).__name__})."


def _runs(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


@contextmanager
def sign_in(folder: Path) -> Iterator[tuple[Path, str]]:
    """A file by which workers find out whether they see a folder, and what is in it.

    It has one name, so that the next command takes away what a killed one left. Of two commands in one folder the
    workers of the first may then not know it, and send their files back.
    """
    content, path = uuid.uuid4().hex, folder / ".workers"
    with atomic_write(path) as temporary:
        temporary.write_text(content)
    try:
        yield path, content
    finally:
        with suppress(FileNotFoundError):
            if path.read_text() == content:
                path.unlink()
