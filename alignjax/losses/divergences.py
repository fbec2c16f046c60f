"""DPO under other divergences than the reverse KL: what takes the place of a log-ratio.

A divergence is a plain function from log-ratios rho (in nats, any shape) to scores f'(exp(rho)) of the same shape: f(u)
is its generator, u = policy / reference. The constant of f' is such that a log-ratio of 0 scores 0. It cancels
between the two sides of a pair, unless they are divided by their lengths.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import fn
from alignjax.losses.decorators.declared import needs, shared
from alignjax.losses.decorators.pairwise import score_pairs, wrapped_pairs
from alignjax.losses.decorators.sequences import is_per_token
from alignjax.losses.margin import dpo
from alignjax.ranges import Number, Positive
from alignjax.types import Array, Batch, Context, Mean, Metrics

# exp(40) is 2e17, whose square is a float32 too. Where a log-ratio is beyond, the score is constant.
LARGEST = 40.0


def reverse_kl(ratio: Array) -> Array:
    """Scores by KL(policy || reference): rho."""
    return ratio


def forward_kl(ratio: Array) -> Array:
    """Scores by KL(reference || policy): 1 - exp(-rho), constant below rho = -40 nats."""
    return -jnp.expm1(jnp.minimum(-ratio, LARGEST))


def jensen_shannon(ratio: Array) -> Array:
    """Scores by the Jensen-Shannon divergence: log(2u / (1 + u)) = log S(rho) + log 2."""
    return jax.nn.log_sigmoid(ratio) + math.log(2)


def alpha_divergence(ratio: Array, *, alpha: Number = 0.5) -> Array:
    """Scores by the alpha divergence: (1 - exp(-alpha rho)) / alpha, constant where alpha rho is below -40.

    TRL's coefficient is 1 - alpha.

    Args:
        ratio: Log-ratios, any shape, nats.
        alpha: The order: 0 is the reverse KL (the limit), 1 the forward KL.

    Returns:
        Scores of the shape of `ratio`.
    """
    zero = alpha == 0
    order = jnp.where(zero, 1, alpha)  # the inner where keeps 0 / 0 out of the gradient
    return jnp.where(zero, ratio, -jnp.expm1(jnp.minimum(-order * ratio, LARGEST)) / order).astype(ratio.dtype)


def with_divergence(
    context: Context, batch: Batch, *, loss: Any, divergence: Any = fn(reverse_kl)
) -> tuple[Mean, Metrics]:
    """A pairwise loss under another divergence: loss(w, l) with f'(exp(rho)) in the place of rho (arXiv:2309.16240).

    The ratio is that of whole completions: with `normalize="length"` it is the score that is divided by the length.

    Args:
        context: Scores the role and the reference of the loss.
        batch: Completions [B,N,T] with a preference [B,N,N].
        loss: An `fn` of a loss made by `pairwise`, which says role, reference, pairs and normalize.
        divergence: A function of this module or of yours from log-ratios to scores.

    Returns:
        The mean over pairs in the units of the loss, and the metrics of pairs, of the log-ratios themselves.

    Raises:
        ConfigError: If the loss is not of pairs.
    """
    wrapped = wrapped_pairs(loss, "with_divergence")
    scored = score_pairs(context, batch, **wrapped.where)
    score = {name: divergence(scored.fields[name]) for name in ("ratio_i", "ratio_j")}
    if is_per_token(wrapped.normalize):
        score = {name: value / jnp.maximum(scored.fields[f"length{name[-2:]}"], 1) for name, value in score.items()}
    fields = {**scored.fields, **score, "margin": score["ratio_i"] - score["ratio_j"]}
    return scored.mean(wrapped.values(fields, scored.label)), scored.metrics()


@needs("preference")
@shared("role", "reference", "pairs", "normalize")
def f_dpo(
    context: Context, batch: Batch, *, beta: Positive = 0.1, divergence: Any = fn(reverse_kl), **where: Any
) -> tuple[Mean, Metrics]:
    """f-DPO, DPO under a divergence f: -log S(beta f'(exp(rho_w)) - beta f'(exp(rho_l))) (arXiv:2309.16240).

    Minimized where the scores differ by logit(p) / beta. `with_divergence` does the same to any other pairwise loss.

    Args:
        context: Scores the role and the reference.
        batch: Completions [B,N,T] with a preference [B,N,N].
        beta: Inverse temperature of the score.
        divergence: `reverse_kl` (which is DPO), `forward_kl`, `jensen_shannon`, `fn(alpha_divergence, alpha=...)`, or a
            function of yours.
        **where: role, reference, pairs and normalize, see `declared.shared`.

    Returns:
        The mean over pairs in nats, and the metrics of pairs.

    Raises:
        ConfigError: If the batch has no preference, or not the completions that `pairs` names.
    """
    return with_divergence(context, batch, loss=fn(dpo, beta=beta, **where), divergence=divergence)
