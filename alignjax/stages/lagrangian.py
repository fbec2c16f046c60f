"""Costs that are to stay below limits: one reward of a reward and its costs by Lagrange multipliers, and the rule that
moves these by dual ascent."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.ranges import Limit, Natural, NonNegative, Number, Positive
from alignjax.stages.advantage import counted_rewards
from alignjax.stages.reward_shaping import kept_reward
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics


def log_multipliers(key: Key, *, names: tuple[str, ...], initial: Positive = 1.0) -> dict[str, Array]:
    """Returns the first state of `dual_ascent`, the logarithm of a multiplier for each cost:
    `roles.value(fn(stages.log_multipliers, names=("harm",)))`.

    Args:
        key: Not used.
        names: The costs.
        initial: Every multiplier.
    """
    return {name: jnp.log(jnp.asarray(initial, jnp.float32)) for name in names}


def lagrangian_reward(
    context: Context, batch: Batch, key: Key, *, names: tuple[str, ...], role: str = "multipliers"
) -> tuple[Batch, Metrics]:
    """Takes costs off the reward: (r - sum_k lambda_k c_k) / (1 + sum_k lambda_k) (arXiv:2310.12773), the Lagrangian of
    max E[r] with every E[c_k] below its limit, in units of the reward however large the multipliers are.

    Advantages are linear in rewards, so this is the paper's (A_r - lambda A_c) / (1 + lambda), of one critic of the mix
    where the paper has one for either part. A KL in the reward behind it has its strength for all multipliers, as the
    paper's has, which is in r and with the other sign in c.

    Args:
        context: Holds the multipliers.
        batch: Completions with a reward r [B,N], and what `keep_reward` filed under the names, the costs.
        key: Not used.
        names: The costs.
        role: The multipliers, a role with the rule `dual_ascent`.

    Returns:
        The batch; completions["weight"] is the smallest of the weights of the reward and all costs, so 0 where one of
        them is not known. Metrics: the raw `reward`, and of each cost `cost_NAME` and `multiplier_NAME`.

    Raises:
        ConfigError: For no reward, or a name that nobody filed.
    """
    reward, weight = counted_rewards(batch, "lagrangian_reward")
    metrics, total, scale = {"reward": Mean.of(reward, weight)}, reward, jnp.ones(())
    for name in names:
        cost, known = kept_reward(batch, name, "lagrangian_reward")
        multiplier = jnp.exp(context.state[role][name])
        total, scale, weight = total - multiplier * cost, scale + multiplier, jnp.minimum(weight, known)
        metrics |= {f"cost_{name}": Mean.of(cost, known), f"multiplier_{name}": Mean.of(multiplier)}
    mixed = jnp.where(weight != 0, total / scale, 0)
    return batch.replace(reward=mixed, completions={**batch.completions, "weight": weight}), metrics


def dual_ascent(
    state: Any,
    context: Context,
    batch: Batch,
    key: Key,
    *,
    names: tuple[str, ...],
    limits: tuple[Number, ...],
    rate: NonNegative = 0.1,
    largest: Limit = 20.0,
    delay: Natural = 0,
) -> Any:
    """Moves Lagrange multipliers against the costs: log lambda <- min(log lambda + rate lambda (mean cost - limit), log
    largest), gradient ascent on the Lagrangian by log lambda (Safe RLHF, arXiv:2310.12773 section 3.3).

    A step is in proportion to lambda, so that a small multiplier moves slowly: that of a cost far below its limit falls
    like 1 / iterations, and one that begins near 0 stays there. The mean is over the iteration's samples, the paper's
    over some last ones.

    Args:
        state: {name: log lambda}, see `log_multipliers`.
        context: Says the iteration.
        batch: Samples with what `keep_reward` filed under the names.
        key: Not used.
        names: The costs.
        limits: What each mean is to stay below, in its units.
        rate: The step, per unit of cost.
        largest: The largest multiplier; a limit that would need more is not kept. inf: any.
        delay: Iterations before the first step, as long as a critic warms up.

    Returns:
        The new logarithms. They rest where every mean cost is its limit, or below it with a multiplier near 0.

    Raises:
        ConfigError: For another number of limits, or a name that nobody filed.
    """
    if len(limits) != len(names):
        raise ConfigError(f"dual_ascent: {len(limits)} limits for {len(names)} costs; give one for each")
    moved = {}
    for name, limit in zip(names, limits, strict=True):
        excess = Mean.of(*kept_reward(batch, name, "dual_ascent"))
        step = jnp.where(excess.weight > 0, rate * jnp.exp(state[name]) * (excess.value() - limit), 0)
        raised = jnp.minimum(state[name] + step, jnp.log(largest))
        moved[name] = jnp.where(context.step < delay, state[name], raised).astype(state[name].dtype)
    return moved
