"""Calls of a person's function: in threads, with a timeout, retries and a bound on how many run at a time."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import copy
import inspect
import math
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignjax.config import shown
from alignjax.stages.text_functions import name_of

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between two attempts
LARGEST = float(np.finfo(np.float32).max)
SHOWN = 60  # characters of a prompt, or of a value, in a message
# Folders of code that no person wrote for this run: Python's, this package, and what is installed.
LIBRARIES = (sysconfig.get_path("stdlib"), str(Path(__file__).parents[1]))
INSTALLED = {"site-packages", "dist-packages"}


class RewardError(RuntimeError):
    """A person's function did not give the numbers that were requested; says which function, step and row."""


class _TooLong(Exception):
    """A coroutine was ended, since its time was over."""


class Call(NamedTuple):
    """A call of one function.

    Attributes:
        function: The function.
        keywords: Its arguments by name; one entry a row in each list.
        prompts: The beginning of each row's prompt, for messages.
        step: The step, for messages; None outside of a run.
        range: The least and the largest number that it may give.
        timeout: Seconds that an attempt may take.
        retries: Further attempts after an exception or a timeout; 0.5, 1, 2 .. s apart.
    """

    function: Any
    keywords: Mapping[str, Any]
    prompts: Sequence[str]
    step: int | None
    range: tuple[float, float]
    timeout: float
    retries: int


class Calls:
    """Runs calls, each in a daemon thread of its own, which a timeout leaves behind; coroutines run in one event loop,
    so that a client that belongs to a loop lives as long as the run."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def answers(
        self, calls: Sequence[Call], concurrency: int, came: Callable[[int, list[float]], None]
    ) -> list[list[float]]:
        """Returns what each call gave, NaN for no opinion, in the order of the calls, whichever ended first.

        Args:
            calls: The calls.
            concurrency: How many run at a time.
            came: Is told of each answer when it is there, by the number of its call; in threads, several at a time.

        Raises:
            RewardError: A call failed for good. Those on their way are waited for, as long as their timeout says, so
                that `came` hears of what was asked and perhaps paid for; none is begun any more.
        """
        # Two signals: `failed` begins nothing new, `over` (Ctrl-C while waiting) leaves what runs behind too.
        failed: concurrent.futures.Future[None] = concurrent.futures.Future()
        over: concurrent.futures.Future[None] = concurrent.futures.Future()

        def answered(number: int) -> list[float]:
            numbers = self._attempts(calls[number], failed, over)
            came(number, numbers)
            return numbers

        with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
            futures = [pool.submit(answered, number) for number in range(len(calls))]
            try:
                concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_EXCEPTION)
                first = [each for each in futures if each.done() and each.exception() is not None][:1]
                failed.set_result(None)
                concurrent.futures.wait(futures)
                return [future.result() for future in first or futures]
            finally:
                over.set_result(None)

    def _attempts(
        self, call: Call, failed: concurrent.futures.Future[None], over: concurrent.futures.Future[None]
    ) -> list[float]:
        """The numbers of a call, in as many attempts as it has. Only an exception and a timeout are tried again: what
        was returned would be returned again."""
        reason, cause = "was given up", None
        for attempt in range(call.retries + 1):
            if attempt:
                pause = min(FIRST_PAUSE * 2.0 ** (attempt - 1), LONGEST_PAUSE)
                concurrent.futures.wait([failed, over], pause, concurrent.futures.FIRST_COMPLETED)
            if failed.done() or over.done():
                break
            thread = self._started(call)
            concurrent.futures.wait([thread, over], call.timeout, concurrent.futures.FIRST_COMPLETED)
            if not thread.done():
                thread.cancel()
                reason, cause = f"gave no answer for {call.timeout:g} s", None
                continue
            cause = thread.exception()
            if cause is None:
                return checked(call, thread.result())
            late = isinstance(cause, _TooLong)
            reason = f"gave no answer for {call.timeout:g} s" if late else f"raised {_said(cause)}"
        times = f", in {call.retries + 1} attempts" if call.retries else ""
        raise RewardError(f"{_where(call)}: it {reason}{times}") from cause

    def _started(self, call: Call) -> concurrent.futures.Future[Any]:
        """The future of one attempt, whose thread is on its way. Arguments are copied: what a function does to its own
        lists reaches no other."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def run() -> None:
            try:
                result = call.function(**copy.deepcopy(dict(call.keywords)))
                if inspect.isawaitable(result):
                    result = self._awaited(result, call.timeout)
            except BaseException as error:  # SystemExit of a function is no reason to end a thread in silence
                outcome: tuple[Callable[[Any], None], Any] = (future.set_exception, error)
            else:
                outcome = (future.set_result, result)
            if not future.cancelled():
                with contextlib.suppress(concurrent.futures.InvalidStateError):  # given up a moment ago
                    outcome[0](outcome[1])

        threading.Thread(target=run, name=f"asks {name_of(call.function)}", daemon=True).start()
        return future

    def _awaited(self, awaitable: Any, timeout: float) -> Any:
        async def within() -> Any:
            return await awaitable

        running = asyncio.run_coroutine_threadsafe(within(), self._running())
        if not concurrent.futures.wait([running], timeout).done:
            running.cancel()
            raise _TooLong
        return running.result()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="asks", daemon=True).start()
            return self._loop

    def close(self) -> None:
        """Ends the event loop and what still waits in it."""
        loop = self._loop
        if loop is None:
            return

        async def end() -> None:
            waiting = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        deadline = time.monotonic() + 10
        while loop.is_running() and time.monotonic() < deadline:
            time.sleep(0.005)
        if not loop.is_running():
            loop.close()


