"""Averages of models, in straight lines and along spheres: each is a sum of the models whose coefficients follow from
the dot products between them."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.ranges import Count, Fraction, NonNegative, Number
from alignjax.types import Array
from alignjax.weights.leaves import Leaf, check_sum, each, gram, gram_of_differences, mixed, over_trees, summed


@over_trees()
def linear(leaf: Leaf, *, weights: tuple[Number, ...], normalize: bool = True) -> Iterator[Array]:
    """Weighted average: sum_k w_k theta_k, a model soup (arXiv:2203.05482).

    Args:
        models: The trees theta_k.
        base: Not used.
        key: Not used.
        weights: w_k.
        normalize: Divides the weights by their sum.

    Returns:
        A tree in the dtypes of the first one. Leaves that are no floating-point numbers are those of the first.
    """
    if normalize:
        check_sum(each(weights, leaf.count, "weights"))
    given = jnp.stack(jnp.broadcast_arrays(*map(jnp.float32, each(weights, leaf.count, "weights"))))
    return mixed(leaf, given / jnp.sum(given) if normalize else given)


@over_trees()
def p_soups(leaf: Leaf, *, preferences: tuple[NonNegative, ...]) -> Iterator[Array]:
    """Personalized soups: sum_i lambda_i theta_i / sum_i lambda_i over one policy for each dimension of preference, all
    trained from one start (arXiv:2310.11564).

    Args:
        models: A policy theta_i for each dimension.
        base: Not used.
        key: Not used.
        preferences: lambda_i, how much a person cares for each.

    Returns:
        That person's policy, in the dtypes of the first.
    """
    return linear.rows(leaf, weights=preferences)  # pyright: ignore


def _sine_ratio(share: Array, angle: Array) -> Array:
    """sin(share * angle) / sin(angle), `share` where the angle is 0 or a half turn."""
    sine = jnp.sin(angle)
    there = sine > 1e-3
    return jnp.where(there, jnp.sin(share * angle) / jnp.where(there, sine, 1), share)


def _cosines(dots: Array) -> Array:
    """Cosines [K,K] from dot products, 0 where a vector is 0."""
    norms = jnp.sqrt(jnp.diagonal(dots))
    product = norms[:, None] * norms[None, :]
    return jnp.clip(jnp.where(product > 0, dots / jnp.where(product > 0, product, 1), 0), -1, 1)


@over_trees()
def slerp(leaf: Leaf, *, t: Fraction) -> Iterator[Array]:
    """Spherical interpolation: [sin((1-t) a) theta_0 + sin(t a) theta_1] / sin a, a the angle between the leaves.

    With leaves of one norm the path keeps it. Where an angle is below 0.001, or that close to a half turn, where no
    path is singled out, it is the straight line; mergekit takes the line below an angle of 0.03, which differs from the
    arc by less than 1e-4 of a leaf.

    Args:
        models: theta_0 and theta_1.
        base: Not used.
        key: Not used.
        t: How far to go, 0 is the first model and 1 the second.

    Returns:
        A tree in the dtypes of the first.

    Raises:
        ConfigError: If there are not two models.
    """
    if leaf.count != 2:
        raise ConfigError(f"slerp goes from one model to another and was given {leaf.count}; karcher takes more")
    dots = summed(leaf, gram)
    angle = jnp.where(jnp.all(jnp.diagonal(dots) > 0), jnp.arccos(_cosines(dots)[0, 1]), 0)
    return mixed(leaf, jnp.stack([_sine_ratio(jnp.float32(1 - t), angle), _sine_ratio(jnp.float32(t), angle)]))


@over_trees()
def karcher(
    leaf: Leaf, *, weights: tuple[NonNegative, ...] | None = None, max_iter: Count = 10, tol: NonNegative = 1e-5
) -> Iterator[Array]:
    """Karcher mean: the direction with the least sum_k w_k angle(m, theta_k)^2, times the mean norm sum_k w_k
    |theta_k|, for each leaf.

    Of two models it is the point of `slerp` at t = w_2, for leaves of one norm. Directions more than a quarter turn
    apart may have several such means, of which the nearest to the straight average is found.

    Args:
        models: The trees theta_k.
        base: Not used.
        key: Not used.
        weights: w_k, divided by their sum; equal if None.
        max_iter: The most steps along the sphere.
        tol: In radians; a step shorter than this is not taken.

    Returns:
        A tree in the dtypes of the first.
    """
    given = jnp.asarray(each(1.0 if weights is None else weights, leaf.count, "weights"), jnp.float32)
    check_sum(each(1.0 if weights is None else weights, leaf.count, "weights"))
    share = given / jnp.sum(given)
    dots = summed(leaf, gram)
    norms = jnp.sqrt(jnp.diagonal(dots))
    cosines = jnp.where(jnp.eye(leaf.count, dtype=bool), 1.0, _cosines(dots))

    def unit(mean: Array) -> Array:
        return mean / jnp.sqrt(jnp.maximum(mean @ cosines @ mean, 1e-30))

    # The mean lies in the span of the models, so that the steps are taken on its coefficients; the tangent towards
    # model k is (theta_k - cos(angle) m) angle / sin(angle).
    def step(_: int, mean: Array) -> Array:
        cosine = jnp.clip(cosines @ mean, -1, 1)
        angle = jnp.arccos(cosine)
        pull = share * jnp.where(angle > 1e-3, angle / jnp.maximum(jnp.sin(angle), 1e-3), 1)
        tangent = pull - jnp.sum(pull * cosine) * mean
        length = jnp.sqrt(jnp.maximum(tangent @ cosines @ tangent, 0))
        moved = jnp.cos(length) * mean + jnp.sinc(length / jnp.pi) * tangent
        return jnp.where(length > tol, unit(moved), mean)

    mean = jax.lax.fori_loop(0, max_iter, step, unit(share))
    return mixed(leaf, mean * jnp.sum(share * norms) / jnp.where(norms > 0, norms, 1))


@over_trees(base=True)
def model_stock(leaf: Leaf) -> Iterator[Array]:
    """Model stock: t mean_k theta_k + (1 - t) theta_0, t = K cos / (1 + (K-1) cos), cos the mean cosine between the
    differences of K models from the base theta_0, for each leaf (arXiv:2403.19522 eq. 5).

    A cosine below 0, of which the paper does not speak, counts as 0: models that agree in nothing give back the base.

    Args:
        models: The trees theta_k.
        base: The tree theta_0 that they were trained from.
        key: Not used.

    Returns:
        A tree in the dtypes of the base.

    Raises:
        ConfigError: If there are fewer than two models.
    """
    count = leaf.count
    if count < 2:
        raise ConfigError("model_stock reads the angle between models and was given one; give two or more and the base")
    cosines = _cosines(summed(leaf, gram_of_differences))
    off = jnp.sum(jnp.where(jnp.eye(count, dtype=bool), 0, cosines))
    cosine = jnp.maximum(off / (count * (count - 1)), 0)
    t = count * cosine / (1 + (count - 1) * cosine)
    return mixed(leaf, jnp.stack([1 - t, *[t / count] * count]))
