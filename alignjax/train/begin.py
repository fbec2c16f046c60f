"""The beginning of a run: its folder is claimed, and its first state is made or restored."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, TypedDict

import jax
from rich.console import Console

from alignjax.config import ConfigError, Experiment
from alignjax.json_shapes import check_shape
from alignjax.parallel.processes import all_gather_text, is_main_process, raise_on_all_processes
from alignjax.stages import regenerate
from alignjax.train import checkpoint, metrics
from alignjax.train.checkpoint.read_steps import CheckpointError
from alignjax.train.resolve import Resolved
from alignjax.train.run_record import FILE, Record, check_same, config_json, versions
from alignjax.train.state import TrainState, create_state
from alignjax.workspace import PUT_BACK, Workspace, read_record


@dataclasses.dataclass(frozen=True)
class Log:
    """A checkpoint's memory of the log, which makes its continuation exact: the metrics of the steps since the last
    written line, and the seconds of training, in all and at that line."""

    pending: tuple[metrics.Row, ...] = ()
    seconds: float = 0.0
    written: float = 0.0


class _Log(TypedDict):
    pending: list[dict[str, Any]]
    seconds: float
    written: float


class _Meta(Record):
    log: _Log


def check_unused(folder: Path) -> None:
    """Raises ConfigError if a folder holds a run; one that another program made is not touched either way."""
    files = [name for name in (FILE, metrics.METRICS, checkpoint.FOLDER) if (folder / name).exists()]
    if files:
        raise ConfigError(
            f"{folder} already holds a run: --resume continues it, --run-dir DIR puts this one elsewhere "
            f"(there are {', '.join(files)})"
        )


def claim(experiment: Experiment, folder: Path, resume: bool) -> None:
    """Checks that a run may use a folder.

    Args:
        experiment: The experiment.
        folder: The folder.
        resume: Whether a run that the folder holds goes on.

    Raises:
        ConfigError: The folder holds a run that this one must not touch or cannot go on with.
    """
    if not resume:
        check_unused(folder)
    if (record := read_record(folder / FILE, Record)) is not None:
        check_same(record, experiment, folder)
    if (done := max(checkpoint.steps(folder), default=0)) > experiment.steps:
        raise ConfigError(f"{folder} holds a run of {done} steps already; this config asks for {experiment.steps} only")


def warn_of_no_reuse(resolved: Resolved, console: Console) -> None:
    """Says so where responses are remembered for prompts that come again, and none does in the whole run."""
    stages = resolved.algorithm.experience
    name = next((name for name, stage in stages.items() if stage.function is regenerate), None)
    size = getattr(resolved.source, "size", None)
    if name is None or size is None:  # no such stage, or a source that never comes back to a prompt
        return
    seen = resolved.experiment.steps * resolved.spec.need("prompt", of="the source").shape[0]
    if seen <= size:
        console.print(
            f"Stage {name!r} reuses responses of prompts that come again, but no prompt of the {size:,} comes twice in "
            f"{seen:,}: all of a batch but its {stages[name].kwargs['count']} new ones counts nothing. Use fewer "
            "prompts, or more steps.",
            markup=False,
        )


def first_state(resolved: Resolved, workspace: Workspace, console: Console, resume: bool) -> tuple[TrainState, Log]:
    """Makes a new state, or restores that of the newest good checkpoint.

    A damaged checkpoint is put aside with a warning and the one before it is taken. That is honest because a step is a
    function of config, seed and number: the lost steps are taken again to the same bits, and only time is lost.

    Args:
        resolved: The experiment, with its state on a mesh.
        workspace: The workspace of its files.
        console: Where to say what was found.
        resume: Whether checkpoints are looked for.

    Raises:
        CheckpointError: There are checkpoints but none of them is good, or their roles are others.
        ConfigError: The config is not the one that the run began with, in more than may change (`run_record.FREE`).
    """
    experiment, folder = resolved.experiment, workspace.folder
    steps = checkpoint.steps(folder) if resume else []
    steps = json.loads(all_gather_text(json.dumps(steps))[0])  # what process 0 sees
    if not steps:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, dataclasses.replace(resolved.state, pending=None))
        return create_state(experiment.algorithm, experiment.seed, workspace, shardings), Log()
    state, meta, step = _newest_good(folder, resolved.state, steps[-1], console)
    with raise_on_all_processes():
        check_shape(meta, _Meta, f"the JSON of step {step} in {folder}", PUT_BACK)
        check_same(meta, resolved.given, folder)
    if meta["versions"] != versions() or meta["config"].get("mesh") != config_json(experiment.mesh):
        console.print("warning: versions, devices or mesh have changed since; the same bits are not promised")
    done = "has taken all" if step == experiment.steps else f"goes on after step {step} of"
    console.print(f"{folder} {done} {experiment.steps} steps", highlight=False, markup=False, soft_wrap=True)
    log = meta["log"]
    return state, Log(tuple(log["pending"]), log["seconds"], log["written"])


def _newest_good(folder: Path, like: TrainState, step: int, console: Console) -> tuple[TrainState, dict[str, Any], int]:
    """Restores the newest whole checkpoint up to `step`: its state, its JSON and its number. Those passed over are put
    aside."""
    try:
        return *checkpoint.restore(folder, like, step), step
    except CheckpointError as error:
        if not error.damaged or error.previous is None:
            raise
        warning = f"warning: {error} Trying step {error.previous}; the steps since are taken again, to the same result."
        console.print(warning, style="bold red", highlight=False, markup=False, soft_wrap=True)
        restored = _newest_good(folder, like, error.previous, console)
    with raise_on_all_processes():
        if is_main_process():
            checkpoint.put_aside(folder, step)
    return restored
