"""An algorithm becomes two functions with a plain Batch between them: experience (its stages, a program each) and
update (its losses, optimizers and rules, one program)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from alignjax.config import ConfigError
from alignjax.models.packing import packs
from alignjax.numerics import fold_name
from alignjax.parallel import processes
from alignjax.parallel.mesh import shard_rows
from alignjax.scoring import TOKENS, Score, context as context_of, params_of, with_shared_passes
from alignjax.stages.text_functions import text_function
from alignjax.train.ask_host import AskTexts, answer_to, ask_stage, ask_text_stage, check_asked, is_host
from alignjax.train.on_policy import on_policy
from alignjax.train.state import TrainState, trained, unchanging
from alignjax.types import Algorithm, Array, Batch, Context, Key, Mean, Metrics, prefixed, with_metrics

Made = tuple[Batch, dict[str, Any]]  # a batch with its experience, and the metrics of the stages
Experience = Callable[[TrainState, Batch], Made]
Update = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]


def _only(algorithm: Algorithm, **parts: Any) -> Algorithm:
    """Takes out of the algorithm what a jitted function does not read, so that it compiles once for all that share the
    rest: online IPO and IPO-MD share an update, and every start shares everything."""
    roles = {name: dataclasses.replace(role, start=None) for name, role in algorithm.roles.items()}
    return dataclasses.replace(algorithm, roles=roles, **parts)


def _context(algorithm: Algorithm, state: TrainState, metrics: Metrics, **parts: Any) -> Context:
    """A Context of this state that scores as the algorithm says."""
    scoring = {"microbatches": algorithm.microbatches, "packing": algorithm.packing}
    return context_of(algorithm.roles, state.roles, step=state.step, metrics=metrics, **scoring, **parts)


def _packed_if_it_fits(algorithm: Algorithm, batch: Batch) -> Algorithm:
    """Takes out the packing for a batch that has more tokens than the packed rows have slots: another program then, and
    the same numbers. Shapes alone do not say, and keep it."""
    if algorithm.packing is None or batch.tokens is None:
        return algorithm
    masks = (batch.prompt_valid, batch.valid)
    if any(isinstance(leaf, Tracer | jax.ShapeDtypeStruct) for leaf in masks):
        return algorithm
    prompt_valid, valid = processes.gather_to_host(masks)
    fits = packs(algorithm.packing, prompt_valid, valid, algorithm.microbatches)
    return algorithm if fits else dataclasses.replace(algorithm, packing=None)


def _values(metrics: Metrics) -> dict[str, Array]:
    """The values of means."""
    return {name: metric.value() for name, metric in metrics.items()}


# ----------------------------------------------------------------------------------------------------------------
# experience


@functools.partial(jax.jit, static_argnames="name")
def _experience(algorithm: Algorithm, state: TrainState, batch: Batch, name: str, answer: Array | None = None) -> Made:
    """Runs one stage; the values of its metrics. answer: what its text function said; None: it is only traced."""
    stage = algorithm.experience[name]
    context = _context(algorithm, state, {}, packed=batch)
    here = dataclasses.replace(context, ask=answer_to(name, stage, batch, answer))
    batch, new = with_metrics(stage(here, batch, fold_name(state.key(), name)))
    if not isinstance(batch, Batch):
        raise ConfigError(
            f"stage {name!r}, {stage.name}, returned {type(batch).__name__} and no Batch; a judge goes into "
            "fn(stages.prefer, judge=...)"
        )
    return shard_rows(batch), _values(prefixed(name, new))


def _stage(algorithm: Algorithm, name: str) -> Algorithm:
    """Takes all stages but one out of the algorithm."""
    return dataclasses.replace(algorithm, experience={name: algorithm.experience[name]})


def make_experience(algorithm: Algorithm, answers: Path | None = None, ask_texts: AskTexts | None = None) -> Experience:
    """Makes the function that runs the stages in order, each jitted; `host` stages and text functions run in Python.

    Args:
        algorithm: The algorithm.
        answers: A folder where the answers of host stages are kept, so that a resumed run replays them instead of
            asking again.
        ask_texts: Asks text functions (`text_host.text_host`).

    Returns:
        experience(state, batch) -> (batch, {"stage/metric": value}).

    Raises:
        ConfigError: `check_asked` refuses a stage.
    """
    # A host stage needs arrays that exist. The others are a program each, so that runs that sample alike, or ask one
    # judge, share what takes long to compile, whatever the other stages are.
    check_asked(algorithm)
    algorithm = _only(algorithm, losses={})
    alone = {name: _stage(algorithm, name) for name in algorithm.experience}

    def experience(state: TrainState, batch: Batch) -> Made:
        metrics: dict[str, Array] = {}
        for name, stage in algorithm.experience.items():
            if is_host(stage):
                key = fold_name(state.key(), name)
                batch, new = with_metrics(ask_stage(name, stage, _context(algorithm, state, {}), batch, key, answers))
                metrics |= _values(prefixed(name, new))
            else:
                answer = (
                    ask_text_stage(name, stage, int(state.step), batch, ask_texts) if text_function(stage) else None
                )
                batch, new = _experience(_packed_if_it_fits(alone[name], batch), state, batch, name, answer)
                metrics |= new
        return batch, metrics

    return experience


def abstract_experience(algorithm: Algorithm, state: TrainState, batch: Batch) -> Made:
    """Returns the shapes of what `experience` makes from shapes: nothing runs, and a host stage answers with its
    declared `like`.

    Args:
        algorithm: Has the stages.
        state: A state, or its shapes.
        batch: A batch, or its shapes.

    Returns:
        (batch, metrics), shapes both.
    """
    metrics: dict[str, Any] = {}
    algorithm = _only(algorithm, losses={})
    for name, stage in algorithm.experience.items():
        if is_host(stage):
            batch, new = with_metrics(jax.eval_shape(stage.kwargs["like"], batch))
            metrics |= jax.eval_shape(_values, prefixed(name, new))
        else:
            batch, new = jax.eval_shape(
                functools.partial(_experience, name=name), _stage(algorithm, name), state, batch
            )
            metrics |= new
    return batch, metrics


def first_rewrite(algorithm: Algorithm, state: TrainState, batch: Batch) -> str | None:
    """Finds the first stage after which prompts or completions are not those of the source any more, by tracing shapes.

    A host stage may always change them.

    Returns:
        The name of the stage, or None if all stages leave prompts and completions alone.
    """

    names: list[str] = []

    def look(state: TrainState, batch: Batch) -> None:
        context = _context(algorithm, state, {})
        for name, stage in algorithm.experience.items():
            here = dataclasses.replace(context, ask=answer_to(name, stage, batch, None))
            answer = None if is_host(stage) else stage(here, batch, fold_name(state.key(), name))
            new, _ = with_metrics(answer)
            if new is None or any(getattr(new, field) is not getattr(batch, field) for field in TOKENS):
                names.append(name)
                return
            batch = new

    jax.eval_shape(look, state, batch)
    return next(iter(names), None)


# --------------------------------------------------------------------------------------------------------------------
# update


def _losses(algorithm: Algorithm, state: TrainState, batch: Batch) -> tuple[Array, Metrics]:
    """The sum of the losses and their metrics, every scoring pass shared between the losses."""

    def run(score: Score) -> tuple[Array, Metrics]:
        context, total, metrics = _context(algorithm, state, {}, score=score), jnp.zeros(()), {}
        for name, loss in algorithm.losses.items():
            mean, new = loss(context, batch)
            total += mean.value()
            metrics |= prefixed(name, new) | {f"loss/{name}": mean}
        return total, metrics

    params = params_of(algorithm.roles, state.roles)
    return with_shared_passes(
        run, algorithm.roles, params, batch, microbatches=algorithm.microbatches, packing=algorithm.packing
    )


def _optimizer_step(algorithm: Algorithm, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
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
    the two; any other is permuted along a B of its own."""
    size = order.shape[0] // minibatches
    part = batch.take(jax.lax.dynamic_slice_in_dim(order, number * size, size))
    views = {}
    for name, view in batch.views.items():
        rows = jax.tree.leaves(view)[0].shape[0]
        if rows % minibatches:
            raise ConfigError(f"view {name!r} has {rows} rows, which do not split into {minibatches} minibatches")
        permuted = order if rows == order.shape[0] else jax.random.permutation(fold_name(key, name), rows)
        views[name] = _minibatch(view, permuted, number, minibatches, fold_name(key, name))
    return part.replace(views=views)


