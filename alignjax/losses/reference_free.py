"""Losses of pairs without a reference model. Log-probabilities themselves take the place of log-ratios."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax.losses.decorators.pairwise import pairwise
from alignjax.losses.divergences import alpha_divergence
from alignjax.numerics import as_float32
from alignjax.ranges import NonNegative, Number, Positive
from alignjax.types import Array


@pairwise(reference=None)
def cpo(
    margin: Array,
    logps_w: Array,
    length_w: Array,
    *,
    beta: Positive = 0.1,
    alpha: NonNegative = 1.0,
    token_mean: bool = False,
) -> Array:
    """Contrastive preference optimization: -log S(beta (lp_w - lp_l)) - alpha lp_w (arXiv:2401.08417).

    The sum is the paper's. All released code (ALMA's, TRL) anchors by a mean over tokens, which weighs the likelihood
    less by the length of a completion: `token_mean=True` is it where winners are equally long, and else a mean over
    completions where that code has one over tokens. For theirs exactly, set alpha = 0 and add `fn(weighted,
    loss=on("chosen", sft), weight=1.0)` on a view whose mask has only the winners.

    Args:
        margin: The winner's log-prob minus the loser's [..,K], sequence sums, nats.
        logps_w: Log-prob of the winner [..,K], nats.
        length_w: How many tokens of the winner count [..,K].
        beta: Inverse temperature of the log-prob.
        alpha: Weight of the likelihood of the winner, 1 in the paper.
        token_mean: Divides lp_w in the second term by the winner's length.

    Returns:
        Loss per pair [..,K], nats.
    """
    likelihood = logps_w / jnp.maximum(length_w, 1) if token_mean else logps_w
    return -jax.nn.log_sigmoid(beta * margin) - alpha * likelihood


@pairwise(reference=None)
def autoregressive_reward(margin: Array, *, beta: Positive = 0.05) -> Array:
    """Autoregressive reward model: -log S(beta (lp_w - lp_l)), lp the model's log-prob of a completion, which is its
    reward (GenARM, arXiv:2410.08193).

    Minimized where the log-probs differ by logit(p) / beta. The sampler `genarm` adds such a model's log-probs to those
    of a policy. beta as in released code; a copy of the policy that is guided is what is trained there.

    Args:
        margin: The winner's log-prob minus the loser's [..,K], sequence sums, nats.
        beta: Reward per nat.

    Returns:
        Loss per pair [..,K], nats.
    """
    return -jax.nn.log_sigmoid(beta * margin)


@pairwise(reference=None, normalize="length")
def simpo(margin: Array, *, beta: Positive = 2.0, gamma: Number = 1.0) -> Array:
    """SimPO: -log S(beta lp_w / len_w - beta lp_l / len_l - gamma) (arXiv:2405.14734).

    A label p counts as p l(w, l) + (1-p) l(l, w), so the target margin goes with the winner; TRL's label smoothing
    keeps gamma on the labeled side and is, with label 1, (1-epsilon) times this loss plus epsilon times its value at
    label 0 and -gamma.

    Args:
        margin: Difference of the per-token mean log-probs [..,K], nats per token.
        beta: Inverse temperature of the log-prob per token.
        gamma: Target margin, outside beta.

    Returns:
        Loss per pair [..,K], nats.
    """
    return -jax.nn.log_sigmoid(beta * margin - gamma)


@pairwise(reference=None, normalize="length")
def alpha_po(
    logps_w: Array, logps_l: Array, *, beta: Positive = 2.0, gamma: Number = 0.5, alpha: Number = 0.25
) -> Array:
    """AlphaPO, SimPO with a bent reward: -log S(beta (r_w - r_l) - gamma), r = (1 - P^(-alpha)) / alpha, P = exp(lp /
    len) (arXiv:2501.03884).

    beta, gamma and alpha have to be tuned together; these defaults are ours. Soft labels as in SimPO.

    Args:
        logps_w: Per-token mean log-prob of the winner [..,K], nats per token.
        logps_l: Per-token mean log-prob of the loser [..,K], nats per token.
        beta: Inverse temperature of the reward.
        gamma: Target margin, outside beta.
        alpha: Shape of the reward, of any sign; alpha = 0 is SimPO.

    Returns:
        Loss per pair [..,K], nats.
    """
    reward_w, reward_l = (alpha_divergence(logps, alpha=alpha) for logps in (logps_w, logps_l))  # the same bend
    return -jax.nn.log_sigmoid(beta * (reward_w - reward_l) - gamma)


def log_odds(logps: Array) -> Array:
    """Returns log(P / (1 - P)) of P = exp(logps); where P rounds to 1, that of the largest number below 1, without a
    gradient."""
    logps = as_float32(logps)
    below = jnp.minimum(logps, -jnp.finfo(logps.dtype).eps)
    return below - jax.nn.log1mexp(-below)


@pairwise(reference=None, normalize="length")
def orpo(logps_w: Array, logps_l: Array, *, lam: NonNegative = 0.1) -> Array:
    """Odds ratio preference optimization: -lp_w / len_w - lam log S(log[P_w / (1-P_w)] - log[P_l / (1-P_l)]), P =
    exp(lp / len) (arXiv:2403.07691 eq. 6).

    The supervised term is a mean per completion as in the paper, so the whole batch's is a mean of completions, not of
    tokens. Sound where P -> 1 (an empty completion has P = 1).

    Args:
        logps_w: Per-token mean log-prob of the winner [..,K], nats per token.
        logps_l: Per-token mean log-prob of the loser [..,K], nats per token.
        lam: Weight of the odds ratio beside the supervised loss of the winner (TRL calls it beta).

    Returns:
        Loss per pair [..,K], nats.
    """
    return -logps_w - lam * jax.nn.log_sigmoid(log_odds(logps_w) - log_odds(logps_l))


@pairwise(reference=None)
def slic_hf(margin: Array, logps_w: Array, *, gamma: NonNegative = 1.0, lam: NonNegative = 0.1) -> Array:
    """SLiC-HF, rank calibration with a likelihood term: max(0, gamma - lp_w + lp_l) - lam lp_w (arXiv:2305.10425).

    The paper regularizes towards the supervised target of the prompt, for which the winner stands here as it does in
    released code; for another target set lam = 0 and add an `sft` entry on a view. With lam = 0 it is gamma times
    `slic` at beta = 1 / gamma without a reference. The defaults are ours.

    Args:
        margin: The winner's log-prob minus the loser's [..,K], sequence sums, nats.
        logps_w: Log-prob of the winner [..,K], nats.
        gamma: Target margin in nats (the paper's delta).
        lam: Weight of the likelihood.

    Returns:
        Loss per pair [..,K], nats.
    """
    return jax.nn.relu(gamma - margin) - lam * logps_w
