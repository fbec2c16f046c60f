"""One prompt, asked from the thread that waits for its answer."""

from __future__ import annotations

import queue
from collections.abc import Generator, Sequence

from alignjax.serving.jobs import Done, Job, Piece, Report, Wanted
from alignjax.serving.worker import Worker


def pieces_of(worker: Worker, prompt: Sequence[int], wanted: Wanted) -> Generator[Piece, None, None]:
    """Yields the pieces of a prompt's completions as they come; who stops listening ends them.

    Args:
        worker: What samples.
        prompt: Token ids.
        wanted: What is wanted.

    Raises:
        ConfigError: The prompt cannot be answered, see `Worker.check`.
    """
    reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
    job = Job(tuple(prompt), wanted, reports.put)
    worker.check(job)
    worker.submit(job)
    try:
        while not isinstance(report := reports.get(), Done):
            if isinstance(report, Piece):
                yield report
        if report.failure is not None:
            raise report.failure
    finally:
        job.cancelled = True
