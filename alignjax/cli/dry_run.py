"""`alignjax train --dry-run`: everything that a run would hold and pass around, by tracing shapes.

No data is read, no array allocated, no folder made, and an earlier step's outputs need not exist.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from alignjax.cli.device_memory import describe, mesh_for, right_aligned
from alignjax.cli.plain_attention import traceable_for
from alignjax.config import Experiment, Fn, Pipeline
from alignjax.parallel.tpu_topologies import Topology
from alignjax.train.checkpoint.checksums import in_units, tree_bytes
from alignjax.train.resolve import Resolved, resolve
from alignjax.train.state import TrainState
from alignjax.train.step import make_update
from alignjax.tree_names import leaves_by_name
from alignjax.types import Algorithm, Batch, Model
from alignjax.workspace import Workspace


def dry_run(
    config: Experiment | Pipeline,
    workspace: Workspace,
    console: Console,
    *,
    topology: Topology | None = None,
    compile_: bool = False,
) -> None:
    """Prints roles, parameter counts, shapes and bytes of an experiment, or of each step of a pipeline.

    Args:
        config: the experiment or the pipeline.
        workspace: the run folder, of which nothing needs to exist.
        console: where it is printed; without markup, for shapes have brackets.
        topology: TPU slices, whose devices are meant; if None, as many devices as a step's mesh has.
        compile_: also asks the compiler of those devices, or of this machine's, what sampling and updating need.

    Raises:
        ConfigError, TypeError or ValueError: where the run itself would fail for its shapes.
    """
    # Everything is traced by shape and nothing is allocated, so a run for a large slice can be checked on a laptop; the
    # steps share `shown`, that a model which many of them use is described once.
    shown: dict[Any, str] = {}
    head = "a device" if topology is None else f"a device of {topology}"
    overview = right_aligned("step", "iterations", "parameters", head, title="the pipeline")
    steps = config.steps if isinstance(config, Pipeline) else {"": config}
    for name, step in steps.items():
        if name:
            console.rule(name, align="left")
        if not isinstance(step, Experiment):
            _job(step, console)
            overview.add_row(name, step.name)
            continue
        if topology is not None:
            step, fused = traceable_for(step, topology)
            if fused:
                note = "measured with plain attention, whose scores take memory; splash attention's do not"
                console.print(f"{', '.join(fused)}: {note}")
        mesh, place = mesh_for(step.mesh, topology, compile_)
        resolved = resolve(step, workspace.of(name), mesh)
        _print_shapes(resolved, name, console, shown)
        size = describe(resolved, place, topology, compile_, console)
        console.print(f"{step.steps} iterations, seed {step.seed}\n")
        overview.add_row(name, f"{step.steps:,}", f"{_elements(resolved.state.roles):,}", in_units(size))
    if isinstance(config, Pipeline):
        console.print(overview)


def _job(job: Fn, console: Console) -> None:
    """Prints name and hyper-parameters of a job, which has no shapes to trace."""
    lines = [job.name, *(f"  {name}: {_short(value)}" for name, value in job.kwargs.items())]
    for line in lines:
        console.print(line)
    console.print()


def _short(value: Any) -> str:
    """Writes a value on one line: functions by name, models by their configuration."""
    if isinstance(value, Fn):
        return f"fn({value.name})"
    text = repr(value.config if isinstance(value, Model) else value)
    return text if len(text) <= 90 else f"{text[:87]}..."


def _print_shapes(resolved: Resolved, step: str, console: Console, shown: dict[Any, str]) -> None:
    """Prints roles, batch and metrics of an experiment; shown: trees printed before, and whose they were."""
    algorithm: Algorithm = resolved.experiment.algorithm
    state, filled = resolved.bare_state, resolved.filled
    console.print(_roles(algorithm, state))
    for line in _parameters(state, step, shown):
        console.print(line)
    console.print(_shapes(resolved.spec, filled))
    _, metrics = jax.eval_shape(make_update(algorithm), state, filled)
    console.print(f"metrics: {', '.join(sorted(metrics)) or 'none'}")


def _elements(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _roles(algorithm: Algorithm, state: TrainState) -> Table:
    table = right_aligned("role", "parameters", "bytes", "optimizer state")
    for head in ("starts as", "moves by"):
        table.add_column(head)
    for name, role in algorithm.roles.items():
        tree, optimizer = state.roles[name], state.optimizers.get(name)
        moved = role.optimizer if role.optimizer is not None else role.rule
        sizes = in_units(tree_bytes(tree)), in_units(tree_bytes(optimizer)) if optimizer is not None else "-"
        table.add_row(name, f"{_elements(tree):,}", *sizes, repr(role.start), moved.name)
    return table


def _form(leaf: Any) -> str:
    """Writes dtype and shape, `float32[4, 256, 1024]`."""
    return f"{leaf.dtype}[{', '.join(map(str, leaf.shape))}]"


def _stacked(tree: Any) -> Iterator[tuple[str, str, int]]:
    """Yields (path, form, elements) of the leaves; those that differ only in a layer number are one line together."""
    groups: dict[tuple[str, str], list[int]] = {}
    for name, leaf in leaves_by_name(tree, ".").items():
        groups.setdefault((re.sub(r"(?<![^._])\d+(?![^._])", "*", name), _form(leaf)), []).append(leaf.size)
    for (name, form), sizes in groups.items():
        yield name or "(value)", form if len(sizes) == 1 else f"{len(sizes)} x {form}", sum(sizes)


def _parameters(state: TrainState, step: str, shown: dict[Any, str]) -> Iterable[str]:
    """Yields the tree of every role as lines; a tree of the shapes of an earlier one is one line that names it."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, tree in state.roles.items():
        groups.setdefault(tuple(_stacked(tree)), []).append(name)
    for rows, names in groups.items():
        if rows in shown:
            yield f"{', '.join(names)}: shapes of {shown[rows]}"
            continue
        shown[rows] = f"{names[0]} in {step}" if step else names[0]
        yield f"{', '.join(names)}:"
        width = max((len(path) for path, _, _ in rows), default=0)
        yield from (f"  {path:<{width}}  {form}  {count:,}" for path, form, count in rows)


def _shapes(spec: Batch, filled: Batch) -> Table:
    table = Table("batch", "from the source", "after the stages")
    before, after = (
        {name: _form(leaf) for name, leaf in leaves_by_name(batch, ".").items()} for batch in (spec, filled)
    )
    for name in {**after, **before}:
        changed = after.get(name, "") if after.get(name) != before.get(name) else "same"
        table.add_row(name, before.get(name, ""), changed)
    return table
