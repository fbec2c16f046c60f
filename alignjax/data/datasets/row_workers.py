"""Processes that do work on blocks of rows beside this one, which only reads, hands out and puts in order.

They are plain child processes that import alignjax: nothing of a parent that holds a device is inherited, and the main
module of the caller needs no guard. Each ends when its pipe does. Run as a module, this file is such a process.
"""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import queue
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from alignjax.data.text.template_worker import receive, send

MOST = 32  # processes, each of which holds some hundred MB of libraries


class Job(NamedTuple):
    """A piece of work: a function of a module that other processes can import, and what it is given.

    Args:
        function: The function.
        arguments: What it is given.
        here: Whether it is done in this process.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    here: bool = False


def usable_cores() -> int:
    """Returns how many processes may work at once: the cores that this one may run on, MOST at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST)


@contextlib.contextmanager
def row_workers(count: int) -> Iterator[Callable[[Iterable[Job]], Iterator[Any]]]:
    """Starts processes when they are first needed and yields mapped(jobs): the results in the order of the jobs, of
    which a few are taken ahead. One process is this one.

    Args:
        count: The number of processes.
    """
    # A thread hands a job to whichever process is idle and waits for its answer, so that the order of the answers is
    # that of the jobs. What is under way is bounded: memory holds a few jobs for each process.
    if count <= 1:
        yield lambda jobs: (job.function(*job.arguments) for job in jobs)
        return
    idle: queue.SimpleQueue[subprocess.Popen[bytes] | None] = queue.SimpleQueue()
    started: list[subprocess.Popen[bytes]] = []
    for _ in range(count):
        idle.put(None)

    def done(job: Job) -> Any:
        if job.here:
            return job.function(*job.arguments)
        process = idle.get()
        if process is None:
            process = _started()
            started.append(process)
        try:
            send(process.stdin, pickle.dumps((job.function, job.arguments)))
            succeeded, result = pickle.loads(receive(process.stdout))
        except (EOFError, BrokenPipeError) as error:
            raise RuntimeError(f"a process that works on rows ended with status {process.wait()}") from error
        finally:
            idle.put(process)
        if not succeeded:
            raise result
        return result

    def mapped(jobs: Iterable[Job]) -> Iterator[Any]:
        pending: collections.deque[Future[Any]] = collections.deque()
        for job in jobs:
            pending.append(threads.submit(done, job))
            if len(pending) > count + 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    with ThreadPoolExecutor(count) as threads:
        try:
            yield mapped
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            for process in started:
                process.kill()
            raise
        finally:
            for process in started:
                with contextlib.suppress(OSError):
                    process.stdin.close()  # type: ignore[union-attr]
            for process in started:
                process.wait()
                process.stdout.close()  # type: ignore[union-attr]


def _started() -> subprocess.Popen[bytes]:
    paths = [path or os.getcwd() for path in sys.path]
    environment = {"PYTHONPATH": os.pathsep.join(paths), "JAX_PLATFORMS": "cpu", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import work; work()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
        start_new_session=True,  # an interrupt at the keyboard is answered by the process that asked
    )


def work() -> None:
    """Answers jobs from the standard input until that ends. What a job prints goes to the standard error."""
    pipes = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            function, arguments = pickle.loads(receive(pipes[0]))
            try:
                answer = True, function(*arguments)
            except Exception as error:
                answer = False, error
            send(pipes[1], pickle.dumps(answer))
