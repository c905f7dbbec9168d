"""A run that is told to end: Ctrl-C, a batch system's SIGTERM or SIGUSR1, or the hours that it was given.

All are one KeyboardInterrupt in the main thread, so that what is committed stays and what is begun is left
as a kill would leave it. A second signal changes nothing while the first is obeyed; a third ends the process
and its children at once.
"""

import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import psutil

from probecache.store.errors import InputError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM)


class Stop:
    """What has been heard since `listening` began: how many signals, and the first of them."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.count = 0
        self.first: signal.Signals | None = None

    def hear(self, number: int, frame: FrameType | None = None) -> None:
        if os.getpid() != self.process:  # forked from it, and ended by it: only a request to it alone counts
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        self.count += 1
        if self.count == 1:
            self.first = signal.Signals(number)
            raise KeyboardInterrupt
        if self.count > 2:
            for child in psutil.Process().children(recursive=True):
                child.kill()
            os._exit(self.code)

    @property
    def code(self) -> int:
        """128 + the signal's number; 130 for Ctrl-C and where the hours are over."""
        number = signal.SIGINT if self.first in (None, signal.SIGALRM) else self.first
        return 128 + int(number or signal.SIGINT)

    def __str__(self) -> str:
        why = "interrupted" if self.first in (None, signal.SIGINT) else f"stopped by {self.first.name}"
        why = "--max-hours are over" if self.first == signal.SIGALRM else why
        return f"{why}; what was committed is kept, the same command continues"


@contextmanager
def listening() -> Iterator[Stop]:
    """Hear the signals; one that is ignored already (nohup) stays so. Only a main thread can."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heard = [number for number in SIGNALS if before[number] != signal.SIG_IGN]
    for number in heard:
        signal.signal(number, stop.hear)
    try:
        yield stop
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in heard:
            signal.signal(number, before[number])


def end_after(hours: float | None) -> None:
    """End this run as Ctrl-C does once so many hours are over; InputError for what is no time."""
    if hours is None:
        return
    if not 0 < hours < math.inf:
        raise InputError(f"got --max-hours {hours:g}; allowed: hours above 0, such as 3.5")
    signal.setitimer(signal.ITIMER_REAL, 3600 * hours)
