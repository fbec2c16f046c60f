"""Named steps in order, each once: what is finished is skipped, what was interrupted goes on."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from rich.console import Console

from alignjax import outside
from alignjax.config import ConfigError, Experiment, Fn, Pipeline
from alignjax.parallel.mesh import make_mesh
from alignjax.parallel.processes import is_main_process, raise_on_all_processes
from alignjax.train import checkpoint, metrics
from alignjax.train.begin import check_unused
from alignjax.train.loop import train
from alignjax.train.named_files import named_files
from alignjax.train.resolve import check_losses, resolve
from alignjax.train.run_record import FILE, Record, check_same, config_hash, config_json, write_config
from alignjax.train.stop_signal import Interrupted
from alignjax.workspace import Workspace, read_record, write_json

DONE = "done.json"
# What may change in a finished step: not its number of steps, which an unfinished one may still change.
FREE = ("keep", "checkpoint_every", "tags", "mesh")


def run_pipeline(
    pipeline: Pipeline, workspace: Workspace, *, resume: bool = False, console: Console | None = None
) -> dict[str, dict[str, Any]]:
    """Runs the steps of a pipeline, each in the folder of its name.

    A finished step is marked by a done.json with its config and summary, written last and as a whole. Of several
    processes the first alone does the jobs, on its own devices, while the others wait.

    Args:
        pipeline: The pipeline.
        workspace: The workspace of the run folder.
        resume: Skips finished steps, goes on with an unfinished experiment from its checkpoint, and runs an unfinished
            job anew.
        console: Where progress is shown.

    Returns:
        The summary of every step: the last metrics of an experiment, what a job has returned.

    Raises:
        ConfigError: Before any step runs, if the folder holds a run and `resume` is not set, or if a finished step was
            configured otherwise.
        Interrupted: Ctrl-C or SIGTERM came: a SystemExit.
    """
    # All done.json are read before the first step runs, so that a step that was configured otherwise is refused now and
    # not hours later.
    console = (console or outside.console()) if is_main_process() else Console(quiet=True)
    with raise_on_all_processes():
        if not resume:
            check_unused(workspace.root)
        before = {name: _finished(name, step, workspace.of(name).folder) for name, step in pipeline.steps.items()}
        for name, step in pipeline.steps.items():
            if isinstance(step, Experiment) and before[name] is None:
                _check_mesh(name, step)
        _check_later_losses({name: step for name, step in pipeline.steps.items() if before[name] is None}, workspace)
    done: dict[str, dict[str, Any]] = {}
    write_config(workspace.root, pipeline)
    for number, (name, step) in enumerate(pipeline.steps.items(), 1):
        heading = f"[{number}/{len(pipeline.steps)}] {name}"
        if (record := before[name]) is not None:
            console.print(f"{heading}: done before", style="bold", highlight=False, markup=False)
            done[name] = record
            continue
        console.print(heading, style="bold", highlight=False, markup=False)
        done[name] = _run(step, workspace.of(name), console)
        console.print(f"{name}: {done[name]['seconds']:.1f} s", highlight=False, markup=False)
    return {name: record["summary"] for name, record in done.items()}


def _check_mesh(name: str, step: Experiment) -> None:
    """Raises ConfigError for a step whose mesh the devices here cannot make, before the steps that come first run."""
    try:
        make_mesh(step.mesh)
    except ConfigError as error:
        raise ConfigError(f"step {name!r}: {error}") from error


def _check_later_losses(steps: Mapping[str, Experiment | Fn], workspace: Workspace) -> None:
    """Raises ConfigError for a step whose losses cannot be run on what its stages make, before those that come first
    run."""
    # The first begins now and is checked as it does. What a later one reads may be written by one before it: a step
    # that cannot be resolved yet is looked at when it begins, and then says why it cannot.
    for name, step in list(steps.items())[1:]:
        if not isinstance(step, Experiment):
            continue
        try:
            resolved = resolve(step, workspace.of(name))
        except Exception:
            continue
        try:
            check_losses(resolved, always=True)
        except ConfigError as error:
            raise ConfigError(f"step {name!r}: {error}") from error


class Done(TypedDict):
    """What stands in DONE; runs of older versions have no `files`."""

    config: dict[str, Any]
    hash: str
    files: NotRequired[dict[str, str]]
    seconds: float
    summary: dict[str, Any]


def _finished(name: str, step: Experiment | Fn, folder: Path) -> dict[str, Any] | None:
    """The done.json of a step, or None. Raises ConfigError if the step was finished, or begun, with another config."""
    if Path(name).name != name or name in ("", ".."):
        raise ConfigError(f"pipeline step {name!r} must be a name that a folder can have")
    if (record := read_record(folder / DONE, Done)) is not None:
        check_same(record, step, folder, free=FREE if isinstance(step, Experiment) else ())
    elif isinstance(step, Experiment) and (begun := read_record(folder / FILE, Record)) is not None:
        check_same(begun, step, folder)
    return record


def _run(step: Experiment | Fn, workspace: Workspace, console: Console) -> dict[str, Any]:
    """Runs one step and marks it as finished."""
    begun = time.perf_counter()
    workspace.folder.mkdir(parents=True, exist_ok=True)
    if isinstance(step, Experiment):
        train(step, workspace, resume=True, console=console)
    with raise_on_all_processes():
        if is_main_process():
            summary = _trained(workspace.folder) if isinstance(step, Experiment) else _job(step, workspace, console)
            config, seconds = config_json(step), time.perf_counter() - begun
            record = {"config": config, "hash": config_hash(config), "files": named_files(config), "seconds": seconds}
            write_json(workspace.folder / DONE, record | {"summary": summary})
    return read_record(workspace.folder / DONE, Done)


def _job(job: Fn, workspace: Workspace, console: Console) -> dict[str, Any]:
    """Runs a job; what it returns is its summary."""
    try:
        return job(workspace) or {}
    except KeyboardInterrupt:
        console.print(f"stopped in {workspace.stage}; run the same command with --resume to run it anew")
        raise Interrupted(signal.SIGINT, 0) from None


def _trained(folder: Path) -> dict[str, Any]:
    """The last line of metrics.jsonl, without the clock."""
    rows = [row for _, row in metrics.read_rows(folder / metrics.METRICS)]
    row = rows[-1] if rows else {"step": checkpoint.steps(folder)[-1]}
    return {name: value for name, value in row.items() if not name.startswith(metrics.CLOCK)}
