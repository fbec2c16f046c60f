"""Recipes that learn from a reward while costs stay below limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from alignjax import roles, stages
from alignjax.algorithms.ppo import ppo
from alignjax.algorithms.rewarded import filed, rated
from alignjax.config import ConfigError, Fn, fn
from alignjax.ranges import Limit, Natural, NonNegative, Number, Positive
from alignjax.types import Algorithm, Model, Role


def safe_rlhf(
    model: Model,
    *,
    costs: Mapping[str, Fn],
    limits: tuple[Number, ...] | None = None,
    reward: Fn | None = None,
    judge: Fn | None = None,
    recipe: Callable[..., Algorithm] = ppo,
    rate: NonNegative = 0.1,
    initial: Positive = 1.0,
    largest: Limit = 20.0,
    **options: Any,
) -> Algorithm:
    """Safe RLHF: the most reward at which mean costs stay below their limits, by PPO on (r - lambda c) / (1 + lambda),
    lambda following the costs by dual ascent (arXiv:2310.12773).

    The constraint is on the mean over prompts and samples, not on each. With a KL penalty of strength eta the policy
    rests at mu exp((r - lambda c) / ((1 + lambda) eta)), lambda such that the mean cost is the limit: for a small eta
    the optimum of the linear program (tests/train/test_safe_rlhf.py). The paper's beta is half in the reward and half
    in the cost, so that its eta is beta / 2; it has a critic for either, where here is one of the mix.

    Args:
        model: The network of the policy.
        costs: Stages that fill `reward` with a cost, by name: `{"harm": fn(stages.reward, role="cost")}` with the cost
            model (`losses.cost_model`) in `judges`.
        limits: What the mean of each cost is to stay below, in their order; None: 0, the border of a cost model.
        reward: See `policy_gradient`.
        judge: See `policy_gradient`.
        recipe: Any recipe that takes a reward: `ppo`, `ppo_ptx` (the paper's), `grpo`, `rloo`, ...
        rate: The step of log lambda per unit of cost, see `stages.dual_ascent`.
        initial: The first lambda.
        largest: The largest.
        **options: Those of the recipe. For the iterations of `warm_up` lambda stays.

    Raises:
        ConfigError: For no costs, or another number of limits; a reward and a judge, or neither.
    """
    names = tuple(costs)
    if not names or (limits is not None and len(limits) != len(names)):
        raise ConfigError(f"safe_rlhf: {len(limits or ())} limits for {len(names)} costs; give one for each")
    scored = {
        **filed({name: rated(cost, None) for name, cost in costs.items()}),
        **rated(reward, judge),
        "lagrangian": fn(stages.lagrangian_reward, names=names),
    }
    algorithm = recipe(model, reward=scored, **options)
    delay: Natural = options.get("warm_up", 0)
    bounds = {"names": names, "limits": limits or (0.0,) * len(names)}
    rule = fn(stages.dual_ascent, **bounds, rate=rate, largest=largest, delay=delay)
    multipliers = Role(None, roles.value(fn(stages.log_multipliers, names=names, initial=initial)), rule=rule)
    return dataclasses.replace(algorithm, roles={**algorithm.roles, "multipliers": multipliers})
