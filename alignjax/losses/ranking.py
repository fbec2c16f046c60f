"""Losses on the graded completions of a prompt, in N^2 numbers a list and nothing across the batch.

s_i is the score of completion i in the policy, r_i its reward, NLL_i minus its log-probability summed over tokens.
Completions with equal reward are not compared with each other; where a formula speaks of the best, tied ones share it.
N is the number of completions that take part: one without a token that counts, or of which nothing is known, does not.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import fn
from alignjax.losses.decorators.listwise import (
    beats,
    best,
    first_of_worse,
    lambda_loss,
    list_mle,
    listwise,
    mean_rank,
    score_gaps,
    takes_part,
)
from alignjax.numerics import MASKED
from alignjax.ranges import NonNegative, Positive
from alignjax.types import Array


def _of_best(values: Array, reward: Array) -> Array:
    """The value of the best completion [..]; tied ones are averaged."""
    return jnp.sum(best(reward) * values, axis=-1)


def _sum_of_pairs(terms: Array) -> Array:
    return jnp.sum(terms, axis=(-1, -2))


def _growing_nll(nll: Array, reward: Array) -> Array:
    """(N-1)^2 NLL(best) [..] of lists [..,N]."""
    return (jnp.sum(takes_part(reward), axis=-1) - 1) ** 2 * _of_best(nll, reward)


@listwise
def plackett_luce(ratio: Array, reward: Array, *, beta: Positive = 0.1) -> Array:
    """Plackett-Luce DPO: - sum over i of log [exp(beta rho_i) / sum over {i} and the worse j of exp(beta rho_j)], the
    order being that of the rewards (arXiv:2305.18290 appendix A.3).

    N = 2 is DPO on the pair. Without ties it is minus the log-probability of the whole order; tied completions do not
    compete with each other (the paper has no ties), which keeps the loss free of positions.

    Args:
        ratio: Log-ratios [..,N], nats.
        reward: Grades [..,N].
        beta: Inverse temperature of the log-ratio.

    Returns:
        Loss per list [..], nats.
    """
    return list_mle(beta * ratio, reward)


@listwise
def lipo(ratio: Array, reward: Array, *, beta: Positive = 0.1, objective: Any = fn(lambda_loss)) -> Array:
    """LiPO-lambda: sum over r_i > r_j of sg|2^r_i - 2^r_j| |1/ln(1+rank_i) - 1/ln(1+rank_j)| log(1 + exp(s_j - s_i)),
    with s = beta rho and rank the order of s (arXiv:2402.01878).

    The published formula carries a leading minus; we minimize the sum itself, since its terms fall as s_i - s_j grows.
    Two completions with labels 1 and 0 give (1/ln 2 - 1/ln 3) times DPO. Equal scores are ranked by reward. The paper's
    labels lie in [0, 1].

    Args:
        ratio: Log-ratios [..,N], nats.
        reward: Grades [..,N].
        beta: Inverse temperature of the log-ratio.
        objective: How scores are fitted to rewards, a function (score, reward) [..,N] -> [..]: `lambda_loss`, or the
            rest of the paper's family, `list_mle`, `pairwise_logistic` and `softmax_listwise`.

    Returns:
        Loss per list [..].
    """
    return objective(beta * ratio, reward)


@listwise(reference=None, normalize="length")
def pro(logps: Array, nll: Array, reward: Array, *, weight: NonNegative = 0.05, temperatures: bool = True) -> Array:
    """Preference ranking optimization: - sum over k of log [exp(s_k / T_kk) / (exp(s_k / T_kk) + sum over worse i of
    exp(s_i / T_ki))] + weight (N-1)^2 NLL(best), s token means, T_ki = 1/(r_k - r_i), T_kk = min_i T_ki
    (arXiv:2306.17492).

    N = 2 is a logistic loss on s_w - s_l, its slope the reward gap. Ties, whose temperature would be infinite, are left
    out of each other's sums.

    Args:
        logps: Token means of the log-probs [..,N], nats per token.
        nll: Minus the log-probs, sums over tokens [..,N], nats.
        reward: Grades [..,N].
        weight: Of the likelihood of the best, which grows with the list as in the released code (0.05 there).
        temperatures: False sets every T to 1.

    Returns:
        Loss per list [..], nats.
    """
    worse = beats(reward)
    exponent, other = logps, jnp.broadcast_to(logps[..., None, :], worse.shape)
    if temperatures:
        gap = jnp.where(worse, score_gaps(reward), 0)
        exponent, other = logps * jnp.max(gap, axis=-1), other * gap
    order = jnp.sum(first_of_worse(exponent, other, worse), axis=-1)
    return order + weight * _growing_nll(nll, reward)


@listwise(reference=None, normalize="length")
def rrhf(logps: Array, nll: Array, reward: Array, *, weight: NonNegative = 1.0) -> Array:
    """Rank responses with human feedback: sum over r_i > r_j of max(0, s_j - s_i) + weight NLL(best), s token means
    (arXiv:2304.05302).

    No margin: the ranking term is 0 once the order is right. The likelihood is a sum over tokens as in the paper;
    released code takes a token mean and multiplies the ranking term by 100.

    Args:
        logps: Token means of the log-probs [..,N], nats per token.
        nll: Minus the log-probs, sums over tokens [..,N], nats.
        reward: Grades [..,N].
        weight: Of the likelihood of the best; the paper adds the two unweighted.

    Returns:
        Loss per list [..], nats.
    """
    wrong = jax.nn.relu(-score_gaps(logps))
    return _sum_of_pairs(jnp.where(beats(reward), wrong, 0)) + weight * _of_best(nll, reward)


@listwise(reference=None, normalize="length")
def clha(
    logps: Array,
    nll: Array,
    reward: Array,
    *,
    gamma: NonNegative = 3.0,
    gap: NonNegative = 3.0,
    weight: NonNegative = 0.05,
) -> Array:
    """Contrastive learning for human alignment: mean over r_i - r_j > gap of max(0, gamma k_ij - (s_i - s_j)) + weight
    (N-1)^2 1[r_best > 0] NLL(best), k_ij places between i and j in the order of rewards, s token means
    (arXiv:2403.16649).

    One number serves as gamma and gap in released code. That code averages the pairs it keeps of each k over the batch
    and adds the up to N-1 averages; here it is one mean over those of a list, so that a list never changes another's
    weight. The contrast therefore counts up to N-1 times less against the likelihood than there: `weight` divided by
    N-1 comes near their mix. Ties share the mean of their ranks.

    Args:
        logps: Token means of the log-probs [..,N], nats per token.
        nll: Minus the log-probs, sums over tokens [..,N], nats.
        reward: Grades [..,N].
        gamma: Target margin for every place between two completions, in nats per token.
        gap: Pairs whose rewards are closer are taken for noise.
        weight: Of the likelihood of the best, left out where even the best has a reward of 0 or less.

    Returns:
        Loss per list [..], nats.
    """
    rank = mean_rank(reward)
    keep = beats(reward) & (score_gaps(reward) > gap)
    hinge = jax.nn.relu(gamma * -score_gaps(rank) - score_gaps(logps))
    contrast = _sum_of_pairs(jnp.where(keep, hinge, 0)) / jnp.maximum(_sum_of_pairs(keep), 1)
    good = jnp.max(reward, axis=-1) > 0
    return contrast + weight * jnp.where(good, _growing_nll(nll, reward), 0)


@listwise(reference=None, normalize="length")
def knowpat(logps: Array, reward: Array, *, weight: NonNegative = 0.1 / 3) -> Array:
    """Knowledgeable preference alignment: -s(best) + weight sum over i of sg mu_i [log(1 + exp(-s_i)) + mean over worse
    j of log(1 + exp(s_j))], mu_i = (s_i - min s) / (max s - min s), s token means (arXiv:2311.06503).

    The likelihood term is a token mean, as the scores are. As in the released code a completion with nothing worse than
    it has no alignment term; where all scores are equal, mu is 0.

    Args:
        logps: Token means of the log-probs [..,N], nats per token.
        reward: Grades [..,N].
        weight: Of the alignment term. The released scripts run 0.1 / 3 (CPQA, the default here) and 0.01 / 3 (RJUA);
            the 100 / 3 of their argument parser is used by neither.

    Returns:
        Loss per list [..], nats.
    """
    worse, on = beats(reward), takes_part(reward)
    low, high = (sign * jnp.max(sign * logps, axis=-1, keepdims=True, initial=MASKED, where=on) for sign in (-1, 1))
    share = jax.lax.stop_gradient(jnp.where(on, logps - low, 0) / jnp.where(high > low, high - low, 1))
    below = jnp.sum(worse, axis=-1)
    others = jnp.sum(jnp.where(worse, jax.nn.softplus(logps)[..., None, :], 0), axis=-1) / jnp.maximum(below, 1)
    align = jnp.sum(jnp.where(below > 0, share * (jax.nn.softplus(-logps) + others), 0), axis=-1)
    return _of_best(-logps, reward) + weight * align


@listwise(reference=None, normalize="length")
def stable_alignment(
    logps: Array,
    reward: Array,
    *,
    weight: NonNegative = 0.5,
    gamma: NonNegative = 1.0,
    scale: Positive = 7.0,
    hardest: bool = False,
) -> Array:
    """Stable Alignment: -s(best) + weight max(0, mean over the worse i of [s_i - s(best) + gamma (r_best - r_i) /
    scale]), s token means (arXiv:2305.16960).

    Defaults of the released code, which by an indexing slip takes the ratings of other completions than it scores; we
    take each completion's own.

    Args:
        logps: Token means of the log-probs [..,N], nats per token.
        reward: Grades [..,N].
        weight: Of the contrastive term.
        gamma: Target margin at the largest difference of ratings, in nats per token.
        scale: That difference (ratings from 1 to 7 in the paper).
        hardest: Takes the maximum over i in place of the mean.

    Returns:
        Loss per list [..], nats.
    """
    worse = takes_part(reward) & (reward < jnp.max(reward, axis=-1, keepdims=True))
    top = _of_best(logps, reward)
    margin = gamma * (jnp.max(reward, axis=-1, keepdims=True) - reward) / scale
    excess = jnp.where(worse, logps - top[..., None] + margin, 0)
    if hardest:
        contrast = jnp.max(excess, axis=-1, initial=0, where=worse)
    else:
        contrast = jax.nn.relu(jnp.sum(excess, axis=-1) / jnp.maximum(jnp.sum(worse, axis=-1), 1))
    return -top + weight * contrast


@listwise(reference=None, normalize="length")
def act(logps: Array, nll: Array, reward: Array, *, weight: NonNegative = 1.0) -> Array:
    """Alignment by constraint verification: sum over c_i > c_j of (c_i - c_j) log(1 + exp(s_j - s_i)) + weight
    NLL(best), c the share of its constraints that a completion satisfies, s token means (arXiv:2403.06326).

    The rates and the ranking by them are the paper's, whose text we could not read; the ranking loss is our derivation.
    It is a logistic loss in which a pair counts by the share of constraints that it differs in, and so passes
    continuously through ties.

    Args:
        logps: Token means of the log-probs [..,N], nats per token.
        nll: Minus the log-probs, sums over tokens [..,N], nats.
        reward: Constraint satisfaction rates c [..,N], as the stage `constraint_rate` fills them.
        weight: Of the likelihood of the best.

    Returns:
        Loss per list [..], nats.
    """
    gaps = jnp.where(beats(reward), score_gaps(reward), 0)
    return _sum_of_pairs(gaps * jax.nn.softplus(-score_gaps(logps))) + weight * _of_best(nll, reward)
