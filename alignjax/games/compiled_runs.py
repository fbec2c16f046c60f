"""Runs on a game as one compiled program: experience and update are one function, scanned over steps, mapped over seeds
and over any float hyper-parameters of the algorithm, which is a pytree of them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.config import ConfigError
from alignjax.ranges import Count, Seed
from alignjax.roles import Restored
from alignjax.train.ask_host import is_asked
from alignjax.train.state import TrainState, init_state
from alignjax.train.step import make_experience, make_update
from alignjax.types import Algorithm, Array, Batch


class Played(NamedTuple):
    """The outcome of a run.

    state: after the last step; tables: {role: its params after every `every` steps, [.., steps / every, ...]}; metrics:
    {name: means over those `every` steps, [.., steps / every]}.
    """

    state: TrainState
    tables: dict[str, Any]
    metrics: dict[str, Array]


def iterate(algorithm: Algorithm, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
    """Run one whole iteration, experience and update.

    Args:
        algorithm: The algorithm.
        state: Its state before the iteration.
        batch: Prompts.

    Returns:
        The state after it, and the metrics of both halves by name.
    """
    batch, seen = make_experience(algorithm)(state, batch)
    state, learned = make_update(algorithm)(state, batch)
    return state, {**seen, **learned}


def _play(algorithm: Algorithm, seed: Any, batch: Batch, *, steps: int, every: int, follow: tuple[str, ...]) -> Played:
    def block(state: TrainState, _: None) -> tuple[TrainState, Any]:
        state, metrics = jax.lax.scan(lambda state, _: iterate(algorithm, state, batch), state, length=every)
        return state, ({name: state.roles[name] for name in follow}, jax.tree.map(lambda m: m.mean(0), metrics))

    # The barrier keeps XLA from computing with the first tables, which are constants to it, while it compiles.
    first = jax.lax.optimization_barrier(init_state(algorithm, seed, {}))
    state, (tables, metrics) = jax.lax.scan(block, first, length=steps // every)
    return Played(state, tables, metrics)


_play_once = jax.jit(_play, static_argnames=("steps", "every", "follow"))


def play(
    algorithm: Algorithm,
    batch: Batch,
    *,
    steps: Count,
    seed: Seed = 0,
    every: Count | None = None,
    follow: tuple[str, ...] = ("policy",),
) -> Played:
    """Run an algorithm on the same batch of prompts, compiled once for all algorithms that differ only in floats. It
    takes the steps that `alignjax train` takes.

    Args:
        algorithm: An algorithm on a game.
        batch: Prompts, such as `games.Contexts(count, batch_size)[0]`.
        steps: The number of iterations.
        seed: The seed of the run.
        every: Iterations between two tables that are returned (default: the last one only).
        follow: The roles whose tables are returned.

    Raises:
        ConfigError: For what cannot be one program: a host stage, or a role restored from a checkpoint; and where
            `every` does not divide `steps`.
    """
    every = _checked(algorithm, steps, every)
    return _play_once(algorithm, jnp.uint32(seed), batch, steps=steps, every=every, follow=tuple(follow))


@functools.partial(jax.jit, static_argnames=("structure", "mapped", "steps", "every", "follow"))
def _grid(
    leaves: list[Array], seeds: Array, batch: Batch, *, structure: Any, mapped: tuple[bool, ...], **kinds: Any
) -> Played:
    def play_point(leaves: list[Array], seed: Array) -> Played:
        return _play(jax.tree.unflatten(structure, leaves), seed, batch, **kinds)

    over_seeds = jax.vmap(play_point, in_axes=(None, 0))
    axes = [0 if varies else None for varies in mapped]
    return jax.vmap(over_seeds, in_axes=(axes, None))(leaves, seeds) if any(mapped) else over_seeds(leaves, seeds)


def grid(
    points: Sequence[Algorithm],
    batch: Batch,
    *,
    steps: Count,
    seeds: Sequence[Seed] = (0,),
    every: Count | None = None,
    follow: tuple[str, ...] = ("policy",),
) -> Played:
    """Run every algorithm of `points` from every seed, as one compiled program.

    Args:
        points: One algorithm with different float hyper-parameters.
        batch: Prompts, the same for all.
        steps: The number of iterations.
        seeds: The seeds of the runs.
        every: Iterations between two tables that are returned (default: the last one only).
        follow: The roles whose tables are returned.

    Returns:
        What `play` returns, [points, seeds, ...].

    Raises:
        ConfigError: If the points differ in anything else, and where `play` does.
    """
    # Leaves that differ between points are mapped over and the others stay scalars: what does not vary is not batched,
    # and a grid whose points are all equal runs as a single point.
    every = _checked(points[0], steps, every)
    structures = {jax.tree.structure(point) for point in points}
    if len(structures) > 1:
        raise ConfigError("the points of a grid differ in more than numbers (float hyper-parameters)")
    columns = list(zip(*(jax.tree.leaves(point) for point in points), strict=True))
    mapped = tuple(len(set(column)) > 1 for column in columns)
    leaves = [
        jnp.asarray(column if varies else column[0], float) for column, varies in zip(columns, mapped, strict=True)
    ]
    kinds = {"structure": structures.pop(), "mapped": mapped, "steps": steps, "every": every, "follow": tuple(follow)}
    played = _grid(leaves, jnp.asarray(np.asarray(seeds), jnp.uint32), batch, **kinds)
    return played if any(mapped) else jax.tree.map(lambda leaf: leaf[None], played)


def _checked(algorithm: Algorithm, steps: int, every: int | None) -> int:
    """Return `every`, or refuse a run that cannot be one program."""
    every = steps if every is None else every
    if every < 1 or steps % every:
        raise ConfigError(f"every={every} must divide steps={steps}")
    if any(map(is_asked, algorithm.experience.values())):
        raise ConfigError("a run with a host stage is not one program; train it with `alignjax train`")
    for name, role in algorithm.roles.items():
        if isinstance(role.start, Restored):
            raise ConfigError(f"role {name!r} starts from a checkpoint; a run that is one program starts by itself")
    return every
