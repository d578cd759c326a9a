"""A limit to the time that a training may take."""

import time

from accelerate.utils import broadcast_object_list


class TimeLimit:
    """How much of the time that a training may take is spent; a limit of 0 minutes is none."""

    def __init__(self, minutes: float | int) -> None:
        self._limit, self._started = 60 * minutes, 0.0

    def start(self, spent: float) -> None:
        """Start the clock, with the seconds that were spent before."""
        self._started = time.monotonic() - spent

    @property
    def spent(self) -> float:
        """The seconds since the start of the training, without those in which it was stopped."""
        return time.monotonic() - self._started

    def share(self) -> float:
        """The spent share of the limit, the same in all processes; above 1 the time is over."""
        if not self._limit:
            return 0.0
        found = [self.spent / self._limit]
        broadcast_object_list(found)
        return found[0]
