"""A leaf of several models, as blocks of rows: what a merge is written for, so that the same lines merge the leaves of
trees in memory and the tensors of folders that are larger than memory.

A method is a generator that reads the blocks as often as it must (a dot product, a threshold) and yields the merged
rows of each. `over_trees` makes a function over pytrees of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from alignjax.config import ConfigError, hyperparameters
from alignjax.numerics import as_float32, fold_name
from alignjax.tree_names import leaf_name
from alignjax.types import Array, Key, Params

Block = tuple[int, tuple[Array, ...]]  # the number of the first row, and these rows of each model in float32


class Leaf(NamedTuple):
    """A leaf of several models.

    Attributes:
        blocks: blocks() -> its rows (slices of the first axis) in order, as often as asked; the base stands first where
            there is one.
        size: The number of its entries.
        count: The number of models, without the base.
        key: Of what is drawn for it, or None.
    """

    blocks: Callable[[], Iterable[Block]]
    size: int
    count: int
    key: Key | None = None


Method = Callable[..., Iterator[Array]]


def over_trees(*, base: bool = False, random: bool = False) -> Callable[[Method], Callable[..., Params]]:
    """Makes a merge of trees of one of a leaf, method(leaf, *, hyper-parameters) -> merged rows of each block, which
    stays reachable as `.rows`.

    Args:
        base: Whether the leaf's first model is what the others were trained from.
        random: Whether the leaf needs a key.

    Returns:
        A decorator. What it makes is called as merge(models, base=None, key=None, *, hyper-parameters).
    """
    # A leaf of a tree is one block, the whole of it; the result has the signature that `alignjax list` and fn read.

    def decorate(method: Method) -> Callable[..., Params]:
        name = method.__name__

        def merge(
            models: Sequence[Params], base: Params | None = None, key: Key | None = None, **values: Any
        ) -> Params:
            trees = _checked(name, models, base, key, merge)

            def leaf(path: tuple[Any, ...], *leaves: Array) -> Array:
                if not jnp.issubdtype(leaves[0].dtype, jnp.floating):
                    return leaves[0]
                rows = tuple(as_float32(leaf) for leaf in leaves)
                here = None if key is None else fold_name(key, leaf_name(path))
                (merged,) = method(Leaf(lambda: [(0, rows)], leaves[0].size, len(models), here), **values)
                return merged.astype(leaves[0].dtype)

            return jax.tree_util.tree_map_with_path(leaf, *trees)

        for attribute in ("__name__", "__qualname__", "__doc__", "__module__"):
            setattr(merge, attribute, getattr(method, attribute))
        places = [
            inspect.Parameter(each, inspect.Parameter.POSITIONAL_OR_KEYWORD) for each in ("models", "base", "key")
        ]
        merge.__signature__ = inspect.Signature([*places, *hyperparameters(method).values()])  # pyright: ignore
        merge.__annotations__ = {**method.__annotations__, "return": "Params"}
        merge.rows, merge.base, merge.random = method, base, random  # pyright: ignore
        return merge

    return decorate


def _checked(
    name: str, models: Sequence[Params], base: Params | None, key: Key | None, merge: Any
) -> tuple[Params, ...]:
    """All trees, the base first, after what a merge cannot do without was looked for."""
    if merge.base and base is None:
        raise ConfigError(f"{name} merges what models learned since a common base; give base=, that model's params")
    if merge.random and key is None:
        raise ConfigError(f"{name} drops entries at random; give key=, a key of jax.random")
    trees = (base, *models) if merge.base else tuple(models)
    if len(trees) < 2:
        raise ConfigError(f"{name} was given {len(trees)} model; there is nothing to merge")
    shapes = [jax.tree.map(jnp.shape, tree) for tree in trees]
    if any(shape != shapes[0] for shape in shapes):
        raise ConfigError(f"{name} merges trees of one structure and shape, and these differ; are they of one model?")
    return trees


def each(value: Any, count: int, name: str) -> tuple[Any, ...]:
    """Gives a hyper-parameter to each model: the same one, or its own of a tuple.

    Raises:
        ConfigError: The tuple has another length.
    """
    if isinstance(value, tuple) and len(value) != count:
        raise ConfigError(f"{name} has {len(value)} numbers for {count} models; give one for each")
    return value if isinstance(value, tuple) else (value,) * count


def check_sum(weights: Sequence[Any]) -> None:
    """Checks that weights can be divided by their sum; those that are traced have no value to check.

    Raises:
        ConfigError: They add up to 0.
    """
    known = not any(isinstance(weight, Tracer) for weight in weights)
    if known and abs(sum(weights)) <= 1e-6 * sum(map(abs, weights)):  # 0.1 + 0.2 - 0.3 is not quite 0 either
        raise ConfigError("the weights add up to 0 and cannot be normalized; give others, or set normalize: false")


def summed(leaf: Leaf, function: Callable[..., Array], *args: Any) -> Array:
    """Adds up function(rows, *args) over the blocks, one of which is in memory at a time."""
    total: Any = 0
    for _, rows in leaf.blocks():
        total = jax.block_until_ready(total + function(rows, *args))
    return total


@jax.jit
def gram(rows: tuple[Array, ...]) -> Array:
    """Returns the dot products [K,K] of K models' rows."""
    flat = [row.reshape(-1) for row in rows]
    highest = jax.lax.Precision.HIGHEST
    return jnp.stack([jnp.stack([jnp.dot(a, b, precision=highest) for b in flat]) for a in flat])


