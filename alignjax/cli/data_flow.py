"""How data flow through an experiment: what each stage and loss reads and adds, as records, by tracing shapes."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax

from alignjax.config import Experiment, Fn, functions_within
from alignjax.losses.decorators.declared import is_loss
from alignjax.numerics import fold_name
from alignjax.roles import AdaptersOf, CopyOf, Fresh, PoolOf, Restored, Through, Value
from alignjax.scoring import context as context_of
from alignjax.train.ask_host import answer_to, is_host
from alignjax.train.resolve import resolve
from alignjax.train.state import TrainState
from alignjax.tree_names import leaves_by_name
from alignjax.types import Algorithm, Batch, Context, Model, prefixed, with_metrics
from alignjax.workspace import Workspace

LONGEST = 60  # characters of a value that is shown


@dataclasses.dataclass(frozen=True)
class Part:
    """A source, a stage or a loss.

    Attributes:
        name: Its name in the algorithm.
        function: The function with its hyper-parameters.
        reads: What of the batch its numbers are made from.
        roles: The roles that they are made from.
        adds: What it adds to the batch or changes there: its shape by name.
        logs: The names of its metrics.
    """

    name: str
    function: Fn
    reads: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    adds: Mapping[str, str] = dataclasses.field(default_factory=dict)
    logs: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Moved:
    """A role: its start, the number of its parameters, and what moves it; learns: its optimizer does."""

    name: str
    start: str
    size: int
    by: tuple[str, ...]
    learns: bool


@dataclasses.dataclass(frozen=True)
class Flow:
    """What an iteration of an experiment does, in order."""

    experiment: Experiment
    source: Part
    stages: tuple[Part, ...]
    losses: tuple[Part, ...]
    roles: tuple[Moved, ...]


def flow_of(experiment: Experiment, workspace: Workspace) -> Flow:
    """Traces an experiment by shape: nothing is read and no array is made.

    Args:
        experiment: The experiment.
        workspace: The run folder, of which nothing needs to exist.

    Returns:
        The flow.

    Raises:
        ConfigError: Where the run itself would be refused for what its config says.
    """
    resolved = resolve(experiment, workspace)
    algorithm, state, batch = resolved.experiment.algorithm, resolved.bare_state, resolved.spec
    source = Part("source", resolved.experiment.source, adds=_changes(Batch(), batch))
    stages = []
    for name, stage in algorithm.experience.items():
        part, batch = _stage(algorithm, name, stage, state, batch)
        stages.append(part)
    losses = tuple(_loss(algorithm, name, loss, state, batch) for name, loss in algorithm.losses.items())
    return Flow(experiment, source, tuple(stages), losses, tuple(_roles(algorithm, state)))


def _traced(algorithm: Algorithm, run: Callable[[Context, Batch], Any], state: TrainState, batch: Batch) -> Any:
    """What a function of a context and a batch returns, as shapes, and what it reads: (fields, roles, returned)."""
    # A field or role is read where the traced program computes with it; what is only passed on is not.

    def look(step: Any, roles: Mapping[str, Any], batch: Batch) -> Any:
        return run(context_of(algorithm.roles, roles, step=step), batch)

    program, returned = jax.make_jaxpr(look, return_shape=True)(state.step, state.roles, batch)
    used = {id(value) for equation in program.jaxpr.eqns for value in equation.invars}
    names = [
        *((role, None) for role, tree in sorted(state.roles.items()) for _ in jax.tree.leaves(tree)),
        *((None, name) for name in leaves_by_name(batch, ".")),
    ]
    read = [name for name, value in zip(names, program.jaxpr.invars[1:], strict=True) if id(value) in used]
    roles = tuple(dict.fromkeys(role for role, _ in read if role is not None))
    return tuple(field for _, field in read if field is not None), roles, returned


def _stage(algorithm: Algorithm, name: str, stage: Fn, state: TrainState, batch: Batch) -> tuple[Part, Batch]:
    """A stage, and the batch behind it."""
    logs: list[str] = []

    def run(context: Context, batch: Batch) -> Batch:
        if is_host(stage):
            answer = stage.kwargs["like"](batch)
        else:
            here = dataclasses.replace(context, ask=answer_to(name, stage, batch, None))
            answer = stage(here, batch, fold_name(jax.random.key(0), name))
        made, metrics = with_metrics(answer)
        logs.extend(prefixed(name, metrics))
        return made

    reads, roles, made = _traced(algorithm, run, state, batch)
    return Part(name, stage, reads, roles, _changes(batch, made), tuple(logs)), made


def _loss(algorithm: Algorithm, name: str, loss: Fn, state: TrainState, batch: Batch) -> Part:
    logs: list[str] = []

    def run(context: Context, batch: Batch) -> Any:
        mean, metrics = loss(context, batch)
        logs.extend((f"loss/{name}", *prefixed(name, metrics)))
        return mean

    reads, roles, _ = _traced(algorithm, run, state, batch)
    return Part(name, loss, reads, roles, logs=tuple(logs))


def _changes(before: Batch, after: Batch) -> dict[str, str]:
    """The shapes of what a batch has that another has not, or has otherwise."""
    old, new = leaves_by_name(before, "."), leaves_by_name(after, ".")
    return {
        name: f"[{','.join(map(str, leaf.shape))}]"
        for name, leaf in new.items()
        if name not in old or (old[name].shape, old[name].dtype) != (leaf.shape, leaf.dtype)
    }


def _roles(algorithm: Algorithm, state: TrainState) -> list[Moved]:
    """Every role, those that learn first."""
    moved = []
    for name, role in algorithm.roles.items():
        by = [as_words(part) for part in (role.optimizer, role.rule, role.optimizer_rule) if part is not None]
        by = [words for words in by if words != "frozen" or role.optimizer is None]
        if role.build is not None:
            by.append(f"runs on {as_words(role.build)}")
        size = sum(leaf.size for leaf in jax.tree.leaves(state.roles[name]))
        moved.append(Moved(name, started(role.start), size, tuple(by), role.optimizer is not None))
    return sorted(moved, key=lambda role: not role.learns)


def started(start: Any) -> str:
    """Writes how a role starts: "a copy of policy"."""
    match start:
        case Fresh():
            return "fresh"
        case CopyOf(role) | AdaptersOf(role):
            return f"{'adapters of' if isinstance(start, AdaptersOf) else 'a copy of'} {role}"
        case PoolOf(role, size):
            return f"{size} copies of {role}"
        case Restored(stage, role):
            return f"{role} of {stage}"
        case Value(function):
            return short(function)
        case Through(inner, function):
            return f"{started(inner)}, through {as_words(function)}"
    return short(start)


def short(value: Any) -> str:
    """Writes a value on one line: models by their name, what is long cut."""
    if isinstance(value, Fn):
        return as_words(value)
    if isinstance(value, tuple) and any(isinstance(part, Fn) for part in value):
        return f"({', '.join(map(short, value))})"
    if isinstance(value, Model):
        return "a model"
    text = getattr(value, "__name__", None) or repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def numbers(function: Fn) -> list[str]:
    """The hyper-parameters of a function, "tau = 0.05", without those that are None."""
    return [f"{name} = {short(value)}" for name, value in function.kwargs.items() if value is not None]


def as_words(function: Fn) -> str:
    """A function with its hyper-parameters, as a config writes it."""
    values = ", ".join(number.replace(" = ", "=", 1) for number in numbers(function))
    return f"{function.name}({values})" if values else function.name


def formulas(loss: Fn) -> list[tuple[Fn, str]]:
    """A loss and those that it wraps, each with the first paragraph of its docstring, which has the formula."""
    inner = [part for part in functions_within(loss) if part is loss or is_loss(part.function)]
    return [(part, first_paragraph(part.function)) for part in inner]


def first_paragraph(function: Any) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
