"""Losses that compare whole distributions over a batch: sorted winners against sorted losers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.losses.decorators.declared import needs, shared
from alignjax.losses.decorators.pairwise import ScoredPairs, score_pairs
from alignjax.ranges import Count, ErrorRate, Positive
from alignjax.types import Array, Batch, Context, Mean, Metrics


def _ranked(values: Array, on: Array) -> Array:
    """values [groups,n] sorted within their group; what does not take part goes last, as 0."""
    order = jnp.argsort(jax.lax.stop_gradient(jnp.where(on, values, jnp.inf)), axis=-1)
    return jnp.take_along_axis(jnp.where(on, values, 0), order, axis=-1)


def _dominance(
    pair: ScoredPairs, above: Array, below: Array, *, beta: float, epsilon: float, groups: int
) -> tuple[Mean, Metrics]:
    """Logistic loss of above - below [B,K] by rank. Rows of the batch are cut into groups in order; pairs that have no
    side to be on take no part."""
    rows = above.shape[0]
    if rows % groups:
        raise ConfigError(f"groups={groups} does not divide the {rows} prompts of the batch")
    on = (pair.weight != 0) & (pair.label != 0.5)
    above, below, on = (values.reshape(groups, -1) for values in (above, below, on))
    x = beta * (_ranked(above, on) - _ranked(below, on))
    loss = -(1 - epsilon) * jax.nn.log_sigmoid(x) - epsilon * jax.nn.log_sigmoid(-x)
    return Mean.of(loss, -jnp.sort(-on.astype(jnp.int32), axis=-1)), pair.metrics()


def _winner_and_loser(pair: ScoredPairs, name: str) -> tuple[Array, Array]:
    """The field `name` of the preferred completion and of the other, [B,K] each."""
    first, second = pair.fields[f"{name}_i"], pair.fields[f"{name}_j"]
    return jnp.where(pair.label > 0.5, first, second), jnp.where(pair.label > 0.5, second, first)


@needs("preference")
@shared("role", "reference", "pairs", "normalize")
def aot(
    context: Context, batch: Batch, *, beta: Positive = 0.1, epsilon: ErrorRate = 0.0, groups: Count = 1, **where: Any
) -> tuple[Mean, Metrics]:
    """Alignment by optimal transport, paired: -(1-epsilon) log S(beta d) - epsilon log S(-beta d), d_n = n-th smallest
    lp_w - lp_l of the batch minus n-th smallest lr_w - lr_l (arXiv:2406.05882).

    Asks that the policy's margins dominate the reference's as a distribution. The label only says which side is
    preferred: pairs at 1/2 and pairs of weight 0 take no part, all others count 1. One pair is DPO.

    Args:
        context: Scores the role and the reference.
        batch: Completions [B,N,T] with a preference [B,N,N].
        beta: Inverse temperature.
        epsilon: Label smoothing.
        groups: How many sorts the batch is cut into, by rows in order: 1 is the paper's objective on any number of
            devices (released code sorts per device).
        **where: role, reference, pairs and normalize, see `declared.shared`.

    Returns:
        The mean over pairs in nats, and the metrics of pairs.

    Raises:
        ConfigError: If `groups` does not divide the prompts, or the batch has no preference.
    """
    pair = score_pairs(context, batch, **where)
    (logps_w, logps_l), (ratio_w, ratio_l) = (_winner_and_loser(pair, name) for name in ("logps", "ratio"))
    margin = logps_w - logps_l
    return _dominance(pair, margin, margin - (ratio_w - ratio_l), beta=beta, epsilon=epsilon, groups=groups)


@needs("preference")
@shared("role", "reference", "pairs", "normalize")
def aot_unpaired(
    context: Context, batch: Batch, *, beta: Positive = 0.1, epsilon: ErrorRate = 0.0, groups: Count = 1, **where: Any
) -> tuple[Mean, Metrics]:
    """Alignment by optimal transport, unpaired: -(1-epsilon) log S(beta d) - epsilon log S(-beta d), d_n = n-th
    smallest rho of the winners minus n-th smallest rho of the losers (arXiv:2406.05882).

    As `aot`, but asks that the winners' log-ratios dominate the losers', whoever was paired with whom. One pair is DPO.

    Args:
        context: Scores the role and the reference.
        batch: Completions [B,N,T] with a preference [B,N,N].
        beta: Inverse temperature.
        epsilon: Label smoothing.
        groups: How many sorts the batch is cut into, see `aot`.
        **where: role, reference, pairs and normalize, see `declared.shared`.

    Returns:
        The mean over pairs in nats, and the metrics of pairs.

    Raises:
        ConfigError: If `groups` does not divide the prompts, or the batch has no preference.
    """
    pair = score_pairs(context, batch, **where)
    return _dominance(pair, *_winner_and_loser(pair, "ratio"), beta=beta, epsilon=epsilon, groups=groups)
