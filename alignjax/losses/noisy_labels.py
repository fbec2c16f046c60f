"""Losses for labels that may be wrong: a latent "was this label correct" for every pair, and how reliable every
annotator is."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, nearest
from alignjax.losses.decorators.pairwise import score_pairs, wrapped_pairs
from alignjax.ranges import Count, Fraction, Reliability
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics

# How near to 0 and 1 a reliability may come: beyond, a single pair could no longer change the mind about its label.
_EDGE = 1e-3


def lcpo(
    context: Context,
    batch: Batch,
    *,
    loss: Any,
    eta: str = "reliability",
    annotator: str = "annotator",
    normalizer: bool = True,
) -> tuple[Mean, Metrics]:
    """Latent collective preference optimization, RE-PO: -[w log p + (1-w) log(1-p)], w = sg S(logit(eta) + b - a), p =
    S(b - a), a = loss(w,l), b = loss(l,w), for any pairwise loss, eta the reliability of the annotator
    (arXiv:2509.24159 eq. 2 to 7; its titles are LCPO, RPO and RE-PO by version).

    An EM algorithm for P(label) = eta p + (1-eta) (1-p), p = exp(-a) / (exp(-a) + exp(-b)): w is the posterior that a
    label is correct (the E-step, eq. 4), the loss is the M-step of the policy (eq. 5), and the rule
    `reliability_average` that of eta (eq. 6 and 7). A label that is a probability q is the label with weight q and its
    reverse with 1-q, our extension. DPO keeps its shape under eq. 5; another base is bent: a - b is all that is read of
    it, so IPO becomes a logistic loss of 2 h / tau.

    Args:
        context: Scores the role and the reference of the base, and has the role `eta`.
        batch: Completions [B,N,T] with a preference [B,N,N].
        loss: The base, an `fn` of a loss made by `pairwise`; its role, reference, pairs and normalize count.
        eta: The state role [A] of reliabilities, one per annotator: `Role(None, roles.value(fn(reliability,
            annotators=A)), rule=fn(reliability_average))`.
        annotator: batch.prompts[annotator] [B] says who labeled the pairs of a prompt, from 0 to A-1; where it is
            missing, one annotator labeled all.
        normalizer: The paper's eq. 5. False leaves log Z = log(exp(-a) + exp(-b)) off: w a + (1-w) b, which keeps the
            shape of the base and is not the gradient of a likelihood. The same for DPO, where Z is 1.

    Returns:
        The mean over pairs in the units of the base, and the metrics of pairs with `reliability` [A]: the mean
        posterior of each annotator's labels.

    Raises:
        ConfigError: If `loss` is not made by `pairwise`, the batch has no preference, or there is no such role.
    """
    # The label as it stands and its reverse are two hypotheses, each with a posterior, so a soft label is a mixture of
    # both and the base loss is asked for the two hard labels only.
    wrapped = wrapped_pairs(loss, "lcpo")
    pair = score_pairs(context, batch, **wrapped.where, normalize=wrapped.normalize)
    a, b = (wrapped.values(pair.fields, jnp.full_like(pair.label, hard)) for hard in (1, 0))
    reliabilities = _reliabilities(context, eta)
    number = len(reliabilities)
    who = batch.prompts[annotator][:, None] if annotator in batch.prompts else jnp.zeros((len(pair.label), 1), int)
    log_odds = jnp.log(reliabilities) - jnp.log1p(-reliabilities)
    prior = log_odds.astype(a.dtype)[jnp.clip(who, 0, number - 1)]  # [B,1]
    # The E-step, for the label as it stands and for its reverse.
    correct_as_labeled = jax.lax.stop_gradient(jax.nn.sigmoid(prior + b - a))
    correct_reversed = jax.lax.stop_gradient(jax.nn.sigmoid(prior + a - b))
    correct = pair.mix(correct_as_labeled, correct_reversed)
    # The M-step of the policy.
    as_labeled = correct_as_labeled * a + (1 - correct_as_labeled) * b
    reversed_ = correct_reversed * b + (1 - correct_reversed) * a
    values = pair.mix(as_labeled, reversed_)
    if normalizer:
        values = values + jnp.logaddexp(-a, -b)
    return pair.mean(values), pair.metrics(reliability=_mean_posterior(correct, who, pair.weight, number))


def _mean_posterior(correct: Array, who: Array, weight: Array, number: int) -> Mean:
    """Returns the mean posterior [A] of each annotator's labels, which the M-step of the reliabilities averages."""
    labeled_by = jax.nn.one_hot(who, number, dtype=weight.dtype) * weight[..., None]  # [B,K,A]
    total = jnp.sum(jnp.where(labeled_by > 0, correct[..., None], 0) * labeled_by, axis=(0, 1))
    return Mean(total, jnp.sum(labeled_by, axis=(0, 1)))


def _reliabilities(context: Context, eta: str) -> Array:
    if eta not in context.state:
        raise ConfigError(
            f"lcpo reads the reliability of annotators from a role {eta!r}, which the algorithm does not have."
            f"{nearest(eta, context.state)} Role(None, roles.value(fn(reliability)), rule=fn(reliability_average))"
        )
    return context.state[eta]


def reliability(key: Key, *, annotators: Count = 1, eta: Reliability = 0.9) -> Array:
    """Starts the reliabilities of `lcpo`: one number for all.

    Args:
        key: Not read.
        annotators: Their number A.
        eta: The reliability, 0.9 in the paper's main experiments. Above 1/2, since with every label reversed the data
            would be as likely.

    Returns:
        Reliabilities [A].
    """
    return jnp.full((annotators,), eta, jnp.float32)


def reliability_average(
    state: Any, context: Context, batch: Batch, key: Key, *, of: str = "lcpo", decay: Fraction = 0.9
) -> Array:
    """Moves each annotator's reliability to the mean posterior of the labels just seen: eta <- decay eta + (1-decay)
    mean w (the M-step of `lcpo`, averaged over minibatches; arXiv:2509.24159 eq. 7, whose alpha = 0.1 is 1 - decay).

    Args:
        state: Reliabilities [A].
        context: Has the metric `{of}/reliability`.
        batch: Not read.
        key: Not read.
        of: The name of that loss in the algorithm.
        decay: Share of the old value.

    Returns:
        Reliabilities [A]; who labeled nothing keeps theirs, and all stay inside (0, 1).
    """
    seen = context.metrics[f"{of}/reliability"]
    moved = jnp.where(seen.weight > 0, decay * state + (1 - decay) * seen.value(), state)
    return jnp.clip(moved, _EDGE, 1 - _EDGE).astype(state.dtype)
