"""SIGTERM and Ctrl-C as a request that the loop looks at between steps, not as an exception in the middle of one."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import numpy as np
from jax.experimental import multihost_utils

from alignjax.parallel.processes import is_multi_process


class Interrupted(SystemExit):
    """The run was asked to stop, has saved and can go on: leaves with 130 for Ctrl-C and 143 for SIGTERM, as a shell
    reports a program that these ended."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(128 + number)
        self.step = step


@dataclasses.dataclass
class StopRequest:
    """A request to stop the run: the number of the signal that made it, else 0."""

    number: int = 0

    def agreed(self, *, ask_all: bool) -> bool:
        """Returns whether to stop now.

        Several processes must stop after the same step, so they ask each other, which costs a round trip: only where
        `ask_all` says so. Where they do, all know the signal afterwards.
        """
        if not is_multi_process():
            return bool(self.number)
        if not ask_all:
            return False
        self.number = int(multihost_utils.process_allgather(np.int32(self.number)).max())
        return bool(self.number)


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Notes the first SIGTERM or Ctrl-C while open; the second ends the process at once, whatever it is doing.

    Checkpoints are complete or absent, so nothing is lost by it. Off the main thread signals are not ours, and nothing
    is noted.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: FrameType | None) -> None:
        stop.number = number
        signal.signal(number, signal.SIG_DFL)  # the system's own: works even while XLA compiles
        # Not through rich: a signal may come while it holds its lock.
        os.write(2, b"\nstopping after this step, then saving; press Ctrl-C again to stop at once\n")

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
