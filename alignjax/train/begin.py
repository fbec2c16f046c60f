"""How a run begins: what its folder may hold, and the first state, new or restored."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec
from rich.console import Console

from alignjax.config import ConfigError, Experiment
from alignjax.parallel.mesh import state_shardings
from alignjax.parallel.processes import all_gather_text, is_main_process, raise_on_all_processes
from alignjax.train import checkpoint, metrics
from alignjax.train.checkpoint.steps import CheckpointError
from alignjax.train.run_record import FILE, check_same, config_json, read_json, versions
from alignjax.train.state import TrainState, abstract_state, create_state
from alignjax.types import Algorithm
from alignjax.workspace import Workspace


@dataclasses.dataclass(frozen=True)
class Log:
    """What a checkpoint remembers of the log, for its continuation to be exact: metrics of the steps since the last
    written line, and the seconds of training, in all and at that line."""

    pending: tuple[metrics.Row, ...] = ()
    seconds: float = 0.0
    written: float = 0.0


def claim(experiment: Experiment, folder: Path, resume: bool) -> None:
    """Raises ConfigError if the folder holds a run that this one must not touch or cannot go on with."""
    there = [name for name in (FILE, metrics.METRICS, checkpoint.FOLDER) if (folder / name).exists()]
    if there and not resume:
        raise ConfigError(
            f"{folder} already holds a run ({', '.join(there)}): --resume goes on with it, --run-dir DIR puts this one "
            "elsewhere"
        )
    if (record := read_json(folder / FILE)) is not None:
        check_same(record.get("config"), experiment, folder)
    if (done := max(checkpoint.steps(folder), default=0)) > experiment.steps:
        raise ConfigError(f"{folder} holds a run of {done} steps already; this config asks for {experiment.steps} only")


def abstract(algorithm: Algorithm, seed: int, mesh: jax.sharding.Mesh) -> TrainState:
    """The state to be, in shapes, dtypes and shardings."""
    state = abstract_state(algorithm, seed)

    def one(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_as_xla_says(sharding))

    return jax.tree.map(one, state, state_shardings(algorithm, state, mesh))


def _as_xla_says(sharding: NamedSharding) -> NamedSharding:
    """The same sharding in the words in which it comes back from a jitted function: without mesh axes of size 1. In
    others it would be taken for a new one, and everything compiled a second time."""
    sizes = sharding.mesh.shape
    parts: list[Any] = []
    for part in sharding.spec:
        names = [
            name for name in (part if isinstance(part, tuple) else (part,)) if name is not None and sizes[name] > 1
        ]
        parts.append(tuple(names) if len(names) > 1 else next(iter(names), None))
    while parts and parts[-1] is None:
        parts.pop()
    return NamedSharding(sharding.mesh, PartitionSpec(*parts))


def first_state(
    experiment: Experiment, workspace: Workspace, like: TrainState, console: Console, resume: bool
) -> tuple[TrainState, Log]:
    """A new state, or that of the newest good checkpoint.

    A damaged checkpoint is put aside with a warning and the one before it is taken. That is honest because a step is a
    function of config, seed and number: the lost steps are taken again to the same bits, and only time is lost.

    Raises CheckpointError if there are checkpoints but none of them is good, or they are another config's.
    """
    folder = workspace.folder
    there = checkpoint.steps(folder) if resume else []
    there = json.loads(all_gather_text(json.dumps(there))[0])  # what process 0 sees
    if not there:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, dataclasses.replace(like, pending=None))
        return create_state(experiment.algorithm, experiment.seed, workspace, shardings), Log()
    state, meta, step = _newest_good(folder, like, there[-1], console)
    with raise_on_all_processes():
        check_same(meta["config"], experiment, folder)
    if meta["versions"] != versions() or meta["config"]["mesh"] != config_json(experiment.mesh):
        console.print("warning: versions, devices or mesh have changed since; the same bits are not promised")
    done = "has taken all" if step == experiment.steps else f"goes on after step {step} of"
    console.print(f"{folder} {done} {experiment.steps} steps", highlight=False, markup=False, soft_wrap=True)
    log = meta["log"]
    return state, Log(tuple(log["pending"]), log["seconds"], log["written"])


def _newest_good(folder: Path, like: TrainState, step: int, console: Console) -> tuple[TrainState, dict[str, Any], int]:
    """State, JSON and number of the newest checkpoint up to `step` that is whole; those passed over are put aside."""
    try:
        return *checkpoint.restore(folder, like, step), step
    except CheckpointError as error:
        if not error.damaged or error.previous is None:
            raise
        warning = f"warning: {error} Trying step {error.previous}; the steps since are taken again, to the same result."
        console.print(warning, style="bold red", highlight=False, markup=False, soft_wrap=True)
        found = _newest_good(folder, like, error.previous, console)
    with raise_on_all_processes():
        if is_main_process():
            checkpoint.put_aside(folder, step)
    return found
