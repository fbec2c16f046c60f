"""Losses of pairs that hold each log-ratio near a value of its own, not their difference alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.losses.decorators.declared import needs, shared
from alignjax.losses.decorators.pairwise import pair_values, pairwise, score_pairs
from alignjax.ranges import NonNegative, Number, Positive
from alignjax.types import Array, Batch, Context, Mean, Metrics


@pairwise
def dpo_positive(margin: Array, ratio_w: Array, *, beta: Positive = 0.3, lam: NonNegative = 50.0) -> Array:
    """DPO-Positive (DPOP): -log S(beta [h - lam max(0, lr_w - lp_w)]) (arXiv:2402.13228).

    With a soft label both completions are winners in part, so both are penalized.

    Args:
        margin: The winner's log-ratio minus the loser's [..,K], nats.
        ratio_w: Log-ratio of the winner [..,K], nats.
        beta: Inverse temperature of the log-ratio.
        lam: Penalty on a winner that is less likely than under the reference, inside beta; the gradient flows through
            it. lam = 0 is DPO.

    Returns:
        Loss per pair [..,K], nats.
    """
    return -jax.nn.log_sigmoid(beta * (margin - lam * jax.nn.relu(-ratio_w)))


@pairwise
def nca(ratio_w: Array, ratio_l: Array, *, beta: Positive = 0.1) -> Array:
    """NCA on pairs, noise contrastive alignment: -log S(r_w) - 1/2 log S(-r_w) - 1/2 log S(-r_l), r = beta rho
    (arXiv:2402.05369).

    Bounds each log-ratio by itself: minimized at rho_i = log(2p) / beta, rho_j = log(2(1-p)) / beta, whose margin is
    DPO's, logit(p) / beta. The paper's other loss, InfoNCA, is DPO for pairs.

    Args:
        ratio_w: Log-ratio of the winner [..,K], nats.
        ratio_l: Log-ratio of the loser [..,K], nats.
        beta: Inverse temperature of the log-ratio.

    Returns:
        Loss per pair [..,K], nats.
    """
    reward_w, reward_l = beta * ratio_w, beta * ratio_l
    noise = jax.nn.log_sigmoid(-reward_w) + jax.nn.log_sigmoid(-reward_l)
    return -jax.nn.log_sigmoid(reward_w) - noise / 2


def _squares_to_target(ratio_w: Array, ratio_l: Array, target: Array | float) -> Array:
    """Half the squared distances of the winner's log-ratio from the target and of the loser's from minus it."""
    return (jnp.square(ratio_w - target) + jnp.square(ratio_l + target)) / 2


@pairwise
def sppo_hard(ratio_w: Array, ratio_l: Array, *, beta: Positive = 0.001) -> Array:
    """SPPO with hard labels: 1/2 [(rho_w - 1 / (2 beta))^2 + (rho_l + 1 / (2 beta))^2] (arXiv:2405.00675).

    A round of self-play has the previous policy as its reference. Minimized at rho_i = (p - 1/2) / beta = -rho_j, so a
    soft label gives the paper's target for a win rate p. The mean of the two squares is the authors' code; TRL's
    `sppo_hard` is their sum, twice this loss.

    Args:
        ratio_w: Log-ratio of the winner [..,K], nats.
        ratio_l: Log-ratio of the loser [..,K], nats.
        beta: Inverse of the paper's step size, eta = 1 / beta.

    Returns:
        Loss per pair [..,K], nats^2.
    """
    return _squares_to_target(ratio_w, ratio_l, 1 / (2 * beta))


@pairwise
def apo_zero(ratio_w: Array, ratio_l: Array, *, beta: Positive = 0.1) -> Array:
    """APO-zero, anchored preference optimization that raises the winner and lowers the loser: 1 - S(beta rho_w) +
    S(beta rho_l) (arXiv:2408.06266).

    Falls in rho_w and rises in rho_l without a minimum; its gradient fades as either leaves the reference.

    Args:
        ratio_w: Log-ratio of the winner [..,K], nats.
        ratio_l: Log-ratio of the loser [..,K], nats.
        beta: Inverse temperature of the log-ratio.

    Returns:
        Loss per pair [..,K], in [0, 2].
    """
    return jax.nn.sigmoid(-beta * ratio_w) + jax.nn.sigmoid(beta * ratio_l)


@pairwise
def apo_down(margin: Array, ratio_w: Array, *, beta: Positive = 0.1) -> Array:
    """APO-down, anchored preference optimization that lowers both, the loser more: S(beta rho_w) + 1 - S(beta h)
    (arXiv:2408.06266).

    For data whose winner is worse than the policy already. Rises in rho_l everywhere, and in rho_w where |rho_w| < |h|.

    Args:
        margin: The winner's log-ratio minus the loser's [..,K], nats.
        ratio_w: Log-ratio of the winner [..,K], nats.
        beta: Inverse temperature of the log-ratio.

    Returns:
        Loss per pair [..,K], in [0, 2].
    """
    return jax.nn.sigmoid(beta * ratio_w) + jax.nn.sigmoid(-beta * margin)


@pairwise
def cal_dpo(margin: Array, ratio_w: Array, ratio_l: Array, *, beta: Positive = 0.001) -> Array:
    """Calibrated DPO: -log S(h) + 1/2 [(rho_w - 1 / (2 beta))^2 + (rho_l + 1 / (2 beta))^2] (arXiv:2412.14516).

    This is the authors' code; its script runs beta = 0.001 (a target of 500 nats), its config file has 0.002. Whether
    the paper too weighs the calibration by 1/2 we could not read. Minimized at rho_i = -rho_j = x with S(2x) + x = p +
    (2p-1) / (2 beta).

    Args:
        margin: The winner's log-ratio minus the loser's [..,K], nats.
        ratio_w: Log-ratio of the winner [..,K], nats.
        ratio_l: Log-ratio of the loser [..,K], nats.
        beta: Sets the target 1 / (2 beta) nats of the log-ratios; there is none inside S.

    Returns:
        Loss per pair [..,K].
    """
    return -jax.nn.log_sigmoid(margin) + _squares_to_target(ratio_w, ratio_l, 1 / (2 * beta))


def _classified(ratio_w: Array, ratio_l: Array, *, beta: float, shift: Array | float) -> Array:
    """Binary cross-entropy of winner and loser as two separate examples."""
    return -jax.nn.log_sigmoid(beta * ratio_w - shift) - jax.nn.log_sigmoid(shift - beta * ratio_l)


@needs("preference")
@shared("role", "reference", "pairs", "normalize")
def bco_pair(
    context: Context, batch: Batch, *, beta: Positive = 0.1, shift: Number | None = None, **where: Any
) -> tuple[Mean, Metrics]:
    """Binary classifier optimization on pairs: -log S(beta rho_w - d) - log S(d - beta rho_l), d = sg mean of beta rho
    over both sides of the batch (arXiv:2404.04656).

    For any shift it bounds DPO from above. The mean is over the pairs that are labeled, by their weight, so it does
    not depend on devices; the paper tracks d by a running mean, which in a run's first step is this one. The pair form
    of TRL 1.16 has none (earlier releases had): shift = 0.0. Minimized at margin = 2 logit(p) / beta for a single pair.

    Args:
        context: Scores the role and the reference.
        batch: Completions [B,N,T] with a preference [B,N,N].
        beta: Inverse temperature of the log-ratio.
        shift: A fixed d in place of the batch's mean.
        **where: role, reference, pairs and normalize, see `declared.shared`.

    Returns:
        The mean over pairs in nats, and the metrics of pairs with `shift`: d.

    Raises:
        ConfigError: If the batch has no preference, or not the completions that `pairs` names.
    """
    scored = score_pairs(context, batch, **where)
    ratio = (scored.fields["ratio_i"] + scored.fields["ratio_j"]) / 2
    middle = jax.lax.stop_gradient(scored.mean(beta * ratio)) if shift is None else Mean.of(jnp.asarray(shift))
    d = middle.value().astype(ratio.dtype)
    values = pair_values(_classified, scored.fields, scored.label, beta=beta, shift=d)
    return scored.mean(values), scored.metrics(shift=middle)
