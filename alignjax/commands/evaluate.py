"""`alignjax evaluate` and `alignjax report`: what a finished run is worth, once more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from alignjax.commands.load import reload, run_folder
from alignjax.config import ConfigError, Experiment, Pipeline, nearest
from alignjax.workspace import Workspace


def evaluate(run_dir: Path, step: str, arguments: Sequence[str]) -> int:
    """Run a pipeline's job `step` and the jobs behind it again, on the checkpoints that the run folder holds.

    Raises ConfigError for a folder that is no run, or a run whose config has no such job.
    """
    root, _ = run_folder(str(run_dir))
    config = reload(root, arguments).config
    if not isinstance(config, Pipeline):
        raise ConfigError(f"{root} is one experiment and has no evaluation step; alignjax report {root} shows it")
    jobs = [name for name, one in config.steps.items() if not isinstance(one, Experiment)]
    if step not in jobs:
        raise ConfigError(f"{root} has no job {step!r}.{nearest(step, jobs)}")
    for name in jobs[jobs.index(step) :]:
        job = config.steps[name]
        assert not isinstance(job, Experiment)
        folder = Workspace(root).of(name)
        folder.folder.mkdir(parents=True, exist_ok=True)
        job(folder)
    return 0


def report(run_dir: Path) -> int:
    """Render report.html and report.md from results.json again, and print the table. Raises what `rebuild` raises."""
    from alignjax.evaluate import results  # noqa: PLC0415  # with matplotlib, which evaluate() may not need
    from alignjax.evaluate.report import rebuild, terminal_table  # noqa: PLC0415

    if not run_dir.is_dir():
        raise ConfigError(f"no such run folder: {run_dir}")
    paths = rebuild(run_dir)
    terminal_table(results.load(run_dir), Console())
    print(f"\n{paths['html']}")
    return 0
