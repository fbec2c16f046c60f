"""Limits on what rendering a chat template may take of a process: computing time for a row, and memory."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable
from typing import Any

with contextlib.suppress(ImportError):  # not on Windows
    import resource

SECONDS = 0.5  # of computing for one row, after which Python is interrupted: twice that at most; the process ends later
MEBIBYTES = 1024  # of address space of this process


class Spent(BaseException):
    """Says that the time of a row is over. No Exception, so that nothing in Jinja takes it for an error of its own."""


def limit_memory() -> bool:
    """Limits the address space of this process and what it may leave on disk, where the system has such limits; says
    whether it has one on memory."""
    limited = False
    for name, most in (("RLIMIT_CORE", 0), ("RLIMIT_FSIZE", 0), ("RLIMIT_AS", MEBIBYTES * 2**20)):
        try:
            resource.setrlimit(getattr(resource, name), (most, most))
            limited = name == "RLIMIT_AS" and sys.platform != "darwin"  # which takes the number and does nothing
        except (NameError, AttributeError, ValueError, OSError):  # no module, no such limit, or a lower one
            pass
    return limited


class Clock:
    """Notices when one piece of work takes all of SECONDS, and raises Spent in it: nothing is asked of the system for
    each row, a timer looks whether the work is still the one that it saw last.

    A single operation of C cannot be interrupted so; it meets the limit of the process, which every look puts off.
    """

    def __init__(self) -> None:
        self.work, self.seen = 0, 0
        if "resource" in globals():
            self.put_off()
            signal.signal(signal.SIGPROF, self.look)
            signal.setitimer(signal.ITIMER_PROF, SECONDS, SECONDS)

    def put_off(self) -> None:
        """Moves the limit of the process on, to more than two looks from now."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime + 2 * SECONDS) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))

    def look(self, *_: Any) -> None:
        """Raises Spent if the work is the one of the last look."""
        self.put_off()
        spent, self.seen = self.work and self.work == self.seen, self.work
        if spent:
            raise Spent

    def go_on(self) -> None:
        """Gives the piece of work its time anew."""
        self.seen = 0

    def limited(self, number: int, work: Callable[[], Any]) -> Any:
        """Returns what a piece of work returns, or raises Spent; `number` is another one for each."""
        self.work = number
        try:
            return work()
        finally:
            self.work = 0
