"""Ctrl-C and SIGTERM end a command alike: what is finished stays, and one line says so.

The exit status is 128 more than the signal's number, as in shells: 130 and 143.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STOPPED = "Stopped. What is finished stays; the same command continues from there."
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which unwinds as Ctrl-C does."""


def exit_status(stop: KeyboardInterrupt) -> int:
    """128 and the number of the signal."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


def stop_at_once_at_signals() -> None:
    """From now on a signal ends the process at once; for the time in which there is nothing to tidy up.

    While modules are imported an exception could come out anywhere in them, or be lost.
    """
    for number in _heard():
        signal.signal(number, _stop_at_once)


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside, the first signal raises KeyboardInterrupt, so that files and the terminal are left tidy.

    The second ends the process at once. Where signals are ignored, or in a thread other than the main one, they are
    left as they are.
    """
    before = {number: signal.getsignal(number) for number in _heard()}

    def stop(number: int, frame: FrameType | None) -> None:
        stop_at_once_at_signals()
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _heard() -> list[signal.Signals]:
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in _SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]


def _stop_at_once(number: int, frame: FrameType | None) -> None:
    with suppress(OSError):
        os.write(2, f"{STOPPED}\n".encode())
    os._exit(128 + number)
