"""Losses on pairs of completions. `margin` is the log-ratio of completion i over j in nats, `preference` the
probability that i beats j."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax.losses.pairing import pairwise
from alignjax.types import Array

__all__ = ["dpo", "ipo", "pairwise", "slic"]


@pairwise
def dpo(margin: Array, preference: Array, *, beta: float) -> Array:
    """Direct preference optimisation: -p log S(beta margin) - (1-p) log S(-beta margin), S the logistic function
    (arXiv:2305.18290 eq. 7).

    margin, preference [..,K] -> loss per pair [..,K] in nats. beta: inverse temperature of the log-ratio, the strength
    of the KL regularisation. The paper has hard labels (p = 1); p = 1 - epsilon is conservative DPO. Minimised at
    margin = logit(p) / beta.
    """
    return -(preference * jax.nn.log_sigmoid(beta * margin) + (1 - preference) * jax.nn.log_sigmoid(-beta * margin))


@pairwise
def ipo(margin: Array, preference: Array, *, tau: float) -> Array:
    """Identity preference optimisation: (margin - (2p-1) / (2 tau))^2 (arXiv:2310.12036 eq. 17; on sampled pairs,
    online IPO of arXiv:2403.08635).

    margin, preference [..,K] -> loss per pair [..,K] in nats^2. tau: strength of the regularisation towards the
    reference. The papers label pairs with a draw (p = 1); the label-average of their loss differs from p itself by a
    constant, with the same gradient. Minimised at margin = (2p-1) / (2 tau). Sequence sums as in the paper; released
    code often divides by length, which `normalize="length"` does.
    """
    return jnp.square(margin - (2 * preference - 1) / (2 * tau))


@pairwise
def slic(margin: Array, preference: Array, *, beta: float) -> Array:
    """Hinge loss of SLiC on log-ratios: p max(0, 1 - beta margin) + (1-p) max(0, 1 + beta margin) (arXiv:2305.10425, as
    online SLiC in arXiv:2403.08635).

    margin, preference [..,K] -> loss per pair [..,K]. beta: inverse temperature of the log-ratio; the target margin is
    1 / beta nats. SLiC-HF itself is on log-probs without a reference (`reference=None`) and adds a likelihood term on a
    target sequence, an `sft` entry beside this one.
    """
    return preference * jax.nn.relu(1 - beta * margin) + (1 - preference) * jax.nn.relu(1 + beta * margin)
