"""`alignjax train --dry-run`: everything a run would hold and pass around, from `jax.eval_shape`. No data is read, no
array allocated, no folder made, and an earlier step's outputs need not exist."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from alignjax.cli import device_memory
from alignjax.cli.liveness import in_units, peak_bytes
from alignjax.cli.plain_attention import traceable
from alignjax.config import Experiment, Fn, Pipeline
from alignjax.parallel.tpu_slices import Topology
from alignjax.stages.host import host
from alignjax.train.checkpoint.leaves import tree_bytes
from alignjax.train.resolve import resolve
from alignjax.train.state import TrainState
from alignjax.train.step import abstract_experience, make_experience, make_update
from alignjax.types import Algorithm, Batch, Model
from alignjax.workspace import Workspace


def dry_run(
    config: Experiment | Pipeline,
    workspace: Workspace,
    console: Console,
    *,
    topology: Topology | None = None,
    ask: bool = False,
) -> None:
    """Print roles, parameter counts, shapes and a memory estimate of an experiment, or of each step of a pipeline.

    topology: a TPU slice, or several, of whose devices the memory is shown too; ask: the compiler, instead of
    estimating.

    Raises ConfigError, TypeError or ValueError where the run itself would fail for its shapes.
    """
    if isinstance(config, Experiment):
        config = _for(topology, config, console)
        _experiment(config, workspace, console, {})
        if topology is not None:
            device_memory.describe(config, workspace, topology, ask, console)
        return
    shown: dict[Any, str] = {}
    overview = Table("step", "iterations", "parameters", "memory (roughly)", title="the pipeline", title_justify="left")
    if topology is not None:
        overview.add_column(f"a device of {topology}")
    for column in range(1, len(overview.columns)):
        overview.columns[column].justify = "right"
    for name, step in config.steps.items():
        console.rule(f"[bold]{name}[/]", align="left")
        if isinstance(step, Experiment):
            step = _for(topology, step, console)
            count, total = _experiment(step, workspace.of(name), console, shown)
            row = [name, f"{step.steps:,}", f"{count:,}", in_units(total)]
            if topology is not None:
                row.append(in_units(device_memory.describe(step, workspace.of(name), topology, ask, console)))
            overview.add_row(*row)
        else:
            _job(step, console)
            overview.add_row(name, step.name, "", "")
    console.print(overview)


def _for(topology: Topology | None, experiment: Experiment, console: Console) -> Experiment:
    if topology is None:
        return experiment
    experiment, roles = traceable(experiment, topology)
    if roles:
        line = f"{', '.join(roles)}: measured with plain attention, whose scores take memory; splash attention's do not"
        console.print(line, highlight=False, markup=False)
    return experiment


def _job(job: Fn, console: Console) -> None:
    """A job runs outside of what shapes can say: its name and hyper-parameters."""
    lines = [job.name, *(f"  {name}: {_short(value)}" for name, value in job.kwargs.items())]
    for line in lines:
        console.print(line, highlight=False, markup=False)
    console.print()


def _short(value: Any) -> str:
    """A value on one line: functions by name, models by their configuration."""
    if isinstance(value, Fn):
        return f"fn({value.name})"
    text = repr(value.config if isinstance(value, Model) else value)
    return text if len(text) <= 90 else f"{text[:87]}..."


def _experiment(
    experiment: Experiment, workspace: Workspace, console: Console, shown: dict[Any, str]
) -> tuple[int, int]:
    """Print one experiment; (parameters, bytes in all). shown: the trees printed before and whose they were."""
    algorithm: Algorithm = experiment.algorithm  # with cached log-probs the run that fills the cache
    resolved = resolve(experiment, workspace)
    spec, state = resolved.spec, resolved.state
    filled = abstract_experience(algorithm, state, spec)
    console.print(_roles(algorithm, state))
    for line in _parameters(state, workspace.stage, shown):
        console.print(line, highlight=False, markup=False)
    console.print(_shapes(spec, filled))
    program, (_, metrics) = jax.make_jaxpr(make_update(algorithm), return_shape=True)(state, filled)
    console.print(f"metrics: {', '.join(sorted(metrics)) or 'none'}", highlight=False, markup=False)
    parts = {
        "parameters": tree_bytes(state.roles),
        "optimizer state": tree_bytes(state.optimizers),
        "batch": tree_bytes(filled),
        "temporary, experience (roughly)": _experience_peak(algorithm, state, spec),
        # the new state is written over the donated old one
        "temporary, update (roughly)": peak_bytes(program.jaxpr, in_place=True),
    }
    held, passing = list(parts.values())[:3], list(parts.values())[3:]
    total = sum(held) + max(passing)
    console.print(_memory(experiment, parts, total))
    console.print(f"{experiment.steps} iterations, seed {experiment.seed}\n", highlight=False)
    return sum(map(_size, jax.tree.leaves(state.roles))), total


def _experience_peak(algorithm: Algorithm, state: TrainState, spec: Batch) -> int:
    """Of the jitted stages; 0 when there are none, or when a host stage stands between them, which cannot be traced."""
    if not algorithm.experience or any(stage.function is host for stage in algorithm.experience.values()):
        return 0
    return peak_bytes(jax.make_jaxpr(make_experience(algorithm))(state, spec).jaxpr)


def _size(leaf: Any) -> int:
    return math.prod(leaf.shape)


def _roles(algorithm: Algorithm, state: TrainState) -> Table:
    table = Table("role", "parameters", "bytes", "optimizer state", "starts as", "moves by", title_justify="left")
    for column in (1, 2, 3):
        table.columns[column].justify = "right"
    for name, role in algorithm.roles.items():
        own, optimizer = state.roles[name], state.optimizers.get(name)
        count = sum(map(_size, jax.tree.leaves(own)))
        moved = role.optimizer if role.optimizer is not None else role.rule
        table.add_row(
            name,
            f"{count:,}",
            in_units(tree_bytes(own)),
            in_units(tree_bytes(optimizer)) if optimizer is not None else "-",
            repr(role.start),
            moved.name,
        )
    return table


def _form(leaf: Any) -> str:
    """`float32[4, 256, 1024]`."""
    return f"{leaf.dtype}[{', '.join(map(str, leaf.shape))}]"


def _stacked(tree: Any) -> Iterator[tuple[str, str, int]]:
    """(path, form, elements) of the leaves; leaves that differ only in a layer number stand together as one line."""
    groups: dict[tuple[str, str], list[int]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        groups.setdefault((re.sub(r"(?<![^._])\d+(?![^._])", "*", name), _form(leaf)), []).append(_size(leaf))
    for (name, form), sizes in groups.items():
        yield name or "(value)", form if len(sizes) == 1 else f"{len(sizes)} x {form}", sum(sizes)


def _parameters(state: TrainState, step: str | None, shown: dict[Any, str]) -> Iterable[str]:
    """The tree of every role; what looks like one that was shown before is said to."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, own in state.roles.items():
        groups.setdefault(tuple(_stacked(own)), []).append(name)
    for rows, names in groups.items():
        if rows in shown:
            yield f"{', '.join(names)}: shapes of {shown[rows]}"
            continue
        shown[rows] = names[0] if step is None else f"{names[0]} in {step}"
        yield f"{', '.join(names)}:"
        width = max((len(path) for path, _, _ in rows), default=0)
        yield from (f"  {path:<{width}}  {form}  {count:,}" for path, form, count in rows)


def _fields(batch: Batch) -> dict[str, str]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): _form(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(batch)
    }


def _shapes(spec: Batch, filled: Batch) -> Table:
    table = Table("batch", "from the source", "after the stages")
    before, after = _fields(spec), _fields(filled)
    for name in {**after, **before}:
        table.add_row(
            name, before.get(name, ""), after.get(name, "") if after.get(name) != before.get(name) else "same"
        )
    return table


def _memory(experiment: Experiment, parts: dict[str, int], total: int) -> Table:
    """Bytes by purpose. The temporary parts are estimates: gradients, activations and caches before fusion."""
    table = Table("memory", "estimate")
    table.columns[1].justify = "right"
    for name, size in parts.items():
        table.add_row(name, in_units(size))
    table.add_section()
    table.add_row("all devices together (roughly)", in_units(total))
    devices = math.prod(max(size, 1) for size in dataclasses.astuple(experiment.mesh))
    if devices > 1:
        table.add_row(f"each of {devices} devices, evenly split", in_units(total / devices))
    return table
