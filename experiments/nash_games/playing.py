"""Several runs of an algorithm, one for each game and seed, as one compiled program: experience and update are one
function, scanned over iterations and mapped over games and seeds."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import softmax

from alignjax import games
from alignjax.games.compiled_runs import iterate
from alignjax.train.state import TrainState, init_state
from alignjax.types import Algorithm, Array, Batch


@functools.partial(jax.jit, static_argnames="steps")
def _played(algorithms: Algorithm, states: TrainState, seeds: Array, batch: Batch, *, steps: int) -> Array:
    def one(algorithm: Algorithm, state: TrainState, seed: Array) -> Array:
        def step(state: TrainState, _: None) -> tuple[TrainState, Array]:
            return iterate(algorithm, state, batch)[0], state.roles["policy"]["logits"]

        state, before = jax.lax.scan(step, dataclasses.replace(state, seed=seed), length=steps)
        return jnp.concatenate([before, state.roles["policy"]["logits"][None]])

    over_seeds = jax.vmap(one, in_axes=(None, None, 0))
    return jax.vmap(over_seeds, in_axes=(0, 0, None))(algorithms, states, seeds)


def play(algorithms: Sequence[Algorithm], *, steps: int, seeds: int, rows: int) -> np.ndarray:
    """Policies [algorithms, seeds, steps + 1, K] before every iteration and after the last.

    The algorithms may differ in floats and in where their roles start, as one algorithm on games of one shape does:
    tables of a game are state, numbers are leaves. rows: of the batch of prompts.
    """
    states = [init_state(algorithm, jnp.uint32(0), {}) for algorithm in algorithms]
    bare = [
        dataclasses.replace(
            one, roles={name: dataclasses.replace(role, start=None) for name, role in one.roles.items()}
        )
        for one in algorithms
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *bare)
    batch = jax.tree.map(jnp.asarray, games.contexts(None, 0, batch_size=rows)[0])
    logits = _played(
        stacked, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states), jnp.arange(seeds, dtype=jnp.uint32), batch,
        steps=steps,
    )  # fmt: skip
    return softmax(np.asarray(logits, np.float64)[..., 0, :], axis=-1)
