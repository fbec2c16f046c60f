"""An algorithm as two functions with a plain Batch between them: experience (stages) and update (losses, optimizers,
rules)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.sharding import NamedSharding

from alignjax.config import ConfigError, Fn
from alignjax.models.packing import packs
from alignjax.numerics import fold_name
from alignjax.parallel.mesh import place_batch, shard_rows
from alignjax.parallel.processes import (
    broadcast_from_main,
    gather_to_host,
    is_main_process,
    is_multi_process,
    raise_on_all_processes,
)
from alignjax.sampling.engine_client import ask_engine
from alignjax.scoring import TOKENS, Score, context as context_of, params_of, with_shared_passes
from alignjax.stages.host import host, replayed
from alignjax.train.state import TrainState, trained
from alignjax.types import Algorithm, Array, Batch, Context, Key, Mean, Metrics


def _only(algorithm: Algorithm, **parts: Any) -> Algorithm:
    """The algorithm without what a jitted function does not read, so that it compiles once for all that share the rest:
    online IPO and IPO-MD share an update, and every start shares everything."""
    roles = {name: dataclasses.replace(role, start=None) for name, role in algorithm.roles.items()}
    return dataclasses.replace(algorithm, roles=roles, **parts)


def _context(algorithm: Algorithm, state: TrainState, metrics: Metrics, **parts: Any) -> Context:
    """A Context of this state that scores as the algorithm says."""
    scoring = {"microbatches": algorithm.microbatches, "packing": algorithm.packing}
    return context_of(algorithm.roles, state.roles, step=state.step, metrics=metrics, **scoring, **parts)


def _that_packs(algorithm: Algorithm, batch: Batch) -> Algorithm:
    """The algorithm, without its packing for a batch that has more tokens than the packed rows have slots: another
    program then, and the same numbers. Of shapes alone, which do not say, the packed one."""
    if algorithm.packing is None or batch.tokens is None:
        return algorithm
    given = (batch.prompt_valid, batch.valid)
    if any(isinstance(leaf, Tracer | jax.ShapeDtypeStruct) for leaf in given):
        return algorithm
    prompt_valid, valid = gather_to_host(given)
    fitting = packs(algorithm.packing, prompt_valid, valid, algorithm.microbatches)
    return algorithm if fitting else dataclasses.replace(algorithm, packing=None)


def _values(metrics: Metrics) -> dict[str, Array]:
    return {name: metric.value() for name, metric in metrics.items()}


# ----------------------------------------------------------------------------------------------------------------
# experience


@functools.partial(jax.jit, static_argnames="names")
def _experience(
    algorithm: Algorithm, state: TrainState, batch: Batch, names: tuple[str, ...]
) -> tuple[Batch, dict[str, Array]]:
    metrics: Metrics = {}
    context = _context(algorithm, state, metrics, packed=batch)
    for name in names:
        batch = algorithm.experience[name](context, batch, fold_name(state.key(), name))
    return shard_rows(batch), _values(metrics)


def _segments(algorithm: Algorithm) -> list[tuple[str, ...]]:
    """Stage names cut at host stages: each host stage alone, the jitted ones between them together."""
    segments: list[tuple[str, ...]] = []
    for name, stage in algorithm.experience.items():
        alone = stage.function is host
        if alone or not segments or algorithm.experience[segments[-1][-1]].function is host:
            segments.append((name,))
        else:
            segments[-1] = (*segments[-1], name)
    return segments


def make_experience(
    algorithm: Algorithm, answers: Path | None = None
) -> Callable[[TrainState, Batch], tuple[Batch, dict[str, Array]]]:
    """experience(state, batch) -> (batch, metrics): the stages in order, jitted; `host` stages run in Python between
    jitted segments.

    answers: a folder where the answers of host stages are kept, so that a resumed run replays them instead of asking
    again.

    Raises ConfigError for what `check_asked` refuses.
    """
    check_asked(algorithm)
    segments = _segments(algorithm)
    algorithm = _only(algorithm, losses={})

    def experience(state: TrainState, batch: Batch) -> tuple[Batch, dict[str, Array]]:
        metrics: dict[str, Array] = {}
        for names in segments:
            stage = algorithm.experience[names[0]]
            if stage.function is host:
                key = fold_name(state.key(), names[0])
                context = _context(algorithm, state, {})
                batch = _asked(stage, names[0], int(state.step), context, batch, key, answers)
            else:
                batch, new = _experience(_that_packs(algorithm, batch), state, batch, names)
                metrics |= new
        return batch, metrics

    return experience


def _asked(stage: Fn, name: str, step: int, context: Context, batch: Batch, key: Key, answers: Path | None) -> Batch:
    """A host stage's answer, where its question was: on the same mesh. Of several processes the first asks, and tells
    the others."""
    places = {leaf.sharding for leaf in jax.tree.leaves(batch) if isinstance(leaf, jax.Array)}
    meshes: list[Any] = [place.mesh for place in places if isinstance(place, NamedSharding)]
    if not is_multi_process():
        answer = replayed(stage, name, step, context, batch, key, answers)
    else:
        given = gather_to_host(batch)
        answer = jax.tree.map(
            lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(stage.kwargs["like"], given)
        )
        key = jax.random.wrap_key_data(gather_to_host(jax.random.key_data(key)))
        alone = Context(context.roles, {}, step, {}, _not_on_one_process, _not_on_one_process)
        with raise_on_all_processes():
            if is_main_process():
                answer = replayed(stage, name, step, alone, given, key, answers)
        answer = broadcast_from_main(answer)
    return place_batch(answer, meshes[0]) if meshes else answer


def check_asked(algorithm: Algorithm) -> None:
    """Raises ConfigError, in a run of several processes, for an engine that is to be sent weights before it is asked:
    the first process asks alone, and cannot run or gather the weights that all hold together."""
    for name, stage in algorithm.experience.items():
        asked = stage.kwargs["stage"] if stage.function is host else None
        if (
            is_multi_process()
            and isinstance(asked, Fn)
            and asked.function is ask_engine
            and asked.kwargs["sync"] is not None
        ):
            raise ConfigError(
                f"stage {name!r}: ask_engine(sync=..) cannot send weights from a run of several processes, since the "
                "first of them asks alone: use one process, or leave out sync and serve the weights of a checkpoint"
            )


def _not_on_one_process(*asked: Any, **more: Any) -> Any:
    raise ConfigError(
        "a host stage of a run of several processes is asked by the first of them alone, which cannot run the models "
        "that all hold together: put what it needs into the batch, in a stage before it"
    )


def abstract_experience(algorithm: Algorithm, state: TrainState, batch: Batch) -> Batch:
    """Shapes of the batch that `experience` makes, by eval_shape: nothing runs, and a host stage answers with its
    declared `like`."""
    return abstract_made(algorithm, state, batch)[0]


def abstract_made(algorithm: Algorithm, state: TrainState, batch: Batch) -> tuple[Batch, dict[str, Any]]:
    """`abstract_experience` and the shapes of the stages' metrics."""
    metrics: dict[str, Any] = {}
    for names in _segments(algorithm):
        stage = algorithm.experience[names[0]]
        if stage.function is host:
            batch = jax.eval_shape(stage.kwargs["like"], batch)
        else:
            batch, new = jax.eval_shape(functools.partial(_experience, names=names), algorithm, state, batch)
            metrics |= new
    return batch, metrics


