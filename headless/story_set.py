"""Stories made by several workers: identities, then frames as soon as their identities are there, of all stories."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ..core.atomic_files import is_full
from ..core.quoting import printable, quote
from ..core.story import Frame, Story
from .crew import Crew, Died, Event, Slot, pool, sign_in
from .run import ATTEMPTS, check_begun, check_run, check_writable, is_finished, lost_again
from .run_folder import Extent, Lost, RunFolder
from .run_settings import RunSettings
from .studio import Report
from .terminal import in_words
from .worker import Done, Failed, Files, FindIdentity, Look, MakeFrame, Task, Worker

_SHOWN_WORKERS = 8
_PAUSE = 0.5
_OTHER_FILES = 1024
_STORIES, _IDENTITIES, _FRAMES = "stories", "identities", "frames"


@dataclass(frozen=True)
class Failure:
    """What was not made; `story` is empty where there is one story only, `what` where all of a story is meant."""

    story: str
    what: str
    why: str

    def __str__(self) -> str:
        return ": ".join(part for part in (printable(self.story), self.what, self.why) if part)


@dataclass(eq=False)
class _Work:
    """A story at work.

    Args:
        name: What messages call it.
        story: The story.
        folder: Where its files go.
        missing: The characters whose identities are to be found before the frames of `waiting` can be made.
        waiting: Those frames.
        open: How many tasks are queued or given out.
        looks: How often the folder was looked through after something was made.
        failures: What was not made.
        is_stopped: Whether nothing more of it is to be made.
    """

    name: str
    story: Story
    folder: RunFolder
    missing: set[str] = field(default_factory=set)
    waiting: list[Frame] = field(default_factory=list)
    open: int = 0
    looks: int = 0
    failures: list[Failure] = field(default_factory=list)
    is_stopped: bool = False

    def fail(self, what: str, why: str) -> None:
        self.failures.append(Failure(self.name, what, why))


@dataclass(eq=False)
class _Job:
    """A task of a story, what messages call it, and how often a worker ended at it."""

    work: _Work
    task: Task
    label: str
    deaths: int = 0


class StorySet:
    """Stories that several workers make, with one set of settings.

    The bytes are those of `run_story`: workers call what it calls, each with the CPU threads of the settings. What is
    there and whole is not made again. Where a worker does not see the folder, its files come back as bytes.

    Args:
        stories: By name; the folder of each is below `out`. A single story with the name "" has `out` itself.
        settings: How to draw.
        out: Where the folders are.
        overwrite: Start over, as in `run_story`.
        retries: How often a task is given out again whose worker ended.
        report: Receives how far stories and workers are.
        notice: Receives sentences, about workers that ended.
        worker: The class that does the work.
    """

    def __init__(
        self,
        stories: Mapping[str, Story],
        settings: RunSettings,
        out: Path,
        *,
        overwrite: bool = False,
        retries: int = 3,
        report: Report = lambda what, done, total: None,
        notice: Callable[[str], None] = lambda sentence: None,
        worker: type = Worker,
    ) -> None:
        self.settings, self.out, self.overwrite, self.retries = settings, out.absolute(), overwrite, retries
        self.report, self.notice, self.worker = report, notice, worker
        self.crew: Crew | None = None
        self._works = [_Work(name, story, RunFolder(self.out / name)) for name, story in stories.items()]
        self._queues: dict[type, deque[_Job]] = {kind: deque() for kind in (Look, FindIdentity, MakeFrame)}
        self._unchecked: set[_Work] = set()
        self._checked: list[tuple[_Work, Lost]] = []
        self._open = 0
        self._done = dict.fromkeys((_STORIES, _IDENTITIES, _FRAMES), 0)
        self._total = {**self._done, _STORIES: len(self._works)}
        self._shown: set[str] = set()

    def make(self, workers: int | None = None, address: str | None = None) -> list[Failure]:
        """Make everything that the folders lack.

        Args:
            workers: How many; None, with an address, for as many as the cluster has room for.
            address: Of a Ray cluster; None for this machine.

        Returns:
            What could not be made, and why. A story that is refused is among them, unless it is the only one.

        Raises:
            ValueError, OSError: Before anything is drawn, for what is wrong with the settings, with Ray, with the
                loading of models, or with the only story or its folder.
        """
        if self.settings.together:
            raise ValueError(
                "Frames that are drawn together are one piece of work: leave out --workers and --ray, or --together."
            )
        _allow_open_files(len(self._works) + _OTHER_FILES)
        with ExitStack() as stack:
            self._unchecked = {work for work in self._works if self._admit(work, stack)}
            for work in self._works:
                if work in self._unchecked:
                    self._queue(work, Look(work.story), "")
            if self._unchecked:
                self._produce(workers, address)
        return [failure for work in self._works for failure in work.failures]

    def _admit(self, work: _Work, stack: ExitStack) -> bool:
        """Keep other runs out of a story's folder, and check both as far as that goes without models.

        Returns:
            Whether there may be something to make.
        """
        try:
            check_run(work.story, self.settings)
            obstacle = stack.enter_context(work.folder.locked())
            known = work.folder, work.story, self.settings, self.overwrite
            if obstacle is not None or len(self._works) == 1:
                if is_finished(*known, obstacle):
                    self._done[_STORIES] += 1
                    return False
            else:  # workers look, since to read all files of many stories takes long
                check_begun(*known)
                check_writable(*known, None)
        except (ValueError, OSError) as error:
            self._refuse(work, in_words(error))
            return False
        return True

    def _refuse(self, work: _Work, why: str) -> None:
        """Leave a story out, or raise a ValueError if it is the only one."""
        if len(self._works) == 1:
            raise ValueError(why)
        work.fail("", why)

    def _produce(self, workers: int | None, address: str | None) -> None:
        record = self.settings.record()
        with sign_in(self.out) as sign, pool(self.settings, workers, address) as found:
            if found.dashboard:
                self.notice(f"Ray's dashboard: http://{found.dashboard}")
            self.crew = crew = Crew(found, self.worker, (self.settings, record, Path.cwd()), sign, self.notice)
            try:
                self._loop(crew)
            finally:
                crew.close()
                for work, _ in self._checked:
                    work.folder.remove_unfinished(Extent.of(work.story, self.settings))

    def _loop(self, crew: Crew) -> None:
        next_report = 0.0
        while self._open:
            crew.grow()
            while crew.idle and (job := self._next_job()) is not None:
                slot = crew.idle.pop()
                crew.give(slot, job, job.task, job.work.folder.root, _read_by(job, slot))
            if (event := crew.next_event(_PAUSE)) is not None:
                self._take(event)
            if time.monotonic() >= next_report:
                next_report = time.monotonic() + _PAUSE
                self._tell(crew)

    def _queue(self, work: _Work, task: Task, label: str) -> None:
        self._queues[type(task)].append(_Job(work, task, label))
        work.open += 1
        self._open += 1

    def _next_job(self) -> _Job | None:
        """Identities come before frames, so that no worker waits for one in the end; nothing before all is checked."""
        for kind, queue in self._queues.items():
            while queue and (kind is Look or not self._unchecked):
                job = queue.popleft()
                if not job.work.is_stopped:
                    return job
                self._close(job)
        return None

    def _take(self, event: Event) -> None:
        """Keep what a worker made; a task whose worker ended is given out again."""
        job, outcome = event.task, event.outcome
        if isinstance(outcome, Died):
            job.deaths += 1
            if job.deaths <= self.retries:
                self.notice(f"{Failure(job.work.name, job.label, outcome.why)} Another worker does it again.")
                self._queues[type(job.task)].appendleft(job)
                return
            outcome = Failed(f"it ended its worker {job.deaths} times, the last time so: {outcome.why}")
        if isinstance(outcome, Done):
            try:
                _keep(job, outcome.files)
            except OSError as error:
                outcome = Failed(in_words(error), is_full(error))
        if isinstance(outcome, Failed):
            self._failed(job, outcome)
        elif isinstance(job.task, Look):
            self._looked(job.work, outcome.found, event.slot)
        elif isinstance(job.task, FindIdentity):
            self._found(job.work, job.task.person.name)
        else:
            self._done[_FRAMES] += 1
        self._close(job)

    def _close(self, job: _Job) -> None:
        """A task needs no more attention; after the last one of a story, see whether all is there."""
        work = job.work
        work.open -= 1
        self._open -= 1
        if work.open or isinstance(job.task, Look):
            return
        if work.failures:
            self._finish(work)
        else:
            self._queue(work, Look(work.story), "")

    def _looked(self, work: _Work, lost: Lost, slot: Slot) -> None:
        """Queue what a story lacks; at first only after all stories are checked."""
        if not _sees_folder(slot):
            lost = work.folder.lost_parts(work.story, self.settings)
        if work in self._unchecked:
            self._checked.append((work, lost))
            self._was_checked(work)
        else:
            self._queue_lost(work, lost)

    def _was_checked(self, work: _Work) -> None:
        self._unchecked.discard(work)
        for each, lost in self._checked if not self._unchecked else ():
            try:
                each.folder.prepare(each.story, self.settings, self.overwrite)
            except (ValueError, OSError) as error:
                self._refuse(each, in_words(error))
            else:
                self._queue_lost(each, _all_of(each.story, self.settings) if self.overwrite else lost)

    def _queue_lost(self, work: _Work, lost: Lost) -> None:
        work.looks += 1
        if not lost.names and not lost.frames:
            self._finish(work)
            return
        if work.looks > ATTEMPTS:
            paths = [*map(work.folder.identity, lost.names), *map(work.folder.frame, lost.frames)]
            work.fail("", str(lost_again(work.folder, paths)))
            self._finish(work)
            return
        numbers = {person.name: number for number, person in enumerate(work.story.characters)}
        work.missing = set(lost.names)
        for name in lost.names:
            person = work.story.characters[numbers[name]]
            self._queue(work, FindIdentity(person, numbers[name]), f"the identity of {quote(name)}")
        self._total[_IDENTITIES] += len(lost.names)
        self._total[_FRAMES] += len(lost.frames)
        work.waiting = [work.story.frames[index] for index in lost.frames]
        self._queue_ready(work)

    def _queue_ready(self, work: _Work) -> None:
        """Queue the frames whose identities are there."""
        waiting, work.waiting = work.waiting, []
        numbers = {person.name: number for number, person in enumerate(work.story.characters)}
        for frame in waiting:
            if any(person.name in work.missing for person in frame.cast):
                work.waiting.append(frame)
            else:
                self._queue(work, MakeFrame(frame, tuple(numbers[person.name] for person in frame.cast)), frame.label)

    def _found(self, work: _Work, name: str) -> None:
        self._done[_IDENTITIES] += 1
        work.missing.discard(name)
        self._queue_ready(work)

    def _failed(self, job: _Job, failed: Failed) -> None:
        """Note what was not made, and what cannot be made without it."""
        work, why = job.work, failed.why
        if isinstance(job.task, Look):
            self._refuse(work, why)
            self._was_checked(work)
            return
        work.is_stopped = work.is_stopped or failed.disk_is_full
        if isinstance(job.task, FindIdentity):
            name = job.task.person.name
            left = [frame for frame in work.waiting if work.is_stopped or frame.appearance_of(name)]
            work.waiting = [frame for frame in work.waiting if frame not in left]
            if left:
                why = f"{why.rstrip('.')}; without it there is no {', '.join(frame.label for frame in left)}."
        work.fail(job.label, why)

    def _finish(self, work: _Work) -> None:
        self._done[_STORIES] += 1
        try:
            work.folder.write_manifest(work.story, self.settings)
        except (ValueError, OSError) as error:
            work.fail("", in_words(error))

    def _tell(self, crew: Crew) -> None:
        """Report how far all is, and what the first workers are at."""
        self.report("workers ready", len(crew.opened), len(crew.slots))
        for what, done in self._done.items():
            self.report(what, done, self._total[what])
        shown: dict[str, tuple[int, int]] = {}
        for slot in [slot for slot in crew.slots if slot.task is not None][:_SHOWN_WORKERS]:
            crew.ask_progress(slot)
            if slot.progress is not None:
                what, done, total = slot.progress
                shown[str(Failure(slot.task.work.name, what, ""))] = done, total
        for name in self._shown - shown.keys():
            self.report(name, 1, 1)  # the worker is at something else now, or gone
        for name, counts in shown.items():
            self.report(name, *counts)
        self._shown = set(shown)


def _sees_folder(slot: Slot) -> bool:
    return slot.opened is not None and slot.opened.shares_folder


def _read_by(job: _Job, slot: Slot) -> Files | None:
    """What a worker that does not see the folder reads of it; None for one that does."""
    if _sees_folder(slot):
        return None
    folder = job.work.folder
    cast = job.task.frame.cast if isinstance(job.task, MakeFrame) else ()
    paths = [path for path in (folder.identity(person.name) for person in cast) if path.is_file()]
    return {path.relative_to(folder.root).as_posix(): path.read_bytes() for path in paths}


def _keep(job: _Job, files: Files) -> None:
    """Write what a worker sent back, where it is missing or damaged."""
    folder, task = job.work.folder, job.task
    if isinstance(task, FindIdentity):
        folder.keep_identity(task.person.name, files)
    elif isinstance(task, MakeFrame):
        folder.keep(files)


def _all_of(story: Story, settings: RunSettings) -> Lost:
    extent = Extent.of(story, settings)
    return Lost(extent.names, tuple(range(extent.frames)))


def _allow_open_files(count: int) -> None:
    """Raise this process's limit, as far as the system lets it: the lock of each story's folder is an open file."""
    try:
        import resource
    except ModuleNotFoundError:  # not on Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
