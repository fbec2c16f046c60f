"""Estimates of the KL towards a reference as a term of a loss: the fourth choice that a surrogate is made of.

With r = log p - log q of a sampled token, p the policy and q the reference: k1 = r, k2 = r^2 / 2, k3 = exp(-r) - 1 + r.
k1 and k3 have the expectation KL(p to q), k2 nearly so, but what a loss uses is the gradient, and that is not the
gradient of the expectation: samples do not move with the policy. For fresh samples the expected gradients are, of each
token given what stands before it,

    k1   0: no regularization at all
    k2   that of KL(p to q)
    k3   that of KL(q to p), the other direction

With `weighted=True` the term is multiplied by the ratio of the surrogate, which is differentiable ("unbiased KL" of
DeepSeek-V3.2, arXiv:2512.02556 section 3.1; TRL's `use_bias_correction_kl`). With the ratio of each token, samples of
any policy then have the exact gradient of the expectation of the term under p: k1 and k3 that of KL(p to q), k2 that of
E_p[r^2] / 2. How a token changes the KL of what follows it is left out of all of them; `losses.reinforce` has it.

`tests/losses/test_surrogate.py` measures these by enumeration.
"""

from __future__ import annotations

from alignjax.numerics import bounded_exp
from alignjax.ranges import NonNegative
from alignjax.types import Array


def _weighed(term: Array, beta: float, weighted: bool, log_ratio: Array) -> Array:
    return beta * (term * bounded_exp(log_ratio) if weighted else term)


def k1(difference: Array, log_ratio: Array, *, beta: NonNegative = 0.04, weighted: bool = True) -> Array:
    """Returns beta r, the log-ratio itself. Unweighted its expected gradient is 0 for fresh samples; weighted by the
    ratio of each token that of KL(p to q), token by token.

    Args:
        difference: r = log p - log q of every token [B,N,T] in nats, differentiable.
        log_ratio: What the surrogate's `ratio` gave [B,N,T].
        beta: Strength.
        weighted: Multiplies by the ratio.

    Returns:
        Numbers [B,N,T].
    """
    return _weighed(difference, beta, weighted, log_ratio)


def k2(difference: Array, log_ratio: Array, *, beta: NonNegative = 0.04, weighted: bool = False) -> Array:
    """Returns beta r^2 / 2. Unweighted its expected gradient is that of KL(p to q), token by token, for fresh samples;
    its value is another number.

    Args:
        difference: r = log p - log q of every token [B,N,T] in nats, differentiable.
        log_ratio: What the surrogate's `ratio` gave [B,N,T].
        beta: Strength.
        weighted: Multiplies by the ratio.

    Returns:
        Numbers [B,N,T].
    """
    return _weighed(difference * difference / 2, beta, weighted, log_ratio)


def k3(difference: Array, log_ratio: Array, *, beta: NonNegative = 0.04, weighted: bool = False) -> Array:
    """Returns beta (exp(-r) - 1 + r), never negative (GRPO, arXiv:2402.03300 eq. 4). Unweighted its expected gradient
    is that of KL(q to p), token by token, for fresh samples, though its value estimates KL(p to q); weighted by the
    ratio of each token it is that of KL(p to q).

    Args:
        difference: r = log p - log q of every token [B,N,T] in nats, differentiable.
        log_ratio: What the surrogate's `ratio` gave [B,N,T].
        beta: Strength.
        weighted: Multiplies by the ratio.

    Returns:
        Numbers [B,N,T].
    """
    return _weighed(bounded_exp(-difference) - 1 + difference, beta, weighted, log_ratio)