@contextlib.contextmanager
def calls() -> Iterator[Calls]:
    """Yields what runs calls, and ends its event loop afterwards."""
    made = Calls()
    try:
        yield made
    finally:
        made.close()


def _where(call: Call, row: int | None = None) -> str:
    """Names a function, the step and the row."""
    number = 0 if row is None else row
    prompt = " ".join(call.prompts[number].split())
    prompt = prompt if len(prompt) <= SHOWN else f"{prompt[:SHOWN]}..."
    rows = f"the row with prompt {prompt!r}"
    if row is None and len(call.prompts) > 1:
        rows = f"{len(call.prompts)} rows, the first with prompt {prompt!r}"
    step = "" if call.step is None else f" at step {call.step}"
    return f"{name_of(call.function)}{step}, asked about {rows}"


def _said(error: BaseException) -> str:
    """An exception and the last line of the person's files on the way to it, else the line where it arose."""
    whole = [each for each in traceback.extract_tb(error.__traceback__) if each.filename != __file__]
    frames = [each for each in whole if not _is_library(Path(each.filename))] or whole
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    message = str(error).strip()
    return f"{type(error).__name__}{f': {message[:300]}' if message else ''}{place}"


def _is_library(file: Path) -> bool:
    return any(file.is_relative_to(folder) for folder in LIBRARIES) or not INSTALLED.isdisjoint(file.parts)


def checked(call: Call, result: Any) -> list[float]:
    """Returns what a function gave as one number a row, NaN for None.

    Args:
        call: The call.
        result: What came back.

    Raises:
        RewardError: It is no list of as many entries as there are rows, or an entry is neither None nor a finite number
            in the call's range.
    """
    values = result.tolist() if hasattr(result, "tolist") and not isinstance(result, (list, tuple)) else result
    wanted = f"must return a list of {len(call.prompts)} numbers or None, one a row"
    if not isinstance(values, (list, tuple)):
        raise RewardError(f"{_where(call)}: it returned {_shown(result)} and {wanted}")
    if len(values) != len(call.prompts):
        raise RewardError(f"{_where(call)}: it returned a list of {len(values)} and {wanted}")
    low, high = call.range
    numbers = []
    for row, value in enumerate(values):
        if value is None:
            numbers.append(math.nan)
            continue
        number = _number(value)
        if number is None:
            raise RewardError(f"{_where(call, row)}: it returned {_shown(value)}, which is neither a number nor None")
        if not abs(number) <= LARGEST:  # not true of NaN either
            raise RewardError(
                f"{_where(call, row)}: it returned {_shown(value)}, which is no number that float32 holds; None is how "
                "to have no opinion"
            )
        if not low <= number <= high:
            raise RewardError(f"{_where(call, row)}: it returned {_shown(value)}, which is not in [{low:g}, {high:g}]")
        numbers.append(number)
    return numbers


def _number(value: Any) -> float | None:
    """A value as a float; None of what is no number."""
    if isinstance(value, (str, bytes, bytearray, complex, list, tuple)) or np.ndim(value):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
    except OverflowError:
        return math.inf


def _shown(value: Any) -> str:
    text = shown(value)
    return f"{text if len(text) <= SHOWN else f'{text[:SHOWN]}...'} ({type(value).__name__})"