def _many_steps(algorithm: Algorithm, state: TrainState, batch: Batch, key: Key) -> tuple[TrainState, Metrics]:
    """Takes epochs x minibatches optimizer steps over the same experience, in one scan."""
    rows = jax.tree.leaves(batch.replace(views={}))[0].shape[0]
    if rows % algorithm.minibatches:
        raise ConfigError(
            f"{rows} prompts do not split into {algorithm.minibatches} minibatches; make batch_size a multiple"
        )

    def take(state: TrainState, index: Array) -> tuple[TrainState, Metrics]:
        if algorithm.minibatches == 1:  # in whatever order; on a mesh, rows then stay where they are
            return _optimizer_step(algorithm, state, batch)
        epoch, number = jnp.divmod(index, algorithm.minibatches)
        epoch_key = jax.random.fold_in(key, epoch)
        order = jax.random.permutation(epoch_key, rows)
        part = _minibatch(batch, order, number, algorithm.minibatches, epoch_key)
        return _optimizer_step(algorithm, state, part)

    state, metrics = jax.lax.scan(take, state, jnp.arange(algorithm.epochs * algorithm.minibatches))
    return state, {name: Mean(mean.total.sum(0), mean.weight.sum(0)) for name, mean in metrics.items()}


def _apply_rules(
    algorithm: Algorithm, before: Mapping[str, Any], state: TrainState, batch: Batch, metrics: Metrics, key: Key
) -> TrainState:
    """Applies all rules at once, each to the values that stood before any of them: after the optimizer's step, for the
    roles that have one. `before` are the states of the optimizers before it, which their rules may go back to."""
    context = _context(algorithm, state, metrics)
    moved = {
        name: role.rule(state.roles[name], context, batch, fold_name(key, name))
        for name, role in algorithm.roles.items()
    }
    optimizers = {
        name: rule(state.optimizers[name], dataclasses.replace(context, state=before), batch, fold_name(key, name))
        for name, role in algorithm.roles.items()
        if (rule := role.optimizer_rule) is not None and name in state.optimizers
    }
    return dataclasses.replace(state, roles=moved, optimizers={**state.optimizers, **optimizers})


