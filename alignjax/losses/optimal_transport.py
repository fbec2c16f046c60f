"""Losses that compare whole distributions over a batch: sorted winners against sorted losers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.losses.decorators.pairwise import pair_fields, pair_indices, pair_labels, pair_metrics
from alignjax.types import Array, Batch, Context, Mean, Metrics

__all__ = ["aot", "aot_unpaired"]


def _ranked(values: Array, on: Array) -> Array:
    """values [groups,n] sorted within their group; what does not take part goes last, as 0."""
    order = jnp.argsort(jax.lax.stop_gradient(jnp.where(on, values, jnp.inf)), axis=-1)
    return jnp.take_along_axis(jnp.where(on, values, 0), order, axis=-1)


def _ranked_gap(above: Array, below: Array, on: Array, groups: int) -> tuple[Array, Array]:
    """(above - below by rank, which of them take part), [groups,n]. Rows of the batch are cut into groups in order."""
    rows = above.shape[0]
    if groups < 1 or rows % groups:
        raise ConfigError(f"groups={groups} does not divide the {rows} prompts of the batch")
    above, below, on = (values.reshape(groups, -1) for values in (above, below, on))
    return _ranked(above, on) - _ranked(below, on), -jnp.sort(-on.astype(jnp.int32), axis=-1)


def _orient(fields: dict[str, Array], label: Array, name: str) -> tuple[Array, Array]:
    """What `name` is of the preferred completion and of the other."""
    first, second = fields[f"{name}_i"], fields[f"{name}_j"]
    return jnp.where(label > 0.5, first, second), jnp.where(label > 0.5, second, first)


def _dominated(gap: Array, on: Array, *, beta: float, epsilon: float) -> Mean:
    x = beta * gap
    return Mean.of(-(1 - epsilon) * jax.nn.log_sigmoid(x) - epsilon * jax.nn.log_sigmoid(-x), on)


def _pairs(context: Context, batch: Batch, pairs: Any, **how: Any) -> tuple[dict[str, Array], Array, Array, Metrics]:
    """Fields, label, which pairs have a side to be on, and metrics."""
    i, j = pair_indices(batch, pairs)
    label, weight = pair_labels(batch, i, j)
    fields = pair_fields(context, batch, i, j, **how)
    return fields, label, (weight != 0) & (label != 0.5), pair_metrics(fields, label, weight)


def aot(
    context: Context,
    batch: Batch,
    *,
    beta: float = 0.1,
    epsilon: float = 0.0,
    groups: int = 1,
    role: str = "policy",
    reference: str | None = "reference",
    pairs: tuple[tuple[int, int], ...] = ((0, 1),),
    normalize: str = "none",
) -> tuple[Mean, Metrics]:
    """Alignment by optimal transport, paired: -(1-epsilon) log S(beta d) - epsilon log S(-beta d), d_n = n-th smallest
    lp_w - lp_l of the batch minus n-th smallest lr_w - lr_l (arXiv:2406.05882).

    Nats per pair. Asks that the policy's margins dominate the reference's as a distribution. beta: inverse temperature;
    epsilon: label smoothing; groups: how many sorts the batch is cut into, by rows in order: 1 is the paper's objective
    on any number of devices (released code sorts per device). The label only says which side is preferred: pairs at 1/2
    and pairs of weight 0 take no part, all others count 1. One pair is DPO.

    Raises ConfigError if `groups` does not divide the prompts.
    """
    fields, label, on, metrics = _pairs(context, batch, pairs, role=role, reference=reference, normalize=normalize)
    (own_w, own_l), (ratio_w, ratio_l) = (_orient(fields, label, name) for name in ("logps", "ratio"))
    margin = own_w - own_l
    gap, counted = _ranked_gap(margin, margin - (ratio_w - ratio_l), on, groups)
    return _dominated(gap, counted, beta=beta, epsilon=epsilon), metrics


def aot_unpaired(
    context: Context,
    batch: Batch,
    *,
    beta: float = 0.1,
    epsilon: float = 0.0,
    groups: int = 1,
    role: str = "policy",
    reference: str | None = "reference",
    pairs: tuple[tuple[int, int], ...] = ((0, 1),),
    normalize: str = "none",
) -> tuple[Mean, Metrics]:
    """Alignment by optimal transport, unpaired: -(1-epsilon) log S(beta d) - epsilon log S(-beta d), d_n = n-th
    smallest rho of the winners minus n-th smallest rho of the losers (arXiv:2406.05882).

    As `aot`, but asks that the winners' log-ratios dominate the losers', whoever was paired with whom.
    Hyper-parameters, labels, weights and errors are those of `aot`. One pair is DPO.
    """
    fields, label, on, metrics = _pairs(context, batch, pairs, role=role, reference=reference, normalize=normalize)
    gap, counted = _ranked_gap(*_orient(fields, label, "ratio"), on, groups)
    return _dominated(gap, counted, beta=beta, epsilon=epsilon), metrics
