"""How far a ratio is followed: the second of the four choices that a surrogate is made of.

A bound is a function (tokens, log_ratio [B,N,T]) -> Bounded: what is maximized of every token, r A within the bound,
and which tokens the bound holds back. r = exp(log_ratio) is whatever the surrogate's `ratio` gave, A the advantage. At
r = 1 every bound here has the gradient A grad log p.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from alignjax.losses.policy_ratios import Tokens
from alignjax.numerics import bounded_exp, masked_sum
from alignjax.ranges import Decay, Limit, NonNegative, Positive
from alignjax.types import Array

LOWEST_RATIO, FARTHEST = math.log(1e-8), 20.0  # what VESPO's authors bound the log of a ratio by


class Bounded(NamedTuple):
    """What a bound returns.

    Attributes:
        objective: What is maximized [B,N,T].
        held: True where the bound holds the token back [B,N,T].
    """

    objective: Array
    held: Array


def no_bound(tokens: Tokens, log_ratio: Array) -> Bounded:
    """Returns r A: importance-weighted policy gradient.

    Args:
        tokens: The tokens.
        log_ratio: What the surrogate's `ratio` gave [B,N,T].
    """
    return Bounded(bounded_exp(log_ratio) * tokens.advantage, jnp.zeros(log_ratio.shape, bool))


def ppo_clip(
    tokens: Tokens,
    log_ratio: Array,
    *,
    epsilon: Decay = 0.2,
    epsilon_high: NonNegative | None = None,
    delta: Positive | None = None,
) -> Bounded:
    """Returns min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A) (PPO, arXiv:1707.06347 eq. 7; two sides as in DAPO,
    arXiv:2503.14476 eq. 10).

    With `delta` the first r is min(r, delta) (INTELLECT-2, arXiv:2505.07291). Where delta is above 1 +
    epsilon_high that is dual clip, max(.., delta A) for A < 0 (arXiv:1912.09729).

    Args:
        tokens: The tokens.
        log_ratio: What the surrogate's `ratio` gave [B,N,T].
        epsilon: How far below 1 a ratio may be lowered.
        epsilon_high: How far above 1 it may be raised; None: `epsilon`.
        delta: The largest ratio of a bad token that still counts; None: any.
    """
    ratio, advantage = bounded_exp(log_ratio), tokens.advantage
    lowest, highest = 1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high)
    within = ratio if delta is None else jnp.minimum(ratio, delta)
    objective = jnp.minimum(within * advantage, jnp.clip(ratio, lowest, highest) * advantage)
    return Bounded(objective, ((ratio < lowest) & (advantage < 0)) | ((ratio > highest) & (advantage > 0)))


def cispo_clip(tokens: Tokens, log_ratio: Array, *, low: NonNegative = 0.0, high: Limit = 5.0) -> Bounded:
    """Returns sg[clip(r, low, high)] A log p: no token loses its gradient, only the weight is bounded (CISPO of
    MiniMax-M1, arXiv:2506.13585 eq. 4, low = 1 - epsilon_low and high = 1 + epsilon_high there; in TRL `epsilon_high`
    is `high`).

    Args:
        tokens: The tokens.
        log_ratio: What the surrogate's `ratio` gave [B,N,T].
        low: The smallest weight.
        high: The largest weight.
    """
    ratio = bounded_exp(log_ratio)
    weight = jax.lax.stop_gradient(jnp.clip(ratio, low, high))
    return Bounded(weight * tokens.advantage * tokens.logps, (ratio > high) | (ratio < low))


def sapo_gate(
    tokens: Tokens, log_ratio: Array, *, temperature_pos: Positive = 1.0, temperature_neg: Positive = 1.05
) -> Bounded:
    """Returns (4 / tau) S(tau (r - 1)) A, tau by the sign of the advantage: a soft trust region, the gradient's weight
    r 4 S(x) (1 - S(x)) being 1 at r = 1 and falling off on both sides (SAPO, arXiv:2511.20347). No token is held.

    Args:
        tokens: The tokens.
        log_ratio: What the surrogate's `ratio` gave [B,N,T].
        temperature_pos: tau where A > 0.
        temperature_neg: tau elsewhere; larger, since pushing a token down raises many others.
    """
    tau = jnp.where(tokens.advantage > 0, temperature_pos, temperature_neg)
    gate = jax.nn.sigmoid(tau * (bounded_exp(log_ratio) - 1)) * 4 / tau
    return Bounded(gate * tokens.advantage, jnp.zeros(log_ratio.shape, bool))


def dppo_mask(
    tokens: Tokens, log_ratio: Array, *, threshold: NonNegative = 0.15, divergence: Literal["tv", "kl"] = "tv"
) -> Bounded:
    """Returns m r A, m = 0 where a token has moved in the direction of its advantage and further than `threshold`
    (DPPO, arXiv:2602.04879): what counts is how far a probability moves and not by what factor.

    The divergence is that of two events, this token or another: |p - p_old| ("tv") or p_old log(p_old / p) + (1 -
    p_old) log((1 - p_old) / (1 - p)) ("kl"), the paper's binary approximations.

    Args:
        tokens: The tokens.
        log_ratio: What the surrogate's `ratio` gave [B,N,T].
        threshold: The largest divergence of a token that still moves, in nats for "kl".
        divergence: "tv" or "kl".
    """
    old, new = tokens.sampled, jax.lax.stop_gradient(tokens.logps)
    apart = jnp.abs(jnp.exp(new) - jnp.exp(old))
    if divergence == "kl":
        apart = jnp.exp(old) * (old - new) + jnp.exp(_log_other(old)) * (_log_other(old) - _log_other(new))
    beyond = (apart > threshold) & ((new - old) * tokens.advantage > 0)
    return Bounded(jnp.where(beyond, 0, bounded_exp(log_ratio) * tokens.advantage), beyond)


def _log_other(logps: Array) -> Array:
    """The log-prob of any other token, at least -20: a token that is certain has none."""
    return jnp.log(jnp.maximum(-jnp.expm1(jnp.minimum(logps, 0)), math.exp(-20)))


def vespo_kernel(
    tokens: Tokens,
    log_ratio: Array,
    *,
    k_pos: NonNegative = 2.0,
    lambda_pos: Positive = 3.0,
    k_neg: NonNegative = 3.0,
    lambda_neg: Positive = 2.0,
) -> Bounded:
    """Returns sg[w^k exp(lambda (1 - w))] A log p, w = p(y) / p_old(y) of the whole completion, whatever `ratio` is; k
    and lambda by the sign of the advantage (VESPO, arXiv:2602.10693 section 3.4). No token is held.

    As in the authors' code (and TRL's) a token's log-ratio is bounded by +-20 nats and log w lies between log 1e-8
    and 20.

    Args:
        tokens: The tokens.
        log_ratio: Not used.
        k_pos: Exponent where A >= 0.
        lambda_pos: Decay where A >= 0.
        k_neg: Exponent where A < 0.
        lambda_neg: Decay where A < 0.
    """
    moved = jax.lax.stop_gradient(jnp.clip(tokens.moved, -FARTHEST, FARTHEST))
    log_w = jnp.clip(masked_sum(moved, tokens.mask), LOWEST_RATIO, FARTHEST)[..., None]
    good = tokens.advantage >= 0
    k, decay = jnp.where(good, k_pos, k_neg), jnp.where(good, lambda_pos, lambda_neg)
    weight = jnp.exp(decay + k * log_w - decay * jnp.exp(log_w))
    return Bounded(weight * tokens.advantage * tokens.logps, jnp.zeros(tokens.logps.shape, bool))
