"""Merges of task vectors, what models learned since a common base: added, thinned out, held to a common sign."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.ranges import Fraction, Number, Share
from alignjax.types import Array, Key
from alignjax.weights.leaves import Leaf, check_sum, each, mixed, over_trees, thresholds

Numbers = tuple[Array, ...]


def _numbers(value: Any, count: int, name: str) -> Array:
    """A hyper-parameter of each model as an array [K]."""
    return jnp.stack([jnp.asarray(number, jnp.float32) for number in each(value, count, name)])


@over_trees(base=True)
def task_arithmetic(
    leaf: Leaf, *, weights: tuple[Number, ...], normalize: bool = False, scale: Number = 1.0
) -> Iterator[Array]:
    """Task arithmetic: theta_0 + scale sum_k w_k (theta_k - theta_0) (arXiv:2212.04089).

    Args:
        models: The trees theta_k.
        base: The tree theta_0.
        key: Not used.
        weights: w_k; a negative one takes away what that model learned.
        normalize: Divides the weights by their sum.
        scale: Strength of all together (mergekit's `lambda`).

    Returns:
        A tree in the dtypes of the base.
    """
    if normalize:
        check_sum(each(weights, leaf.count, "weights"))
    given = _numbers(weights, leaf.count, "weights")
    given = scale * (given / jnp.sum(given) if normalize else given)
    return mixed(leaf, jnp.concatenate([1 - jnp.sum(given, keepdims=True), given]))


@over_trees(base=True)
def expo(leaf: Leaf, *, alpha: Number = 0.5) -> Iterator[Array]:
    """ExPO, weak-to-strong extrapolation: theta + alpha (theta - theta_sft), theta an aligned model
    (arXiv:2404.16792).

    Args:
        models: The aligned model alone, [theta].
        base: theta_sft, what it was aligned from.
        key: Not used.
        alpha: How far beyond theta; 0 is theta, and -1 the base. The paper chooses it by a reward model.

    Returns:
        A tree in the dtypes of the base.

    Raises:
        ConfigError: If there is more than one model.
    """
    if leaf.count != 1:
        raise ConfigError(f"expo goes beyond one aligned model and was given {leaf.count}; task_arithmetic takes more")
    return task_arithmetic.rows(leaf, weights=(1 + alpha,))  # pyright: ignore


def agreed(parts: Array, weights: Array, normalize: bool) -> Array:
    """Adds up the entries that have the sign of their sum over models: the election and disjoint merge of TIES.

    Args:
        parts: w_k times the entries of each model [K,..].
        weights: w_k [K].
        normalize: Divides by the sum of the weights of the models that agree there.

    Returns:
        The sum [..], 0 where nobody has a say.
    """
    agrees = (jnp.sign(parts) == jnp.sign(jnp.sum(parts, axis=0, keepdims=True))) & (parts != 0)
    total = jnp.sum(jnp.where(agrees, parts, 0), axis=0)
    if not normalize:
        return total
    voices = jnp.sum(agrees * weights.reshape((-1,) + (1,) * (parts.ndim - 1)), axis=0)
    there = jnp.abs(voices) > 1e-8
    return jnp.where(there, total / jnp.where(there, voices, 1), total)


@functools.partial(jax.jit, static_argnames=("thin", "consensus", "normalize"))
def _merged(
    rows: Numbers, first: Array, key: Key | None, weights: Array, given: Numbers, scale: Array,
    *, thin: Callable[..., Array], consensus: bool, normalize: bool,
) -> Array:  # fmt: skip
    """The base with the thinned differences of a block added. thin(difference, key of each row, *given) -> what is left
    of one model's."""
    # A row draws from a key of its own, so that where blocks end changes nothing.
    base, *others = rows
    parts = []
    for k, other in enumerate(others):
        keys = None
        if key is not None:
            fold = functools.partial(jax.random.fold_in, jax.random.fold_in(key, k))
            keys = jax.vmap(fold)(first + jnp.arange(base.shape[0] if base.ndim else 1))
        parts.append(weights[k] * thin(other - base, keys, *(numbers[k] for numbers in given)))
    if consensus:
        return base + scale * agreed(jnp.stack(parts), weights, normalize)
    total = sum(parts, jnp.zeros_like(base))
    return base + scale * (total / jnp.sum(weights) if normalize else total)


def _thinned(leaf: Leaf, thin: Callable[..., Array], given: Numbers, weights: Any, scale: Any, **how: Any) -> Any:
    if how["normalize"]:
        check_sum(each(weights, leaf.count, "weights"))
    numbers = _numbers(weights, leaf.count, "weights")
    for first, rows in leaf.blocks():
        yield _merged(rows, jnp.asarray(first), leaf.key, numbers, given, jnp.asarray(scale), thin=thin, **how)


def _largest(difference: Array, keys: None, threshold: Array) -> Array:
    return jnp.where(jnp.abs(difference) >= threshold, difference, 0)


@over_trees(base=True)
def ties(
    leaf: Leaf,
    *,
    weights: tuple[Number, ...],
    density: Share | tuple[Share, ...] = 0.5,
    normalize: bool = True,
    scale: Number = 1.0,
) -> Iterator[Array]:
    """TIES: theta_0 + scale times the mean of those largest entries of w_k (theta_k - theta_0) that have the sign of
    their sum (arXiv:2306.01708).

    Of each leaf and model the share `density` of entries with the largest magnitude is kept, rounded down, at least
    one; entries of one magnitude with the last of them are kept too. A leaf is what the tree has as one, so that of
    stacked layers all are ranked together, and of published tensors each by itself.

    Args:
        models: The trees theta_k.
        base: The tree theta_0.
        key: Not used.
        weights: w_k; the paper has 1 for all.
        density: The share that is kept, of all models or of each.
        normalize: Divides each entry's sum by the weights of the models that agree there, as the paper does.
        scale: Strength of all together (the paper's lambda).

    Returns:
        A tree in the dtypes of the base.
    """
    kept = thresholds(leaf, _numbers(density, leaf.count, "density"))
    yield from _thinned(leaf, _largest, (kept,), weights, scale, consensus=True, normalize=normalize)


def _uniform(keys: Array, like: Array) -> Array:
    """Uniform numbers, a row of them from each key."""
    return jax.vmap(lambda key: jax.random.uniform(key, like.shape[1:]))(keys).reshape(like.shape)


def _at_random(difference: Array, keys: Array, keep: Array) -> Array:
    return jnp.where(_uniform(keys, difference) < keep, difference / keep, 0)


@over_trees(base=True, random=True)
def dare(
    leaf: Leaf,
    *,
    weights: tuple[Number, ...],
    density: Share | tuple[Share, ...] = 0.5,
    consensus: bool = False,
    normalize: bool = False,
    scale: Number = 1.0,
) -> Iterator[Array]:
    """DARE: theta_0 + scale sum_k w_k m_k (theta_k - theta_0) / density, each entry of the mask m_k being 1 with
    probability `density` (arXiv:2311.03099).

    Its expectation over masks is that of `task_arithmetic`, unless there is a consensus.

    Args:
        models: The trees theta_k.
        base: The tree theta_0.
        key: What masks are drawn from: one for the name of a leaf, the number of the model and the row.
        weights: w_k.
        density: The share that is kept in expectation, of all models or of each.
        consensus: Adds up only entries that have the sign of their sum, as `ties` does (mergekit's dare_ties).
        normalize: Divides by the sum of the weights (with a consensus, of those that agree).
        scale: Strength of all together.

    Returns:
        A tree in the dtypes of the base.
    """
    keep = _numbers(density, leaf.count, "density")
    yield from _thinned(leaf, _at_random, (keep,), weights, scale, consensus=consensus, normalize=normalize)


def _by_rank(difference: Array, keys: Array, density: Array, epsilon: Array) -> Array:
    """What is left where entries are kept with probabilities from density - epsilon to density + epsilon, by the rank
    of their magnitude in their row (the last axis)."""
    rank = jnp.argsort(jnp.argsort(jnp.abs(difference), axis=-1), axis=-1) if difference.ndim else jnp.zeros(())
    share = rank / max(difference.shape[-1] - 1 if difference.ndim else 0, 1)
    keep = jnp.clip(density + epsilon * (2 * share - 1), 1e-6, 1)
    return jnp.where(_uniform(keys, difference) < keep, difference / keep, 0)


@over_trees(base=True, random=True)
def della(
    leaf: Leaf,
    *,
    weights: tuple[Number, ...],
    density: Share | tuple[Share, ...] = 0.5,
    epsilon: Fraction | tuple[Fraction, ...] = 0.1,
    consensus: bool = True,
    normalize: bool = True,
    scale: Number = 1.0,
) -> Iterator[Array]:
    """DELLA: DARE whose entries are kept with probability density + epsilon (2 rank - 1) and divided by it, rank from 0
    for the smallest to 1 for the largest magnitude of a row (arXiv:2406.11617).

    The paper's epsilon is the whole width of these probabilities; this one is half of it, as mergekit's.

    Args:
        models: The trees theta_k.
        base: The tree theta_0.
        key: As of `dare`.
        weights: w_k.
        density: The share that is kept in expectation, of all models or of each.
        epsilon: How far probabilities go to either side of it, of all models or of each.
        consensus: Adds up only entries that have the sign of their sum, as the paper and `ties` do.
        normalize: Divides by the sum of the weights (with a consensus, of those that agree).
        scale: Strength of all together.

    Returns:
        A tree in the dtypes of the base.
    """
    given = (_numbers(density, leaf.count, "density"), _numbers(epsilon, leaf.count, "epsilon"))
    yield from _thinned(leaf, _by_rank, given, weights, scale, consensus=consensus, normalize=normalize)