@functools.partial(jax.jit, donate_argnums=1)
def _update(
    algorithm: Algorithm, state: TrainState, fixed: Mapping[str, Any], batch: Batch
) -> tuple[TrainState, dict[str, Array]]:
    """One update in one program, of a state without the roles that no step changes; the values of its metrics."""
    state = dataclasses.replace(state, roles={**state.roles, **fixed})
    key = fold_name(state.key(), "update")
    if not algorithm.losses:
        new, metrics = state, {}
    elif algorithm.epochs * algorithm.minibatches == 1:
        new, metrics = _optimizer_step(algorithm, state, batch)
    else:
        new, metrics = _many_steps(algorithm, state, batch, key)
    new = _apply_rules(algorithm, state.optimizers, new, batch, metrics, key)
    values = _values(metrics)
    values["loss"] = sum((value for name, value in values.items() if name.startswith("loss/")), start=jnp.zeros(()))
    roles = {name: tree for name, tree in new.roles.items() if name not in fixed}
    return dataclasses.replace(new, roles=roles, step=state.step + 1), values


def _learn(algorithm: Algorithm, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
    """One update, which gives back the roles that no step changes as they are. They are no result of its program, so
    that runs share it which differ in such roles only, as a judge that no loss reads."""
    names = unchanging(algorithm.roles)
    fixed = {name: state.roles[name] for name in names}
    rest = {name: tree for name, tree in state.roles.items() if name not in fixed}
    new, metrics = _update(algorithm, dataclasses.replace(state, roles=rest), fixed, batch)
    return dataclasses.replace(new, roles={**state.roles, **new.roles}), metrics


def make_update(algorithm: Algorithm) -> Update:
    """Makes the function that learns from a batch: gradients, one optimizer step per minibatch and epoch, then the
    rules.

    Float hyper-parameters enter as arguments, so algorithms that differ only in them share one compiled program.

    Args:
        algorithm: The algorithm.

    Returns:
        update(state, batch) -> (state, metrics), which donates `state`.

    Raises:
        ConfigError: There are losses and no role has an optimizer; several steps are taken on the same samples by a
            loss that is right for the first (`on_policy`); or packing does not go with minibatches or epochs.
    """
    if algorithm.losses and not trained(algorithm.roles):
        raise ConfigError(
            "the algorithm has losses but no role has an optimizer: Role(..., optimizer=fn(adamw, learning_rate=1e-3))"
        )
    several = algorithm.epochs * algorithm.minibatches > 1
    if several and (names := on_policy(algorithm)):
        raise ConfigError(
            f"epochs={algorithm.epochs}, minibatches={algorithm.minibatches}: after the first step the samples are "
            f"those of an earlier policy, and {names[0]}, or take one step"
        )
    alone = _only(algorithm, experience={})
    if algorithm.packing is None:
        return functools.partial(_learn, alone)
    if several:
        raise ConfigError(
            "packing needs epochs=1 and minibatches=1: minibatches are drawn where rows cannot be counted"
        )
    return lambda state, batch: _learn(_packed_if_it_fits(alone, batch), state, batch)