def first_rewrite(algorithm: Algorithm, state: TrainState, batch: Batch) -> str | None:
    """The first stage after which prompts or completions are not those of the source any more, or, being a host stage,
    need not be; None if all stages leave them alone. By tracing: nothing runs."""
    found: list[str] = []

    def run(state: TrainState, batch: Batch) -> None:
        context = _context(algorithm, state, {})
        for name, stage in algorithm.experience.items():
            if stage.function is not host:
                new = stage(context, batch, fold_name(state.key(), name))
            if stage.function is host or any(getattr(new, field) is not getattr(batch, field) for field in TOKENS):
                found.append(name)
                return
            batch = new

    jax.eval_shape(run, state, batch)
    return found[0] if found else None


# --------------------------------------------------------------------------------------------------------------------
# update


def _losses(algorithm: Algorithm, state: TrainState, batch: Batch) -> tuple[Array, Metrics]:
    """The sum of the losses and their metrics, every scoring pass shared between the losses."""

    def run(score: Score) -> tuple[Array, Metrics]:
        context, total, metrics = _context(algorithm, state, {}, score=score), jnp.zeros(()), {}
        for name, loss in algorithm.losses.items():
            mean, new = loss(context, batch)
            total += mean.value()
            metrics |= {f"{name}/{key}": metric for key, metric in new.items()} | {f"loss/{name}": mean}
        return total, metrics

    params = params_of(algorithm.roles, state.roles)
    return with_shared_passes(
        run, algorithm.roles, params, batch, microbatches=algorithm.microbatches, packing=algorithm.packing
    )


