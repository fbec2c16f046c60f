"""Online merging: every step of an optimizer is merged with what a model had learned before (optax transformations)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from alignjax.numerics import fold_name
from alignjax.ranges import Fraction, Seed, Share
from alignjax.tree_names import leaf_name
from alignjax.types import Array, Key, Params

Thin = Callable[[Array, Key], Array]


class OnlineMergeState(NamedTuple):
    """The number of steps, and the thinned task vector that each is merged with."""

    count: Array
    task: Params


def _thinned(tree: Any, thin: Thin, key: Key) -> Any:
    """A tree of which every leaf was thinned, with a key of its own."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: thin(leaf, fold_name(key, leaf_name(path))), tree)


def _merging(
    base: Params, thin: Thin, clip: float, merge: Callable[[Array, Array], Array], seed: Seed
) -> optax.GradientTransformation:
    """init: the task vector params - base, thinned once; update: merge(task, thinned update), leaf by leaf."""

    def init(params: Params) -> OnlineMergeState:
        task = jax.tree.map(lambda tuned, start: (tuned - start).astype(tuned.dtype), params, base)
        task = jax.tree.map(lambda leaf: jnp.clip(leaf, -clip, clip), _thinned(task, thin, jax.random.key(seed)))
        return OnlineMergeState(jnp.zeros((), jnp.int32), task)

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, OnlineMergeState]:
        count = state.count + 1
        thinned = _thinned(updates, thin, jax.random.fold_in(jax.random.key(seed), count))
        return jax.tree.map(merge, state.task, thinned), OnlineMergeState(count, state.task)

    return optax.GradientTransformation(init, update)


def online_dare(
    base: Params, *, alpha: Fraction = 1e-7, density: Share = 0.01, seed: Seed = 0
) -> optax.GradientTransformation:
    """OnDARE: alpha tau + (1 - alpha) m delta / density, delta the step of the optimizer in front of it and m a fresh
    mask that is 1 with probability `density`; tau = params - base, so masked once (arXiv:2405.17931).

    Chain it behind the rule and the learning rate: `optax.chain(optax.adam(1e-6), online_dare(base))`. tau is added at
    every step, T alpha tau in all, hence the small alpha. As in the released code tau is clipped to [-1, 1], and
    masks divide by the density.

    Args:
        base: What the params that it is started with were fine-tuned from.
        alpha: The share of tau.
        density: The share of entries that are kept in expectation.
        seed: Of the masks.

    Returns:
        The transformation.
    """

    def thin(leaf: Array, key: Key) -> Array:
        return jnp.where(jax.random.bernoulli(key, density, leaf.shape), leaf / density, 0).astype(leaf.dtype)

    def merge(task: Array, step: Array) -> Array:
        return (alpha * task + (1 - alpha) * step).astype(step.dtype)

    return _merging(base, thin, 1.0, merge, seed)


def online_ties(base: Params, *, alpha: Fraction = 1e-7, density: Share = 0.5) -> optax.GradientTransformation:
    """OnTIES: alpha tau + (1 - alpha) delta, of each only the largest entries of a leaf, and of these only those with
    the sign of tau + delta, + where that is 0 (arXiv:2405.17931).

    See `online_dare`, which says what both are. Entries of one magnitude with the last that is kept are kept too.

    Args:
        base: What the params that it is started with were fine-tuned from.
        alpha: The share of tau.
        density: The share of entries of a leaf that are kept, rounded down, at least one.

    Returns:
        The transformation.
    """

    def thin(leaf: Array, key: Key) -> Array:
        size = jnp.abs(leaf)
        kept = jnp.maximum(jnp.floor(density * leaf.size), 1).astype(jnp.int32)
        return jnp.where(size >= jnp.sort(size.reshape(-1))[leaf.size - kept], leaf, 0)

    def merge(task: Array, step: Array) -> Array:
        sign = jnp.where(task + step >= 0, 1, -1)
        task, step = (jnp.where(part * sign > 0, part, 0) for part in (task, step))
        return (alpha * task + (1 - alpha) * step).astype(step.dtype)

    return _merging(base, thin, jnp.inf, merge, 0)
