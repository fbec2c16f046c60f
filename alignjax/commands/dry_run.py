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

from alignjax.commands.memory import in_units, peak_bytes, tree_bytes
from alignjax.config import Experiment, Fn, Pipeline
from alignjax.stages.host import host
from alignjax.train.state import TrainState, abstract_state
from alignjax.train.step import abstract_experience, make_experience, make_update
from alignjax.types import Algorithm, Batch
from alignjax.workspace import Workspace


def dry_run(config: Experiment | Pipeline, workspace: Workspace, console: Console) -> None:
    """Print roles, parameter counts, shapes and a memory estimate of an experiment, or of each step of a pipeline.

    Raises ConfigError, TypeError or ValueError where the run itself would fail for its shapes.
    """
    if isinstance(config, Experiment):
        _experiment(config, workspace, console)
        return
    for name, step in config.steps.items():
        console.rule(f"[bold]{name}[/]", align="left")
        if isinstance(step, Experiment):
            _experiment(step, workspace.of(name), console)
        else:
            console.print(_described(step), highlight=False, markup=False)
            console.print()


def _described(function: Fn) -> str:
    return f"{function.name}({', '.join(f'{name}={value!r}' for name, value in function.kwargs.items())})"


def _experiment(experiment: Experiment, workspace: Workspace, console: Console) -> None:
    algorithm: Algorithm = experiment.algorithm
    spec = experiment.source(workspace, experiment.seed).spec
    state = abstract_state(algorithm, experiment.seed)
    filled = abstract_experience(algorithm, state, spec)
    console.print(_roles(algorithm, state))
    for line in _parameters(state):
        console.print(line, highlight=False, markup=False)
    console.print(_shapes(spec, filled))
    metrics: list[str] = []
    moves = bool(algorithm.losses) or any(role.rule for role in algorithm.roles.values())
    update_peak = 0
    if moves:
        program, (_, values) = jax.make_jaxpr(make_update(algorithm), return_shape=True)(state, filled)
        update_peak = peak_bytes(program.jaxpr, in_place=True)  # the new state is written over the donated old one
        metrics = sorted(values)
    console.print(f"metrics: {', '.join(metrics) or 'none'}", highlight=False, markup=False)
    console.print(_memory(experiment, state, filled, update_peak, _experience_peak(algorithm, state, spec)))
    console.print(f"{experiment.steps} iterations, seed {experiment.seed}\n", highlight=False)


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


def _parameters(state: TrainState) -> Iterable[str]:
    """The tree of every role; roles of the same form are shown once."""
    shown: dict[tuple[Any, ...], list[str]] = {}
    for name, own in state.roles.items():
        shown.setdefault(tuple(_stacked(own)), []).append(name)
    for rows, names in shown.items():
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


def _memory(experiment: Experiment, state: TrainState, filled: Batch, update: int, stages: int) -> Table:
    """Bytes by purpose. The temporary part is an estimate: gradients, activations and caches before fusion."""
    parts = {
        "parameters": tree_bytes(state.roles),
        "optimizer state": tree_bytes(state.optimizers),
        "batch": tree_bytes(filled),
        "temporary, experience (roughly)": stages,
        "temporary, update (roughly)": update,
    }
    table = Table("memory", "estimate")
    table.columns[1].justify = "right"
    for name, size in parts.items():
        table.add_row(name, in_units(size))
    total = sum(list(parts.values())[:3]) + max(stages, update)
    table.add_section()
    table.add_row("all devices together (roughly)", in_units(total))
    devices = math.prod(max(size, 1) for size in dataclasses.astuple(experiment.mesh))
    if devices > 1:
        table.add_row(f"each of {devices} devices, evenly split", in_units(total / devices))
    return table