def _optimizer_step(algorithm: Algorithm, state: TrainState, batch: Batch, key: Key) -> tuple[TrainState, Metrics]:
    """One step of every optimizer along the gradient of the sum of the losses."""
    trees = {name: state.roles[name] for name in trained(algorithm.roles)}

    def objective(trees: Mapping[str, Any]) -> tuple[Array, Metrics]:
        return _losses(algorithm, dataclasses.replace(state, roles={**state.roles, **trees}), batch)

    gradients, metrics = jax.grad(objective, has_aux=True)(trees)
    roles, optimizers = dict(state.roles), dict(state.optimizers)
    for name, tree in trees.items():
        optimizer = algorithm.roles[name].optimizer
        assert optimizer is not None
        updates, optimizers[name] = optimizer().update(gradients[name], state.optimizers[name], tree)
        roles[name] = optax.apply_updates(tree, updates)
        metrics[f"gradient_norm/{name}"] = Mean(optax.tree.norm(gradients[name]), jnp.ones(()))
    return dataclasses.replace(state, roles=roles, optimizers=optimizers), metrics


def _minibatch(batch: Batch, order: Array, number: Array, minibatches: int, key: Key) -> Batch:
    """Minibatch `number` of a permuted batch. A view with as many rows stays with its rows, since a loss may compare
    the two; any other is permuted along its own B."""
    size = order.shape[0] // minibatches
    part = batch.take(jax.lax.dynamic_slice_in_dim(order, number * size, size))
    views = {}
    for name, view in batch.views.items():
        rows = jax.tree.leaves(view)[0].shape[0]
        if rows % minibatches:
            raise ConfigError(f"view {name!r} has {rows} rows, which do not split into {minibatches} minibatches")
        aligned = rows == order.shape[0]
        permuted = order if aligned else jax.random.permutation(fold_name(key, name), rows)
        views[name] = _minibatch(view, permuted, number, minibatches, fold_name(key, name))
    return part.replace(views=views)


def _many_steps(algorithm: Algorithm, state: TrainState, batch: Batch, key: Key) -> tuple[TrainState, Metrics]:
    """epochs x minibatches optimizer steps over the same experience, in one scan."""
    rows = jax.tree.leaves(batch.replace(views={}))[0].shape[0]
    if rows % algorithm.minibatches:
        raise ConfigError(
            f"{rows} prompts do not split into {algorithm.minibatches} minibatches; make batch_size a multiple"
        )

    def one(state: TrainState, index: Array) -> tuple[TrainState, Metrics]:
        epoch, number = jnp.divmod(index, algorithm.minibatches)
        epoch_key = jax.random.fold_in(key, epoch)
        order = jax.random.permutation(epoch_key, rows)
        part = _minibatch(batch, order, number, algorithm.minibatches, epoch_key)
        return _optimizer_step(algorithm, state, part, jax.random.fold_in(key, index))

    state, metrics = jax.lax.scan(one, state, jnp.arange(algorithm.epochs * algorithm.minibatches))
    return state, {name: Mean(mean.total.sum(0), mean.weight.sum(0)) for name, mean in metrics.items()}


def _apply_rules(algorithm: Algorithm, state: TrainState, batch: Batch, metrics: Metrics, key: Key) -> TrainState:
    """All rules at once, each from the values that stood before any of them: after the optimizer's step, for the roles
    that have one."""
    context = _context(algorithm, state, metrics)
    moved = {
        name: role.rule(state.roles[name], context, batch, fold_name(key, name))
        for name, role in algorithm.roles.items()
    }
    return TrainState({**state.roles, **moved}, state.optimizers, state.step, state.seed)


@functools.partial(jax.jit, donate_argnums=1)
def _update(algorithm: Algorithm, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
    key = fold_name(state.key(), "update")
    steps = _optimizer_step if algorithm.epochs * algorithm.minibatches == 1 else _many_steps
    new, metrics = steps(algorithm, state, batch, key) if algorithm.losses else (state, {})
    new = _apply_rules(algorithm, new, batch, metrics, key)
    values = _values(metrics)
    values["loss"] = sum((value for name, value in values.items() if name.startswith("loss/")), start=jnp.zeros(()))
    return TrainState(new.roles, new.optimizers, state.step + 1, state.seed), values


def make_update(algorithm: Algorithm) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """update(state, batch) -> (state, metrics): gradients, one optimizer step per minibatch and epoch, then the rules.
    Donates `state`.

    Float hyper-parameters enter as arguments, so algorithms that differ only in them share one compiled program.

    Raises ConfigError if a loss is given and no role has an optimizer, or if packing does not go with the rest.
    """
    if algorithm.losses and not trained(algorithm.roles):
        raise ConfigError(
            "the algorithm has losses but no role has an optimizer: Role(..., optimizer=fn(adamw, learning_rate=1e-3))"
        )
    alone = _only(algorithm, experience={})
    if algorithm.packing is None:
        return functools.partial(_update, alone)
    if algorithm.epochs * algorithm.minibatches > 1:
        raise ConfigError(
            "packing needs epochs=1 and minibatches=1: minibatches are drawn where rows cannot be counted"
        )
    return lambda state, batch: _update(_that_packs(alone, batch), state, batch)
