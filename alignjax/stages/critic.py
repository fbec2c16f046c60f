"""Stages that make advantages of a critic's values, and keep the policy still while the critic learns."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from alignjax.numerics import as_float32
from alignjax.ranges import Fraction, Limit, Natural
from alignjax.stages.token_rewards import counted_tokens
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics

FLAT = 1e-6  # is added to a variance before its root is taken


def gae(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    discount: Fraction = 1.0,
    lam: Fraction = 0.95,
    whiten: bool = False,
    clip: Limit = math.inf,
) -> tuple[Batch, Metrics]:
    """Generalized advantage estimation: A_t = delta_t + discount lam A_t+1, delta_t = r_t + discount V_t+1 - V_t
    (arXiv:1506.02438 eq. 16), and returns A + V; lam=1 is Monte Carlo, lam=0 the one-step error.

    t counts the tokens that the policy wrote: those of mask 0 (forced tokens, tool output) are stepped over, so that a
    token bootstraps from the next one of the policy's. After the last one the value is 0.

    Args:
        context: Not used.
        batch: Samples with completions["token_reward"] (`token_rewards`) and completions["values"] (`values`) [B,N,T].
        key: Not used.
        discount: gamma, by token.
        lam: lambda; below 1 it trades variance for the critic's bias.
        whiten: Takes the mean over all tokens of the batch off the advantages and divides by their standard deviation.
            Returns stay as they are.
        clip: The largest absolute advantage, after whitening.

    Returns:
        The batch with advantage and returns [B,N,T], constants that are 0 on tokens that do not count. Metrics:
        `advantage` and `returns` (means before whitening), `spread` (the advantages' standard deviation before it) and
        `explained`, the share of the variance of returns that the values explain.

    Raises:
        ConfigError: If token rewards or values are missing.
    """
    # One scan from the end: a token that does not count hands on what it was handed, and the next that counts takes it.
    counts = counted_tokens(batch, "gae")
    entries = (batch.need("completions", name, of="gae") for name in ("token_reward", "values"))
    reward, values = (jnp.where(counts, jax.lax.stop_gradient(as_float32(entry)), 0) for entry in entries)

    def back(later: tuple[Array, Array], now: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        (next_advantage, next_value), (reward, value, counts) = later, now
        advantage = reward + discount * (next_value + lam * next_advantage) - value
        passed = (jnp.where(counts, advantage, next_advantage), jnp.where(counts, value, next_value))
        return passed, jnp.where(counts, advantage, 0)

    by_time = tuple(jnp.moveaxis(leaf, -1, 0) for leaf in (reward, values, counts))
    nothing = jnp.zeros_like(values[..., 0])
    advantage = jnp.moveaxis(jax.lax.scan(back, (nothing, nothing), by_time, reverse=True)[1], 0, -1)
    returns = advantage + values
    mean, variance = _moments(advantage, counts)
    unexplained, spread = variance, _moments(returns, counts)[1]
    metrics = {
        "advantage": Mean.of(advantage, counts),
        "returns": Mean.of(returns, counts),
        "spread": Mean.of(jnp.sqrt(variance)),
        "explained": Mean.of(1 - unexplained / jnp.where(spread > 0, spread, 1), spread > 0),
    }
    used = (advantage - mean) * jax.lax.rsqrt(variance + FLAT) if whiten else advantage
    return batch.replace(advantage=jnp.where(counts, jnp.clip(used, -clip, clip), 0), returns=returns), metrics


def _moments(numbers: Array, counts: Array) -> tuple[Array, Array]:
    """The mean and the variance (of the population) of what counts, over the whole batch."""
    mean = Mean.of(numbers, counts).value()
    return mean, Mean.of(jnp.square(numbers - mean), counts).value()


def warm_up(context: Context, batch: Batch, key: Key, *, iterations: Natural) -> Batch:
    """Sets the advantage to 0 for the first iterations, in which only the critic learns (the critic pre-training of
    arXiv:2307.04964). Weight decay and a KL or text loss of the policy's own go on.

    Args:
        context: Says the iteration.
        batch: An advantage [B,N,T].
        key: Not used.
        iterations: How many.

    Returns:
        The batch.

    Raises:
        ConfigError: If there is no advantage.
    """
    advantage = batch.need("advantage", of="warm_up")
    return batch.replace(advantage=jnp.where(context.step < iterations, 0, advantage))
