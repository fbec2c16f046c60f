"""Losses of pairs that hold each log-ratio to a place of its own, not their difference alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax.losses.decorators.pairwise import (
    pair_fields,
    pair_indices,
    pair_labels,
    pair_metrics,
    pair_values,
    pairwise,
)
from alignjax.types import Array, Batch, Context, Mean, Metrics

__all__ = ["apo_down", "apo_zero", "bco_pair", "cal_dpo", "dpo_positive", "nca", "sppo_hard"]


@pairwise
def dpo_positive(margin: Array, ratio_w: Array, *, beta: float = 0.3, lam: float = 50.0) -> Array:
    """DPO-Positive (DPOP): -log S(beta [h - lam max(0, lr_w - lp_w)]) (arXiv:2402.13228).

    margin, ratio_w [..,K] -> loss per pair in nats. beta: inverse temperature of the log-ratio; lam: penalty on a
    winner that is less likely than under the reference, inside beta; the gradient flows through it. lam = 0 is DPO.
    With a soft label both completions are winners in part, so both are penalised.
    """
    return -jax.nn.log_sigmoid(beta * (margin - lam * jax.nn.relu(-ratio_w)))


@pairwise
def nca(ratio_w: Array, ratio_l: Array, *, beta: float = 0.1) -> Array:
    """NCA on pairs, noise contrastive alignment: -log S(r_w) - 1/2 log S(-r_w) - 1/2 log S(-r_l), r = beta rho
    (arXiv:2402.05369).

    ratio_w, ratio_l [..,K] -> loss per pair in nats. beta: inverse temperature of the log-ratio. Bounds each log-ratio
    by itself: minimised at rho_i = log(2p) / beta, rho_j = log(2(1-p)) / beta, whose margin is DPO's, logit(p) / beta.
    The paper's other loss, InfoNCA, is DPO for pairs.
    """
    reward_w, reward_l = beta * ratio_w, beta * ratio_l
    noise = jax.nn.log_sigmoid(-reward_w) + jax.nn.log_sigmoid(-reward_l)
    return -jax.nn.log_sigmoid(reward_w) - noise / 2


@pairwise
def sppo_hard(ratio_w: Array, ratio_l: Array, *, beta: float = 0.001) -> Array:
    """SPPO with hard labels: 1/2 [(rho_w - 1 / (2 beta))^2 + (rho_l + 1 / (2 beta))^2] (arXiv:2405.00675).

    ratio_w, ratio_l [..,K] -> loss per pair in nats^2. beta: inverse of the paper's step size eta = 1 / beta; a round
    of self-play has the previous policy as its reference. Minimised at rho_i = (p - 1/2) / beta = -rho_j, so a soft
    label gives the paper's target for a win rate p. The mean of the two squares is the authors' code; TRL's `sppo_hard`
    is their sum, twice this loss.
    """
    return (jnp.square(ratio_w - 1 / (2 * beta)) + jnp.square(ratio_l + 1 / (2 * beta))) / 2


@pairwise
def apo_zero(ratio_w: Array, ratio_l: Array, *, beta: float = 0.1) -> Array:
    """APO-zero, anchored preference optimisation that raises the winner and lowers the loser: 1 - S(beta rho_w) +
    S(beta rho_l) (arXiv:2408.06266).

    ratio_w, ratio_l [..,K] -> loss per pair in [0, 2]. beta: inverse temperature of the log-ratio. Falls in rho_w and
    rises in rho_l without a minimum; its gradient fades as either leaves the reference.
    """
    return jax.nn.sigmoid(-beta * ratio_w) + jax.nn.sigmoid(beta * ratio_l)


@pairwise
def apo_down(margin: Array, ratio_w: Array, *, beta: float = 0.1) -> Array:
    """APO-down, anchored preference optimisation that lowers both, the loser more: S(beta rho_w) + 1 - S(beta h)
    (arXiv:2408.06266).

    margin, ratio_w [..,K] -> loss per pair in [0, 2]. beta: inverse temperature of the log-ratio. For data whose winner
    is worse than the policy already. Rises in rho_l everywhere, and in rho_w where |rho_w| < |h|.
    """
    return jax.nn.sigmoid(beta * ratio_w) + jax.nn.sigmoid(-beta * margin)


@pairwise
def cal_dpo(margin: Array, ratio_w: Array, ratio_l: Array, *, beta: float = 0.001) -> Array:
    """Calibrated DPO: -log S(h) + 1/2 [(rho_w - 1 / (2 beta))^2 + (rho_l + 1 / (2 beta))^2] (arXiv:2412.14516).

    All [..,K] -> loss per pair. beta: sets the target 1 / (2 beta) nats of the log-ratios; there is none inside S. This
    is the authors' code, whose scripts use beta = 0.001; the paper's own weight on the calibration term is not checked.
    Minimised at rho_i = -rho_j = x with S(2x) + x = p + (2p-1) / (2 beta).
    """
    target = 1 / (2 * beta)
    return -jax.nn.log_sigmoid(margin) + (jnp.square(ratio_w - target) + jnp.square(ratio_l + target)) / 2


def _classified(ratio_w: Array, ratio_l: Array, *, beta: float, shift: Array | float) -> Array:
    """Binary cross-entropy of winner and loser as two separate examples."""
    return -jax.nn.log_sigmoid(beta * ratio_w - shift) - jax.nn.log_sigmoid(shift - beta * ratio_l)


def bco_pair(
    context: Context,
    batch: Batch,
    *,
    beta: float = 0.1,
    shift: float | None = None,
    role: str = "policy",
    reference: str | None = "reference",
    pairs: tuple[tuple[int, int], ...] = ((0, 1),),
    normalize: str = "none",
) -> tuple[Mean, Metrics]:
    """Binary classifier optimisation on pairs: -log S(beta rho_w - d) - log S(d - beta rho_l), d = sg mean of beta rho
    over both sides of the batch (arXiv:2404.04656).

    Nats per pair. beta: inverse temperature of the log-ratio; shift: a fixed d in place of the batch's mean. For any
    shift it bounds DPO from above. The mean is over the pairs that are labelled, by their weight, so it does not depend
    on devices; the paper tracks d by a running mean, which in a run's first step is this one. TRL's pair form has none:
    shift = 0.0. Minimised at margin = 2 logit(p) / beta for a single pair. Metric `shift`: d.
    """
    i, j = pair_indices(batch, pairs)
    label, weight = pair_labels(batch, i, j)
    fields = pair_fields(context, batch, i, j, role=role, reference=reference, normalize=normalize)
    ratio = (fields["ratio_i"] + fields["ratio_j"]) / 2
    middle = jax.lax.stop_gradient(Mean.of(beta * ratio, weight)) if shift is None else Mean.of(jnp.asarray(shift))
    given = middle.value().astype(ratio.dtype)
    values = pair_values(_classified, fields, label.astype(ratio.dtype), beta=beta, shift=given)
    return Mean.of(values, weight), pair_metrics(fields, label, weight) | {"shift": middle}
