"""Losses of the margin of a pair: the log-ratio of one completion minus that of the other, in nats."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax.losses.decorators.pairwise import pairwise
from alignjax.ranges import ErrorRate, Positive, Within
from alignjax.types import Array


@pairwise
def dpo(margin: Array, preference: Array, *, beta: Positive = 0.1) -> Array:
    """Direct preference optimization: -p log S(beta margin) - (1-p) log S(-beta margin), S the logistic function
    (arXiv:2305.18290 eq. 7).

    The paper has hard labels (p = 1); p = 1 - epsilon is conservative DPO. Minimized at margin = logit(p) / beta.

    Args:
        margin: Difference of the log-ratios [..,K], nats.
        preference: Probability p that the first completion is preferred [..,K].
        beta: Inverse temperature of the log-ratio, the strength of the KL regularization.

    Returns:
        Loss per pair [..,K], nats.
    """
    return -(preference * jax.nn.log_sigmoid(beta * margin) + (1 - preference) * jax.nn.log_sigmoid(-beta * margin))


@pairwise
def ipo(margin: Array, preference: Array, *, tau: Positive = 0.1) -> Array:
    """Identity preference optimization: (margin - (2p-1) / (2 tau))^2 (arXiv:2310.12036 eq. 17; on sampled pairs,
    online IPO of arXiv:2403.08635).

    The papers label pairs with a draw (p = 1); the label-average of their loss differs from p itself by a constant,
    with the same gradient. Minimized at margin = (2p-1) / (2 tau). Sequence sums as in the paper's formula. TRL 1.16
    divides each log-ratio by its length and reports that IPO's authors confirmed this to be what the paper's results
    were made with: `normalize="length"`. Margins are then per token, and tau another strength.

    Args:
        margin: Difference of the log-ratios [..,K], nats.
        preference: Probability p that the first completion is preferred [..,K].
        tau: Strength of the regularization towards the reference.

    Returns:
        Loss per pair [..,K], nats^2.
    """
    return jnp.square(margin - (2 * preference - 1) / (2 * tau))


@pairwise
def slic(margin: Array, preference: Array, *, beta: Positive = 0.1) -> Array:
    """Hinge loss of SLiC on log-ratios: p max(0, 1 - beta margin) + (1-p) max(0, 1 + beta margin) (arXiv:2305.10425, as
    online SLiC in arXiv:2403.08635).

    On log-ratios it is the normalized hinge of RSO (arXiv:2309.06657). SLiC-HF itself is on log-probs without a
    reference (`reference=None`) and adds a likelihood term on a target sequence, an `sft` entry beside this one.

    Args:
        margin: Difference of the log-ratios [..,K], nats.
        preference: Probability p that the first completion is preferred [..,K].
        beta: Inverse temperature of the log-ratio; the target margin is 1 / beta nats.

    Returns:
        Loss per pair [..,K].
    """
    return preference * jax.nn.relu(1 - beta * margin) + (1 - preference) * jax.nn.relu(1 + beta * margin)


@pairwise
def robust_dpo(margin: Array, *, beta: Positive = 0.1, epsilon: ErrorRate = 0.1) -> Array:
    """Robust DPO, unbiased when labels are flipped at rate epsilon: [-(1-epsilon) log S(beta h) + epsilon log S(-beta
    h)] / (1 - 2 epsilon) (arXiv:2403.00409).

    Averaged over flips at rate epsilon it is DPO on the true labels. A label p counts as p l(w, l) + (1-p) l(l, w),
    which makes it DPO with the label (p - epsilon) / (1 - 2 epsilon), so it is minimized at margin = logit of that over
    beta and, for labels outside [epsilon, 1 - epsilon], unbounded from below.

    Args:
        margin: The winner's log-ratio minus the loser's [..,K], nats.
        beta: Inverse temperature of the log-ratio.
        epsilon: Flip rate, below 1/2.

    Returns:
        Loss per pair [..,K], nats.
    """
    right = -jax.nn.log_sigmoid(beta * margin)
    wrong = -jax.nn.log_sigmoid(-beta * margin)
    return ((1 - epsilon) * right - epsilon * wrong) / (1 - 2 * epsilon)


@pairwise(normalize="length")
def ln_dpo(margin: Array, *, beta: Positive = 2.0) -> Array:
    """Length-normalized DPO: -log S(beta rho_w / len_w - beta rho_l / len_l) (arXiv:2407.15229).

    At equal lengths n it is DPO at beta / n. Minimized at margin = logit(p) / beta nats per token. DPO with
    `normalize="length"` is the same loss.

    Args:
        margin: Difference of the per-token mean log-ratios [..,K], nats per token.
        beta: Inverse temperature of the log-ratio per token, larger than DPO's by about the length of a completion; the
            default is ours.

    Returns:
        Loss per pair [..,K], nats.
    """
    return -jax.nn.log_sigmoid(beta * margin)


@pairwise
def h_dpo(margin: Array, logps_w: Array, logps_l: Array, *, beta: Positive = 0.1, alpha: Positive = 0.9) -> Array:
    """H-DPO, entropy-controlled DPO: -log S(alpha beta (lp_w - lp_l) - beta (lr_w - lr_l)) (arXiv:2411.07595).

    Args:
        margin: The winner's log-ratio minus the loser's [..,K], nats.
        logps_w: Log-prob of the winner [..,K], nats.
        logps_l: Log-prob of the loser [..,K], nats.
        beta: Inverse temperature of the log-ratio.
        alpha: Coefficient of the policy's entropy within the KL: the optimum is proportional to ref^(1/alpha) exp(r /
            (alpha beta)), sharper than DPO's below 1; alpha = 1 is DPO.

    Returns:
        Loss per pair [..,K], nats.
    """
    return -jax.nn.log_sigmoid(beta * (margin + (alpha - 1) * (logps_w - logps_l)))


@pairwise
def discopop(margin: Array, *, beta: Positive = 0.05, temperature: Within = 0.05) -> Array:
    """DiscoPOP, the log-ratio modulated loss: (1-m) (-log S(x)) + m exp(-x), x = beta h, m = S(x / temperature)
    (arXiv:2406.08414).

    Not convex: the logistic and the exponential loss differ at 0, so it has a bump there.

    Args:
        margin: The winner's log-ratio minus the loser's [..,K], nats.
        beta: Inverse temperature of the log-ratio.
        temperature: Width of the switch from the logistic loss (x < 0) to the exponential one (x > 0), the paper's tau;
            it must be below 1.

    Returns:
        Loss per pair [..,K].
    """
    x = beta * margin
    # m exp(-x) as one exponent; without a cap it would overflow for temperature >= 1, where the loss has no bound
    exponential = jnp.exp(jnp.minimum(jax.nn.log_sigmoid(x / temperature) - x, 40))
    return jax.nn.sigmoid(-x / temperature) * -jax.nn.log_sigmoid(x) + exponential


@pairwise
def exo(margin: Array, preference: Array, *, beta: Positive = 0.1, epsilon: ErrorRate = 1e-3) -> Array:
    """EXO on pairs: the KL divergence of the policy's choice q = S(beta h) from the label's, q log(q / t) + (1-q)
    log((1-q) / (1-t)), t = (1-epsilon) p + epsilon (1-p) (arXiv:2402.00856).

    The gradient flows through q in both places. Minimized at margin = logit(t) / beta, where it is 0. The paper has
    hard labels for pairs and a distribution of the K rewards in general; a soft label is that distribution for K = 2.
    The authors' code puts log t = 0 and -10 for a hard label, which is not normalized.

    Args:
        margin: Difference of the log-ratios [..,K], nats.
        preference: Probability p that the first completion is preferred [..,K].
        beta: Inverse temperature of the log-ratio.
        epsilon: Smoothing of the label; 0 is for soft labels alone (the reverse KL from a hard one is infinite).

    Returns:
        Loss per pair [..,K], nats.
    """
    target = (1 - epsilon) * preference + epsilon * (1 - preference)
    x = beta * margin
    first = jax.nn.sigmoid(x) * (jax.nn.log_sigmoid(x) - jnp.log(target))
    return first + jax.nn.sigmoid(-x) * (jax.nn.log_sigmoid(-x) - jnp.log1p(-target))
