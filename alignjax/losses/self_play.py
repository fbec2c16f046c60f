"""Losses of self-play whose target is a step from an earlier policy. On one role's own samples, labelled by a judge."""

from __future__ import annotations

import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.losses.decorators.pairwise import (
    mask_of,
    pair_fields,
    pair_indices,
    pair_metrics,
    reference_logps,
    sequence_logps,
)
from alignjax.losses.decorators.unpaired import rewards, weights
from alignjax.losses.margin import ipo
from alignjax.types import Array, Batch, Context, Mean, Metrics

__all__ = ["egpo", "inpo", "mnpo", "sppo"]


def mnpo(
    context: Context,
    batch: Batch,
    *,
    eta: float = 0.0075,
    c: float = 1 / 3,
    history: tuple[str, ...] = ("past1", "past2"),
    weights: tuple[float, ...] | None = None,
    role: str = "policy",
    reference: str = "reference",
    pairs: tuple[tuple[int, int], ...] = ((0, 1),),
) -> tuple[Mean, Metrics]:
    """MNPO, multiplayer Nash preference optimisation: (D(pi) - c D(ref) - (1-c) sum_j w_j D(past_j) -
    (2p-1) / (2 eta))^2, D = log-prob of i minus that of j (arXiv:2509.23102).

    That is IPO against the geometric mean of the reference and earlier policies; sequence sums, nats^2 per pair. eta:
    strength of the pull towards that mean; c: the reference's share of it; history: the roles (or names in batch.logps)
    of past policies, newest first, one for each opponent; weights: how much each counts, divided by their sum (equal if
    not given). The paper labels with a draw (p = 1), which a soft label replaces with the same expected gradient. On
    pairs of samples of the newest opponent it is minimised at reference^c past^(1-c) exp(P(. beats newest) / eta), so a
    policy that no round moves is the equilibrium regularised by tau = c eta; whether rounds get there depends on eta.
    As in the released code an empty history leaves c D(ref) alone.

    Raises ConfigError if there are not as many weights as opponents, or they do not sum to a positive number.
    """
    share = (1.0,) * len(history) if weights is None else weights
    if len(share) != len(history) or (history and not sum(share) > 0):
        raise ConfigError(f"mnpo has history={history} and weights={weights}; give every opponent a weight")
    anchor = c * reference_logps(context, batch, reference)
    for name, weight in zip(history, share, strict=True):
        anchor = anchor + (1 - c) * (weight / sum(share)) * reference_logps(context, batch, name)
    return ipo(context, batch.with_logps(anchor=anchor), tau=eta, role=role, reference="anchor", pairs=pairs)


def inpo(
    context: Context,
    batch: Batch,
    *,
    eta: float = 0.1,
    c: float = 1 / 3,
    role: str = "policy",
    reference: str = "reference",
    previous: str = "previous",
    pairs: tuple[tuple[int, int], ...] = ((0, 1),),
) -> tuple[Mean, Metrics]:
    """INPO, iterative Nash policy optimisation: (D(pi) - c D(ref) - (1-c) D(previous) - (2p-1) / (2 eta))^2, D =
    log-prob of i minus that of j (arXiv:2407.00617).

    MNPO with one opponent, the previous policy; sequence sums, nats^2 per pair. eta: strength of the pull towards the
    mean of the two anchors, the inverse of a step size; c = tau / eta: the reference's share, so that the game solved
    is regularised by tau = c eta. c = 0 is IPO around the previous policy (mirror descent without regularisation), c =
    1 online IPO at tau = eta. Defaults are those of released code.
    """
    return mnpo(context, batch, eta=eta, c=c, history=(previous,), role=role, reference=reference, pairs=pairs)


def sppo(
    context: Context,
    batch: Batch,
    *,
    eta: float = 1000.0,
    completions: str = "extremes",
    role: str = "policy",
    reference: str = "previous",
) -> tuple[Mean, Metrics]:
    """SPPO, self-play preference optimisation: mean of (rho_i - eta (r_i - 1/2))^2 over the best and the worst
    completion, r the win rate (arXiv:2405.00675).

    batch.reward [B,N]: the probability of beating the previous policy, estimated on the prompt's other samples (the
    stage `win_rate_against`); rho against the previous policy; nats^2 per completion. eta: step size, in nats per unit
    of win rate. completions="extremes" takes the first of the best and the last of the worst, as the released code;
    "all" takes every one. A multiplicative-weights step whose normaliser is taken to be exp(eta / 2), hence the 1/2.
    Released code counts a sample as an opponent of itself, which shrinks r - 1/2 by (N-1) / N.

    Raises ConfigError if the batch has no reward, or for other `completions`.
    """
    there = weights(batch)
    win_rate = jnp.where(there != 0, rewards(batch, "sppo"), 0.5)
    if completions == "extremes":
        chosen = there * _extremes(win_rate, there)
    elif completions == "all":
        chosen = there
    else:
        raise ConfigError(f"completions={completions!r}; it must be 'extremes' (best and worst) or 'all'")
    (logps,) = context.score(role, batch).values()
    mask = mask_of(batch)
    ratio = sequence_logps(logps, mask) - sequence_logps(reference_logps(context, batch, reference), mask)
    metrics = {"log_ratio": Mean.of(ratio, chosen), "reward": Mean.of(win_rate, there)}
    return Mean.of(jnp.square(ratio - eta * (win_rate - 0.5)), chosen), metrics


def _extremes(reward: Array, there: Array) -> Array:
    """1 at the first of the best and at the last of the worst completions of each prompt, else 0."""
    number = jnp.arange(reward.shape[1])
    best = jnp.argmax(jnp.where(there != 0, reward, -jnp.inf), axis=1, keepdims=True)
    last_first = jnp.flip(jnp.where(there != 0, reward, jnp.inf), axis=1)
    worst = reward.shape[1] - 1 - jnp.argmin(last_first, axis=1, keepdims=True)
    return ((number == best) | (number == worst)).astype(there.dtype)


def egpo(
    context: Context,
    batch: Batch,
    *,
    tau: float = 0.1,
    role: str = "policy",
    reference: str | None = "reference",
    pairs: tuple[tuple[int, int], ...] = ((0, 1),),
) -> tuple[Mean, Metrics]:
    """Regression onto win rates against an opponent, the step of extragradient preference optimisation: (h -
    (r_i - r_j) / tau)^2, r_i = P(i beats the opponent) (arXiv:2503.08942).

    batch.reward [B,N]: win rates against samples of the opponent (the stage `win_rate_against`), one draw each or a
    mean; nats^2 per pair. tau: strength of the regularisation. Whatever full-support sampler the pair comes from, it is
    minimised at the best response reference exp(P(. beats opponent) / tau); with the policy itself as the opponent one
    gradient step is a mirror-descent step, with the geometric mixture Nash-MD's.

    Raises ConfigError if the batch has no reward.
    """
    reward = rewards(batch, "egpo")
    i, j = pair_indices(batch, pairs)
    fields = pair_fields(context, batch, i, j, role=role, reference=reference)
    difference = (reward[:, i] - reward[:, j]).astype(fields["margin"].dtype)
    weight = jnp.ones_like(difference) if batch.pair_weight is None else batch.pair_weight[:, i, j]
    target = jnp.where(weight != 0, difference, 0) / tau
    metrics = pair_metrics(fields, (jnp.sign(difference) + 1) / 2, weight)
    return Mean.of(jnp.square(fields["margin"] - target), weight), metrics