@jax.jit
def gram_of_differences(rows: tuple[Array, ...]) -> Array:
    """Returns the dot products [K,K] of what K models differ in from the first of K + 1."""
    base, *others = rows
    return gram(tuple(other - base for other in others))


@jax.jit
def _mixed(coefficients: Array, rows: tuple[Array, ...]) -> Array:
    return sum((coefficients[k] * row for k, row in enumerate(rows)), jnp.zeros_like(rows[0]))


def mixed(leaf: Leaf, coefficients: Array) -> Iterator[Array]:
    """Yields sum_k coefficients[k] rows[k] of each block."""
    for _, rows in leaf.blocks():
        yield _mixed(coefficients, rows)


# ----------------------------------------------------------------------------------------------------------- thresholds

_HALF = 16
_LOW = 2**_HALF - 1


@jax.jit
def _counts(rows: tuple[Array, ...], upper: Array) -> Array:
    """How many magnitudes of differences from the base have which upper half of their bits [K,2^16], or, where `upper`
    [K] is not negative, of those with this upper half, which lower one."""

    def count(row: Array, upper: Array) -> Array:
        bits = jax.lax.bitcast_convert_type(jnp.abs(row - rows[0]), jnp.uint32)
        high, low = (bits >> _HALF).astype(jnp.int32), (bits & _LOW).astype(jnp.int32)
        at = jnp.where(upper < 0, high, jnp.where(high == upper, low, _LOW + 1)).reshape(-1)
        return jnp.zeros(_LOW + 1, jnp.int32).at[at].add(1, mode="drop")

    return jnp.stack([count(row, upper[k]) for k, row in enumerate(rows[1:])])


def thresholds(leaf: Leaf, density: Array) -> Array:
    """Finds the magnitudes [K] that a share `density` [K] of the entries of each model's difference from the base has
    at least: exactly, in two looks at every block and without sorting or keeping them.

    Raises:
        ConfigError: The leaf has 2^31 entries or more.
    """
    # Floats that are not negative are ordered as their bits are as whole numbers, so a histogram of the upper half of
    # the bits finds where the k-th largest lies, and one of the lower half there which it is.
    if leaf.size >= 2**31:
        raise ConfigError(f"a leaf has {leaf.size:,} entries, and thresholds are counted up to 2^31; merge folders")
    kept = jnp.maximum(jnp.floor(density * leaf.size), 1)

    def crossing(counts: Array, kept: Array) -> tuple[Array, Array]:
        """The bin in which the k-th from above lies, and how many are wanted of it."""
        above = jnp.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
        bins = jnp.sum(above >= kept[:, None], axis=1) - 1
        own = jnp.take_along_axis(counts, bins[:, None], axis=1)[:, 0]
        return bins, kept - (jnp.take_along_axis(above, bins[:, None], axis=1)[:, 0] - own)

    upper, rest = crossing(summed(leaf, _counts, jnp.full(kept.shape, -1)), kept)
    lower, _ = crossing(summed(leaf, _counts, upper), rest)
    bits = (upper.astype(jnp.uint32) << _HALF) | lower.astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)
