"""A crew whose workers are objects of this process, so that the order of events is the test's; and a quick worker."""

import queue
from contextlib import contextmanager
from pathlib import Path

from story_identity.headless import story_set
from story_identity.headless.crew import Crew, Died, Event, Pool, Slot
from story_identity.headless.studio import open_studio
from story_identity.headless.worker import Failed, Worker

from tests.headless.stories import PlaceDetector

STUDIOS = {}


class QuickWorker(Worker):
    """With the detector of the tests; models are loaded once for all of them in this process."""

    def _open_studio(self):
        key = repr(self._settings)
        if key not in STUDIOS:
            STUDIOS[key] = open_studio(self._settings, "cpu", PlaceDetector())
        return STUDIOS[key]


class FarWorker(QuickWorker):
    """Does not see the folder of the results."""

    def open(self, sign, content):
        return super().open(Path("/nowhere") / sign.name, content)


class InlineCrew(Crew):
    """`Crew` without Ray.

    Args:
        deaths: Called with the label of a task about to be done; whether its worker ends instead.
    """

    given = []

    def __init__(self, pool, worker, arguments, opening, notice, deaths=lambda label: False):
        super().__init__(pool, worker, arguments, opening, notice)
        self.deaths, self.tasks = deaths, queue.Queue()
        for _ in range(pool.room()):
            slot = Slot(worker(*arguments))
            slot.opened = slot.actor.open(*opening)
            if isinstance(slot.opened, Failed):
                raise ValueError(slot.opened.why)
            self.slots.add(slot)
        self.idle = list(self.slots)

    def grow(self):
        pass

    def close(self):
        pass

    def ask_progress(self, slot):
        slot.progress = slot.actor.progress()

    def give(self, slot, task, *arguments):
        slot.task = task
        self.tasks.put((slot, task, arguments))

    def next_event(self, timeout):
        slot, task, arguments = self.tasks.get_nowait()
        self.given.append(task.label)
        outcome = Died("it is gone.") if self.deaths(task.label) else slot.actor.do(*arguments)
        slot.task = None
        self.idle.append(slot)
        return Event(slot, task, outcome)


def without_ray(monkeypatch, deaths=lambda label: False):
    """Have story sets use inline crews; returns the list of the labels of all tasks, in their order."""

    @contextmanager
    def pool(settings, workers, address):
        yield Pool({"CPU": 1}, workers, "", is_local=True)

    InlineCrew.given = []
    monkeypatch.setattr(story_set, "pool", pool)
    monkeypatch.setattr(story_set, "Crew", lambda *arguments: InlineCrew(*arguments, deaths=deaths))
    return InlineCrew.given
