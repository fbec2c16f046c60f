"""Directions between two sets of states: pure functions of positive [m,..,D] and negative [n,..,D], for all layers and
heads (the axes in the middle) at once."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.numerics import as_float32
from alignjax.ranges import Count, Positive
from alignjax.types import Array


class Probe(NamedTuple):
    """A linear probe: log-odds of "positive" = x . direction + bias. direction [..,D], bias [..]."""

    direction: Array
    bias: Array


def _unit(direction: Array) -> Array:
    norm = jnp.linalg.norm(direction, axis=-1, keepdims=True)
    return direction / jnp.where(norm > 0, norm, 1)


def difference_of_means(positive: Array, negative: Array) -> Array:
    """Difference of means: mean(positive) - mean(negative), contrastive activation addition (arXiv:2312.06681), and
    InferAligner's vectors of harmful and harmless prompts (arXiv:2401.11206).

    Args:
        positive: [m,..,D].
        negative: [n,..,D].

    Returns:
        [..,D], in the units of the states: strength 1 moves one mean onto the other.
    """
    return jnp.mean(as_float32(positive), axis=0) - jnp.mean(as_float32(negative), axis=0)


def principal_direction(positive: Array, negative: Array) -> Array:
    """Principal direction of pairs: the unit vector u with the largest sum_i (u . (x_i+ - x_i-))^2, pointing to the
    positive ones (representation engineering, arXiv:2310.01405).

    Differences are not centered, as where each pair is centered at its own middle: what pairs have in common is what is
    looked for. It is not divided by anything else, so a strength is a distance.

    Args:
        positive: [n,..,D].
        negative: [n,..,D], each the counterpart of a positive one.

    Returns:
        [..,D] of norm 1.

    Raises:
        ConfigError: The sets have different sizes.
    """
    # From the Gram matrix of n pairs, which are fewer than D: its first eigenvector weighs the differences.
    if positive.shape != negative.shape:
        raise ConfigError(
            f"pairs are compared, and there are {positive.shape[0]} positive and {negative.shape[0]} negative states "
            "(or of other shapes); give as many of both, in order"
        )
    differences = jnp.moveaxis(as_float32(positive) - as_float32(negative), 0, -2)
    weights = jnp.linalg.eigh(differences @ jnp.swapaxes(differences, -1, -2))[1][..., -1]
    direction = _unit(jnp.einsum("...n,...nd->...d", weights, differences))
    onward = jnp.sum(direction * jnp.mean(differences, axis=-2), axis=-1, keepdims=True)
    return jnp.where(onward < 0, -direction, direction)


def linear_probe(positive: Array, negative: Array, *, l2: Positive = 1e-2, steps: Count = 25) -> Probe:
    """Linear probe: logistic regression, min_w mean -log S(+-(x . w + b)) + l2/2 |w|^2 s^2, by Newton's method.

    Both sets weigh the same, whatever their sizes. s^2 is the mean variance of a coordinate, so that l2 means the same
    in any units; the bias is not punished.

    Args:
        positive: [m,..,D].
        negative: [n,..,D].
        l2: Pull towards 0, which keeps the probe finite where the sets are separable.
        steps: Of Newton's method.

    Returns:
        The probe.
    """
    positive, negative = as_float32(positive), as_float32(negative)
    x = jnp.concatenate([positive, negative])
    middle = (jnp.mean(positive, axis=0, keepdims=True) + jnp.mean(negative, axis=0, keepdims=True)) / 2
    scale = jnp.sqrt(jnp.mean((x - middle) ** 2, axis=(0, -1), keepdims=True))
    scale = jnp.where(scale > 0, scale, 1)
    m, n = positive.shape[0], negative.shape[0]
    sign = jnp.concatenate([jnp.ones(m), -jnp.ones(n)])
    weight = jnp.concatenate([jnp.full(m, 0.5 / m), jnp.full(n, 0.5 / n)])
    rows = jnp.moveaxis((x - middle) / scale, 0, -2)
    flat = rows.reshape(-1, *rows.shape[-2:])
    fit = functools.partial(_newton, sign=sign, weight=weight, l2=l2, steps=steps)
    found = jax.lax.map(fit, flat).reshape(*rows.shape[:-2], -1)
    direction = found[..., :-1] / scale[0]
    return Probe(direction, found[..., -1] - jnp.sum(direction * middle[0], axis=-1))


def _newton(x: Array, *, sign: Array, weight: Array, l2: Positive, steps: Count) -> Array:
    """Coefficients [D+1], the bias last, of the logistic regression of rows x [n,D]."""
    x = jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1)
    pull = jnp.full(x.shape[1], l2).at[-1].set(1e-6)

    def step(_: Array, w: Array) -> Array:
        z = x @ w
        gradient = -x.T @ (weight * sign * jax.nn.sigmoid(-sign * z)) + pull * w
        hessian = (x.T * (weight * jax.nn.sigmoid(z) * jax.nn.sigmoid(-z))[None]) @ x + jnp.diag(pull)
        move = jnp.linalg.solve(hessian, gradient)
        # A full step overshoots where all sigmoids are flat; no step moves a log-odds by more than 4.
        return w - move * jnp.minimum(1, 4 / jnp.maximum(jnp.max(jnp.abs(x @ move)), 1e-12))

    return jax.lax.fori_loop(0, steps, step, jnp.zeros(x.shape[1], x.dtype))


def probe_accuracy(probe: Probe, positive: Array, negative: Array) -> Array:
    """Returns the share [..] of states that a probe tells right, the mean of that of both sets."""
    right = [
        jnp.mean(sign * (jnp.einsum("n...d,...d->n...", x, probe.direction) + probe.bias[None]) > 0, axis=0)
        for sign, x in ((1, positive), (-1, negative))
    ]
    return sum(right, jnp.zeros(())) / 2


def head_shifts(positive: Array, negative: Array, *, heads: Count = 24, l2: Positive = 1e-2) -> dict[str, Array]:
    """Personality activation shifts (PAS): std(x . u) u at the `heads` heads whose probes tell the sets apart best, u
    the unit difference of means (arXiv:2408.11779).

    A probe is fitted on the first 60 % of each set; heads are ranked by the mean of its accuracy there and on the rest,
    as in the paper. Its strength is to be chosen on texts that no answer is measured by; the released script does so on
    the test's.

    Args:
        positive: States [m,L,H,h] at site "heads".
        negative: [n,L,H,h].
        heads: How many heads are shifted; at most L H.
        l2: Of the probes.

    Returns:
        {"heads": [L,H,h]}, for `steered`.

    Raises:
        ConfigError: A set has less than two states, one to fit a probe on and one to measure it by.
    """
    if min(len(positive), len(negative)) < 2:
        raise ConfigError(
            f"{len(positive)} positive and {len(negative)} negative states: a probe of heads is fitted on some of each "
            "set and measured by the rest; give two or more of both"
        )
    positive, negative = as_float32(positive), as_float32(negative)
    parts = [(x[: round(0.6 * x.shape[0])], x[round(0.6 * x.shape[0]) :]) for x in (positive, negative)]
    fitted, rest = zip(*parts, strict=True)
    probe = linear_probe(*fitted, l2=l2)
    accuracy = (probe_accuracy(probe, *fitted) + probe_accuracy(probe, *rest)) / 2
    _, best = jax.lax.top_k(accuracy.reshape(-1), min(heads, accuracy.size))
    chosen = jnp.zeros(accuracy.size, bool).at[best].set(True).reshape(accuracy.shape)
    unit = _unit(difference_of_means(positive, negative))
    spread = jnp.std(jnp.einsum("nlhd,lhd->nlh", jnp.concatenate([positive, negative]), unit), axis=0)
    return {"heads": jnp.where(chosen[..., None], spread[..., None] * unit, 0)}
