"""`alignjax watch`: a page of a run that goes on."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from alignjax.cli.report_flags import Watch
from alignjax.evaluate.report.comparison import compared
from alignjax.evaluate.report.pages import html_report
from alignjax.evaluate.report.run_folders import Run, read_runs
from alignjax.outside import user_path, writing
from alignjax.workspace import whole_file

PAGE = "watch.html"


def watch(flags: Watch) -> int:
    """Writes the page until the run is done, and prints where it is.

    Args:
        flags: The flags of `alignjax watch`.

    Returns:
        The exit status, 0.

    Raises:
        ConfigError: The folder is no run, or cannot be written.
    """
    path = user_path(flags.run_dir) / PAGE
    while True:
        (run,) = read_runs([user_path(flags.run_dir)])
        page = html_report(_now(run), refresh=None if run.done or flags.once else flags.every)
        with writing(path, "watch a folder that you may write"), whole_file(path) as file:
            file.write(page.encode())
        if run.done or flags.once:
            print(path if not run.done else f"{path}: the run is done")
            return 0
        print(f"{path}: {_place(run)}", flush=True)
        time.sleep(flags.every)


def _at_work(run: Run) -> str:
    """The stage at work; the last one of a run that is done."""
    return next((name for name, stage in run.stages.items() if not stage.done), [*run.stages][-1])


def _place(run: Run) -> str:
    stage = run.stages[_at_work(run)]
    return f"{_at_work(run)}, step {stage.step:,} of {stage.steps:,}" if stage.steps is not None else _at_work(run)


def _now(run: Run) -> dict[str, Any]:
    """What the page shows: a tournament has a report of its own, and curves of all stages would take long to draw."""
    at_work = _at_work(run)
    stages = {
        name: stage if name == at_work else dataclasses.replace(stage, curves={}, samples=[])
        for name, stage in run.stages.items()
    }
    results = compared([dataclasses.replace(run, stages=stages, results=None)], title=run.name)
    said = "The run is done." if run.done else f"At work: {_place(run)}."
    return results | {"headline": said, "date": time.strftime("%Y-%m-%d %H:%M:%S")}
