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

from alignjax.config import ConfigError, Fn, as_fn, fn
from alignjax.losses.decorators.pairwise import pair_fields, pair_indices, pair_labels, pair_metrics, pair_values
from alignjax.losses.margin import dpo
from alignjax.types import Array, Batch, Context, Mean, Metrics

__all__ = ["alpha_divergence", "f_dpo", "forward_kl", "jensen_shannon", "reverse_kl", "with_divergence"]

# exp(40) is 2e17, whose square is a float32 too. Where a log-ratio is beyond, the score is constant.
LARGEST = 40.0


def reverse_kl(ratio: Array) -> Array:
    """KL(policy || reference): rho."""
    return ratio


def forward_kl(ratio: Array) -> Array:
    """KL(reference || policy): 1 - exp(-rho), constant below rho = -40 nats."""
    return -jnp.expm1(jnp.minimum(-ratio, LARGEST))


def jensen_shannon(ratio: Array) -> Array:
    """Jensen-Shannon: log(2u / (1 + u)) = log S(rho) + log 2."""
    return jax.nn.log_sigmoid(ratio) + math.log(2)


def alpha_divergence(ratio: Array, *, alpha: float = 0.5) -> Array:
    """Alpha divergence: (1 - exp(-alpha rho)) / alpha, constant where alpha rho is below -40.

    alpha = 0 is the reverse KL (the limit), 1 the forward KL. TRL's coefficient is 1 - alpha.
    """
    zero = alpha == 0
    order = jnp.where(zero, 1, alpha)  # the inner where keeps 0 / 0 out of the gradient
    return jnp.where(zero, ratio, -jnp.expm1(jnp.minimum(-order * ratio, LARGEST)) / order).astype(ratio.dtype)


def with_divergence(
    context: Context, batch: Batch, *, loss: Any, divergence: Any = fn(reverse_kl)
) -> tuple[Mean, Metrics]:
    """A pairwise loss under another divergence: rho replaced by f'(exp(rho)) (arXiv:2309.16240).

    loss: an `fn` of a loss made by `pairwise`, which says role, reference, pairs and normalisation; divergence: a
    function of this module or of yours from log-ratios to scores. The ratio is that of whole completions: with
    `normalize="length"` it is the score that is divided by the length. Metrics are of the log-ratios themselves.

    Raises ConfigError if the loss is not of pairs.
    """
    loss = as_fn(loss)
    maths = getattr(loss.function, "per_pair", None) if isinstance(loss, Fn) else None
    if maths is None:
        raise ConfigError(f"with_divergence needs a pairwise loss such as fn(dpo, beta=0.1), not {loss!r}")
    own = dict(loss.kwargs)
    role, reference, pairs, normalize = (own.pop(name) for name in ("role", "reference", "pairs", "normalize"))
    i, j = pair_indices(batch, pairs)
    label, weight = pair_labels(batch, i, j)
    fields = pair_fields(context, batch, i, j, role=role, reference=reference)
    score = {name: divergence(fields[name]) for name in ("ratio_i", "ratio_j")}
    if normalize == "length":
        score = {name: value / jnp.maximum(fields[f"length{name[-2:]}"], 1) for name, value in score.items()}
    elif normalize != "none":
        raise ConfigError(f"normalize={normalize!r}; it must be 'none' (sums) or 'length' (means per token)")
    scored = {**fields, **score, "margin": score["ratio_i"] - score["ratio_j"]}
    values = pair_values(maths, scored, label.astype(fields["margin"].dtype), **own)
    return Mean.of(values, weight), pair_metrics(fields, label, weight)


def f_dpo(
    context: Context,
    batch: Batch,
    *,
    beta: float = 0.1,
    divergence: Any = fn(reverse_kl),
    role: str = "policy",
    reference: str | None = "reference",
    pairs: tuple[tuple[int, int], ...] = ((0, 1),),
    normalize: str = "none",
) -> tuple[Mean, Metrics]:
    """f-DPO, DPO under a divergence f: -log S(beta f'(exp(rho_w)) - beta f'(exp(rho_l))) (arXiv:2309.16240).

    Nats per pair. beta: inverse temperature of the score; divergence: `reverse_kl` (which is DPO), `forward_kl`,
    `jensen_shannon`, `fn(alpha_divergence, alpha=...)`, or a function of yours. Minimised where the scores differ by
    logit(p) / beta. `with_divergence` does the same to any other pairwise loss.
    """
    given = {"role": role, "reference": reference, "pairs": pairs, "normalize": normalize}
    return with_divergence(context, batch, loss=fn(dpo, beta=beta, **given), divergence=divergence)
