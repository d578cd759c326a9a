"""Several workers: the same bytes while they are killed, how much faster two are, and what the driver does per second.

Run from the repository, one of

    python -m story_identity.lab.bench.workers kills     # 50 SIGKILLs over ten stories; exit status 1 if bytes differ
    python -m story_identity.lab.bench.workers ratio     # one worker against two, in turns
    python -m story_identity.lab.bench.workers driver    # empty tasks

All draw stories of the toy world with few steps. Times of a machine that has other work to do say little: the load is
printed next to them, and the processor time of the driver, which depends on it less.
"""

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ...core.story import Story
from ...headless.run import run_story
from ...headless.run_folder import Lost
from ...headless.run_settings import RunSettings, toyworld_settings
from ...headless.story_set import StorySet
from ...headless.worker import Done, Failed, Files, Look, MakeFrame, Opened, Task, Worker
from ..evaluation.stories import make_story

_LOG = "begun.log"


class LoggingWorker(Worker):
    """Notes each task that it begins in a file next to the stories."""

    def do(self, task: Task, root: Path, files: Files | None) -> Done | Failed:
        what = f"frame {task.frame.index + 1}" if isinstance(task, MakeFrame) else type(task).__name__
        who = getattr(getattr(task, "person", None), "name", "")
        with (root.parent / _LOG).open("a") as log:
            log.write(f"{root.name} {what} {who}\n")  # one write, so that lines of several processes do not mix
        return super().do(task, root, files)


class IdleWorker(Worker):
    """Does nothing, as fast as it can: all there is to a task is the driver's part and Ray's."""

    def open(self, sign: Path, content: str) -> Opened:
        return Opened("here", os.getpid(), shares_folder=True)

    def do(self, task: Task, root: Path, files: Files | None) -> Done:
        (first := root / "looked").parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(task, Look):
            return Done(None, {})
        is_first = not first.exists()
        first.touch()
        return Done(Lost((), tuple(range(len(task.story.frames))) if is_first else ()), {})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["kills", "ratio", "driver"])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--retries", type=int, default=8)
    parser.add_argument("--stories", type=int, default=10)
    parser.add_argument("--frames", type=int, default=2000, help="Of the empty tasks.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        action: Callable[[argparse.Namespace, Path], bool] = globals()[f"measure_{chosen.what}"]
        sys.exit(0 if action(chosen, Path(place)) else 1)


def measure_kills(chosen: argparse.Namespace, place: Path) -> bool:
    """Make the set again and again until enough workers were killed; whether all bytes are those of one process."""
    stories, settings = _stories(chosen.stories), _settings(chosen.steps)
    for name, story in stories.items():
        run_story(story, settings, place / "alone" / name)
    print(f"{len(stories)} stories, {sum(len(s.frames) for s in stories.values())} frames: drawn by one process")
    moments, left, is_right = random.Random(chosen.seed), chosen.kills, True
    while left > 0:
        out = place / f"killed_{left}"
        made = StorySet(stories, settings, out, retries=chosen.retries, notice=print, worker=LoggingWorker)
        killed: list[int] = []
        stop = threading.Event()
        killer = threading.Thread(target=_kill, args=(made, left, moments, stop, killed))
        killer.start()
        try:
            failures = made.make(2)
        finally:
            stop.set()
            killer.join()
        same = _contents(out, stories) == _contents(place / "alone", stories)
        begun = Counter(line for line in (out / _LOG).read_text().splitlines() if "Look" not in line)
        print(f"{len(killed)} workers killed; failures: {[str(each) for each in failures] or 'none'}")
        print(f"an identity or a frame was begun at most {max(begun.values())} times of {chosen.retries + 1}, ", end="")
        print(f"{sum(begun.values())} beginnings of {len(begun)}; bytes: {'the same' if same else 'DIFFERENT'}")
        is_right = is_right and same and not failures and max(begun.values()) <= chosen.retries + 1
        left -= len(killed)
    return is_right


def _kill(made: StorySet, kills: int, moments: random.Random, stop: threading.Event, killed: list[int]) -> None:
    """Kill a worker, at a random moment, each time that one to three more tasks have been begun."""
    log, awaited = made.out / _LOG, moments.randint(1, 3)
    while len(killed) < kills and not stop.wait(0.05):
        begun = len(log.read_text().splitlines()) if log.exists() else 0
        opened = made.crew.opened if made.crew is not None else []
        ready = [each.process for each in opened if each.process not in killed]
        if begun >= awaited and ready and not stop.wait(moments.uniform(0, 0.5)):
            process = moments.choice(ready)
            with suppress(ProcessLookupError):  # it had ended just now
                os.kill(process, signal.SIGKILL)
                killed.append(process)
                awaited = begun + moments.randint(1, 3)


def measure_ratio(chosen: argparse.Namespace, place: Path) -> bool:
    """The time from the first task to the last result, of one worker and of two, in turns."""
    stories, settings = _stories(chosen.stories), _settings(chosen.steps)
    ratios = []
    for repeat in range(chosen.repeats):
        times = []
        for workers in (1, 2):
            before = os.getloadavg()[0]
            seconds = _timed(StorySet(stories, settings, place / f"{repeat}_{workers}"), workers)
            print(
                f"{workers} workers: {seconds:.1f} s; load average before {before:.1f}, after {os.getloadavg()[0]:.1f}"
            )
            times.append(seconds)
        ratios.append(times[0] / times[1])
    print(f"ratios {', '.join(f'{each:.2f}' for each in ratios)}; median {statistics.median(ratios):.2f}")
    return True


def _timed(made: StorySet, workers: int) -> float:
    """Seconds from the moment when all workers have loaded their models."""
    begun: list[float] = []

    def report(what: str, done: int, total: int) -> None:
        if what == "workers ready" and done == workers and not begun:
            begun.append(time.monotonic())

    made.report = report
    failures = made.make(workers)
    assert not failures, failures
    return time.monotonic() - begun[0]


def measure_driver(chosen: argparse.Namespace, place: Path) -> bool:
    """Empty tasks of one long story."""
    ada = {"name": "Ada", "word": "girl", "description": "a girl"}
    story = Story.parse({"characters": [ada], "frames": ["a beach"] * chosen.frames})
    for repeat in range(chosen.repeats):
        made = StorySet({"": story}, _settings(chosen.steps), place / str(repeat), worker=IdleWorker)
        marks: list[tuple[float, float, int]] = []

        def report(what: str, done: int, total: int, marks: list = marks) -> None:
            if what == "frames" and total:
                marks.append((time.monotonic(), time.process_time(), done))

        made.report = report
        made.make(2)
        (clock, processor, first), (clock_end, processor_end, last) = marks[0], marks[-1]
        tasks, spent = last - first, 1000 * (processor_end - processor)
        print(
            f"{tasks} tasks: {tasks / (clock_end - clock):.0f} per second; {spent / tasks:.2f} ms of the driver's "
            f"processor each; load average {os.getloadavg()[0]:.1f}"
        )
    return True


def _stories(count: int) -> dict[str, Story]:
    return {f"story{number}": make_story(number).story for number in range(count)}


def _settings(steps: int) -> RunSettings:
    few = {"portraits": 8, "portrait_batch": 4, "portrait_steps": 2, "rank": 1, "rounds": 2}
    return toyworld_settings(steps=steps, start=1, on_missing="skip", **few)


def _contents(out: Path, stories: dict[str, Story]) -> dict[str, bytes]:
    """All files of all stories, but for locks."""
    files = (path for name in stories for path in (out / name).rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


if __name__ == "__main__":
    main()
