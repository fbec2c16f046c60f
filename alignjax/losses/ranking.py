"""Losses on the graded completions of a prompt, in N^2 numbers a list and nothing across the batch.

s_i is the score of completion i in the policy, r_i its reward, NLL_i minus its log-probability summed over tokens.
Completions with equal reward are not compared with each other; where a formula speaks of the best, tied ones share it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import fn
from alignjax.losses.decorators.listwise import beats, best, first_of_worse, lambda_loss, list_mle, listwise, mean_rank
from alignjax.types import Array

__all__ = [
    "act",
    "clha",
    "knowpat",
    "lipo",
    "plackett_luce",
    "pro",
    "rrhf",
    "stable_alignment",
]


@listwise
def plackett_luce(ratio: Array, reward: Array, *, beta: float = 0.1) -> Array:
    """Plackett-Luce DPO: - sum over i of log [exp(beta rho_i) / sum over {i} and the worse j of exp(beta rho_j)], the
    order being that of the rewards (arXiv:2305.18290 appendix A.3).

    ratio, reward [..,N] -> loss per list [..] in nats. beta: inverse temperature of the log-ratio. N = 2 is DPO on the
    pair. Without ties it is minus the log-probability of the whole order; tied completions do not compete with each
    other (the paper has no ties), which keeps the loss free of positions.
    """
    return list_mle(beta * ratio, reward)


@listwise
def lipo(ratio: Array, reward: Array, *, beta: float = 0.1, objective: Any = fn(lambda_loss)) -> Array:
    """LiPO-lambda: sum over r_i > r_j of sg|2^r_i - 2^r_j| |1/ln(1+rank_i) - 1/ln(1+rank_j)| log(1 + exp(s_j - s_i)),
    with s = beta rho and rank the order of s (arXiv:2402.01878).

    ratio, reward [..,N] -> loss per list [..]. beta: inverse temperature of the log-ratio. objective: how scores are
    fitted to rewards, a function (score, reward) [..,N] -> [..]: `lambda_loss`, or the rest of the paper's family,
    `list_mle`, `pairwise_logistic` and `softmax_listwise`. The paper's labels lie in [0, 1].

    The published formula carries a leading minus; we minimise the sum itself, since its terms fall as s_i - s_j grows.
    Two completions with labels 1 and 0 give (1/ln 2 - 1/ln 3) times DPO. Equal scores are ranked by reward.
    """
    return objective(beta * ratio, reward)


@listwise(reference=None, normalize="length")
def pro(logps: Array, nll: Array, reward: Array, *, weight: float = 0.05, temperatures: bool = True) -> Array:
    """Preference ranking optimisation: - sum over k of log [exp(s_k / T_kk) / (exp(s_k / T_kk) + sum over worse i of
    exp(s_i / T_ki))] + weight (N-1)^2 NLL(best), s token means, T_ki = 1/(r_k - r_i), T_kk = min_i T_ki
    (arXiv:2306.17492).

    logps (token means), nll, reward [..,N] -> loss per list [..]. weight: of the likelihood of the best, which grows
    with the list as in the released code (0.05 there); its sum over tokens. temperatures=False sets every T to 1.
    N = 2 is a logistic loss on s_w - s_l, its slope the reward gap. Ties, whose temperature would be infinite, are left
    out of each other's sums.
    """
    worse = beats(reward)
    own, other = logps, jnp.broadcast_to(logps[..., None, :], worse.shape)
    if temperatures:
        gap = jnp.where(worse, reward[..., :, None] - reward[..., None, :], 0)
        own, other = logps * jnp.max(gap, axis=-1), other * gap
    ranking = jnp.sum(first_of_worse(own, other, worse), axis=-1)
    return ranking + weight * (reward.shape[-1] - 1) ** 2 * _of_best(nll, reward)


@listwise(reference=None, normalize="length")
def rrhf(logps: Array, nll: Array, reward: Array, *, weight: float = 1.0) -> Array:
    """Rank responses with human feedback: sum over r_i > r_j of max(0, s_j - s_i) + weight NLL(best), s token means
    (arXiv:2304.05302).

    logps (token means), nll, reward [..,N] -> loss per list [..]. weight: of the likelihood of the best; the paper adds
    the two unweighted. Its sum over tokens as in the paper; released code takes a token mean and multiplies the ranking
    term by 100. No margin: the ranking term is 0 once the order is right.
    """
    wrong = jax.nn.relu(logps[..., None, :] - logps[..., :, None])
    return jnp.sum(jnp.where(beats(reward), wrong, 0), axis=(-1, -2)) + weight * _of_best(nll, reward)


@listwise(reference=None, normalize="length")
def clha(
    logps: Array, nll: Array, reward: Array, *, gamma: float = 3.0, gap: float = 3.0, weight: float = 0.05
) -> Array:
    """Contrastive learning for human alignment: mean over r_i - r_j > gap of max(0, gamma k_ij - (s_i - s_j)) + weight
    (N-1)^2 1[r_best > 0] NLL(best), k_ij places between i and j in the order of rewards, s token means
    (arXiv:2403.16649).

    logps (token means), nll, reward [..,N] -> loss per list [..]. gamma: target margin for every place between two
    completions, in nats per token; gap: pairs whose rewards are closer are taken for noise; weight: of the likelihood
    of the best, left out where even the best has a reward of 0 or less. One number serves as gamma and gap in released
    code. That code averages the kept pairs of each k over the batch and adds the averages; here it is one mean over
    the kept pairs of a list, so that a list never changes another's weight. Ties share the mean of their ranks.
    """
    rank = mean_rank(reward)
    places = rank[..., None, :] - rank[..., :, None]
    difference = reward[..., :, None] - reward[..., None, :]
    kept = beats(reward) & (difference > gap)
    hinge = jax.nn.relu(gamma * places - (logps[..., :, None] - logps[..., None, :]))
    ranking = jnp.sum(jnp.where(kept, hinge, 0), axis=(-1, -2)) / jnp.maximum(jnp.sum(kept, axis=(-1, -2)), 1)
    good = jnp.max(reward, axis=-1) > 0
    return ranking + weight * (reward.shape[-1] - 1) ** 2 * jnp.where(good, _of_best(nll, reward), 0)


@listwise(reference=None, normalize="length")
def knowpat(logps: Array, reward: Array, *, weight: float = 1.0) -> Array:
    """Knowledgeable preference alignment: -s(best) + weight sum over i of sg mu_i [log(1 + exp(-s_i)) + mean over worse
    j of log(1 + exp(s_j))], mu_i = (s_i - min s) / (max s - min s), s token means (arXiv:2311.06503).

    logps (token means), reward [..,N] -> loss per list [..]. weight: of the alignment term; released code uses 100 / 3.
    The likelihood term is a token mean, as the scores are. As in that code a completion with nothing worse than it has
    no alignment term; where all scores are equal, mu is 0.
    """
    worse = beats(reward)
    low, high = (f(logps, axis=-1, keepdims=True) for f in (jnp.min, jnp.max))
    share = jax.lax.stop_gradient((logps - low) / jnp.where(high > low, high - low, 1))
    below = jnp.sum(worse, axis=-1)
    others = jnp.sum(jnp.where(worse, jax.nn.softplus(logps)[..., None, :], 0), axis=-1) / jnp.maximum(below, 1)
    align = jnp.sum(jnp.where(below > 0, share * (jax.nn.softplus(-logps) + others), 0), axis=-1)
    return _of_best(-logps, reward) + weight * align


@listwise(reference=None, normalize="length")
def stable_alignment(
    logps: Array, reward: Array, *, weight: float = 0.5, gamma: float = 1.0, scale: float = 7.0, hardest: bool = False
) -> Array:
    """Stable Alignment: -s(best) + weight max(0, mean over the worse i of [s_i - s(best) + gamma (r_best - r_i) /
    scale]), s token means (arXiv:2305.16960).

    logps (token means), reward [..,N] -> loss per list [..]. weight: of the contrastive term; gamma: target margin at
    the largest difference of ratings, in nats per token; scale: that difference (ratings from 1 to 7 in the paper);
    hardest=True: the maximum over i in place of the mean. Defaults of the released code, which by an indexing slip
    takes the ratings of other completions than it scores; we take each completion's own.
    """
    worse = reward < jnp.max(reward, axis=-1, keepdims=True)
    top = _of_best(logps, reward)
    margin = gamma * (jnp.max(reward, axis=-1, keepdims=True) - reward) / scale
    excess = jnp.where(worse, logps - top[..., None] + margin, 0)
    if hardest:
        contrast = jnp.max(excess, axis=-1, initial=0, where=worse)
    else:
        contrast = jax.nn.relu(jnp.sum(excess, axis=-1) / jnp.maximum(jnp.sum(worse, axis=-1), 1))
    return -top + weight * contrast


@listwise(reference=None, normalize="length")
def act(logps: Array, nll: Array, reward: Array, *, weight: float = 1.0) -> Array:
    """Alignment by constraint verification: sum over c_i > c_j of (c_i - c_j) log(1 + exp(s_j - s_i)) + weight
    NLL(best), c the share of its constraints that a completion satisfies, s token means (arXiv:2403.06326).

    logps (token means), nll, reward [..,N] -> loss per list [..]. weight: of the likelihood of the best. reward holds
    the constraint satisfaction rates, as the stage `constraint_rate` fills them.

    The rates and the ranking by them are the paper's; the ranking loss is our derivation, as its form there could not
    be confirmed. It is a logistic loss in which a pair counts by how many constraints it differs in, and so passes
    continuously through ties.
    """
    gap = jax.nn.relu(reward[..., :, None] - reward[..., None, :])
    terms = gap * jax.nn.softplus(logps[..., None, :] - logps[..., :, None])
    return jnp.sum(terms, axis=(-1, -2)) + weight * _of_best(nll, reward)


def _of_best(values: Array, reward: Array) -> Array:
    """The value of the best completion [..]; tied ones are averaged."""
    return jnp.sum(best(reward) * values, axis=-1)
