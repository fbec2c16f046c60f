"""Losses for labels that may be wrong: a latent "was this label correct" for every pair, and how reliable every
annotator is."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, nearest
from alignjax.losses.decorators.pairwise import pair_fields, pair_indices, pair_labels, pair_metrics, pair_values
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics

__all__ = ["lcpo", "reliability", "reliability_average"]

# How near to 0 and 1 a reliability may come: beyond, a single pair could no longer change the mind about its label.
_EDGE = 1e-3


def lcpo(
    context: Context,
    batch: Batch,
    *,
    loss: Any,
    eta: str = "reliability",
    annotator: str = "annotator",
    normalizer: bool = False,
) -> tuple[Mean, Metrics]:
    """Latent collective preference optimisation: w a + (1-w) b, w = sg S(logit(eta) + b - a), a = loss(w,l), b =
    loss(l,w), for any pairwise loss, eta the reliability of the annotator (arXiv:2509.24159).

    An EM algorithm for P(label) = eta exp(-a)/Z + (1-eta) exp(-b)/Z: w is the posterior that a label is correct, the
    loss is the M-step of the policy, and the rule `reliability_average` that of eta. A label that is a probability p is
    the label with weight p and its reverse with 1-p, each with a posterior of its own.

    loss: the base, an fn of a loss made by `pairwise`; its role, reference, pairs and normalize count. eta: the state
    role [A] of reliabilities, one per annotator: `Role(None, roles.value(fn(reliability, annotators=A)),
    rule=fn(reliability_average))`. annotator: batch.prompts[annotator] [B] says who labelled the pairs of a prompt,
    from 0 to A-1; where it is missing, one annotator labelled all. normalizer: add log Z = log(exp(-a) + exp(-b)),
    which the exact M-step has and the posterior does not need. It is 0 for DPO, where exp(-a) and exp(-b) sum to 1.

    Metrics: `reliability` [A], the mean posterior of each annotator's labels. The link exp(-loss) and eta are the
    paper's as others report them; both steps are our derivation, as are the averaging of eta and its start, which the
    paper's text could not be consulted for. Raises ConfigError if `loss` is not made by `pairwise`, the batch has no
    preference, or there is no such role.
    """
    fields, label, weight, a, b = _both_orders(context, batch, loss)
    known = _known(context, eta)
    who = batch.prompts[annotator][:, None] if annotator in batch.prompts else jnp.zeros((len(label), 1), int)
    log_odds = jnp.log(known) - jnp.log1p(-known)
    mine = log_odds.astype(a.dtype)[jnp.clip(who, 0, len(known) - 1)]

    def m_step(a: Array, b: Array) -> tuple[Array, Array]:
        correct = jax.lax.stop_gradient(jax.nn.sigmoid(mine + b - a))
        return correct, correct * a + (1 - correct) * b

    (forth, as_labelled), (back, reversed_) = m_step(a, b), m_step(b, a)
    values = label * as_labelled + (1 - label) * reversed_
    if normalizer:
        values = values + jnp.logaddexp(-a, -b)
    correct = label * forth + (1 - label) * back
    each = (who == jnp.arange(len(known)))[:, None, :] * weight[..., None]  # [B,K,A]
    trusted = Mean(jnp.sum(jnp.where(each > 0, correct[..., None], 0) * each, axis=(0, 1)), jnp.sum(each, axis=(0, 1)))
    return Mean.of(values, weight), pair_metrics(fields, label, weight) | {"reliability": trusted}


def _both_orders(context: Context, batch: Batch, loss: Any) -> tuple[dict[str, Array], Array, Array, Array, Array]:
    """(fields, labels, weights, loss(i, j), loss(j, i)) of the pairs of a pairwise loss, [B,K] each."""
    maths = getattr(loss.function, "per_pair", None)
    if maths is None:
        raise ConfigError(
            f"lcpo needs the loss of each pair in both orders, which {loss.name} does not offer; give it a loss that "
            "is made by `pairwise`: fn(lcpo, loss=fn(dpo, beta=0.1))"
        )
    hyper = dict(loss.kwargs)
    role, reference, pairs, normalize = (hyper.pop(name) for name in ("role", "reference", "pairs", "normalize"))
    i, j = pair_indices(batch, pairs)
    label, weight = pair_labels(batch, i, j)
    fields = pair_fields(context, batch, i, j, role=role, reference=reference, normalize=normalize)
    label = label.astype(fields["margin"].dtype)
    a, b = (pair_values(maths, fields, jnp.full_like(label, hard), **hyper) for hard in (1, 0))
    return fields, label, weight, a, b


def _known(context: Context, eta: str) -> Array:
    if eta not in context.state:
        raise ConfigError(
            f"lcpo reads the reliability of annotators from a role {eta!r}, which there is not."
            f"{nearest(eta, context.state)} Role(None, roles.value(fn(reliability)), rule=fn(reliability_average))"
        )
    return context.state[eta]


def reliability(key: Key, *, annotators: int = 1, eta: float = 0.75) -> Array:
    """The first reliabilities [A] of `lcpo`: the same for all, and above 1/2, since with every label reversed the data
    would be as likely."""
    return jnp.full((annotators,), eta, jnp.float32)


def reliability_average(
    state: Any, context: Context, batch: Batch, key: Key, *, of: str = "lcpo", decay: float = 0.9
) -> Array:
    """Moves each annotator's reliability to the mean posterior of the labels just seen: eta <- decay eta + (1-decay)
    mean w (the M-step of `lcpo`, averaged over minibatches).

    of: the name of that loss in the algorithm. Who labelled nothing keeps theirs; all stay inside (0, 1).
    """
    seen = context.metrics[f"{of}/reliability"]
    moved = jnp.where(seen.weight > 0, decay * state + (1 - decay) * seen.value(), state)
    return jnp.clip(moved, _EDGE, 1 - _EDGE).astype(state.dtype)
