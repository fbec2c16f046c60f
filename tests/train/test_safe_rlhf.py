"""Safe RLHF on a bandit, by exact expectations: every action, with its probability for a weight, in the place of
samples. Where it rests is a linear program's optimum."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq, linprog

from alignjax import algorithms, games, losses, stages
from alignjax.config import ConfigError, fn
from alignjax.games.compiled_runs import play
from alignjax.games.world import Contexts
from alignjax.types import Algorithm, Batch, Context
from tests.support.tiny import run, sgd

KEY = jax.random.key(0)
MU = np.array([0.3, 0.25, 0.2, 0.15, 0.1])
GAME = games.TabularGame(np.full((5, 5), 0.5), MU, tau=1.0)
REWARD = (0.0, 0.5, 0.7, 1.0, 0.7)
HARM, LENGTH = (-0.4, 0.1, 0.9, 1.2, 0.2), (0.1, 0.3, 0.2, 0.5, 1.0)
PROMPTS = Contexts(1, 1)[0]


def table(context: Context, batch: Batch, key: Any, *, of: tuple[float, ...]) -> Batch:
    """A number of each action, which counts as often as the policy takes it."""
    weight = jnp.exp(batch.logps["sampler"][..., 0])
    reward = jnp.asarray(of)[batch.tokens[..., 0]]
    return batch.replace(reward=reward, completions={**batch.completions, "weight": weight})


def every_action(context: Context, batch: Batch, key: Any) -> Batch:
    """In the place of `generate`: all actions."""
    tokens = jnp.arange(5)[None, :, None]
    listed = batch.replace(tokens=tokens, valid=tokens >= 0, mask=jnp.ones(tokens.shape))
    (logps,) = context.score("policy", listed).values()
    return listed.replace(logps={"sampler": logps})


def exactly(eta: float, **options: Any) -> Algorithm:
    """With no bound, the mean for a baseline and k2, whose expected gradient is the KL's."""
    plain = {"ratio": fn(losses.no_ratio), "bound": fn(losses.no_bound), "reduction": fn(losses.sequence_sum)}
    made = algorithms.safe_rlhf(
        games.table_policy(GAME),
        reward=fn(table, of=REWARD),
        recipe=algorithms.policy_gradient,
        loss=fn(losses.surrogate, **plain, behaviour=None, kl=fn(losses.k2, beta=eta)),
        advantage={"advantage": fn(stages.group_advantage, scale="none")},
        optimizer=fn(sgd, learning_rate=2.0),
        start=games.start(GAME),
        max_tokens=1,
        stop=(),
        **options,
    )
    return dataclasses.replace(made, experience={**made.experience, "generate": fn(every_action)})


def rests(algorithm: Algorithm, steps: int = 20000) -> tuple[np.ndarray, dict[str, float]]:
    """The policy and the multipliers at the end."""
    state = play(algorithm, PROMPTS, steps=steps).state
    multipliers = {name: float(np.exp(log)) for name, log in state.roles["multipliers"].items()}
    return np.asarray(jax.nn.softmax(state.roles["policy"]["logits"][0])), multipliers


def program(costs: tuple[tuple[float, ...], ...], limits: tuple[float, ...]) -> np.ndarray:
    """The optimum of the linear program."""
    found = linprog(-np.array(REWARD), A_ub=np.array(costs), b_ub=limits, A_eq=np.ones((1, 5)), b_eq=[1], bounds=(0, 1))
    assert found.success
    return found.x


@pytest.mark.usefixtures("float64")
def test_it_rests_where_the_mean_cost_is_the_limit() -> None:
    """With a KL that is felt: at mu exp((r - lambda c) / ((1 + lambda) eta)), whose lambda is found by its cost."""
    reward, cost, limit, eta = np.array(REWARD), np.array(HARM), 0.3, 0.2

    def answer(lam: float) -> np.ndarray:
        weight = MU * np.exp((reward - lam * cost) / ((1 + lam) * eta))
        return weight / weight.sum()

    lam = brentq(lambda lam: answer(lam) @ cost - limit, 0, 50)
    policy, multipliers = rests(exactly(eta, costs={"harm": fn(table, of=HARM)}, limits=(limit,)), 4000)
    assert multipliers["harm"] == pytest.approx(lam, rel=1e-3)
    np.testing.assert_allclose(policy, answer(lam), atol=1e-3)
    assert lam > 0.1
    assert np.abs(answer(lam) - answer(0)).max() > 0.1  # without the limit it is elsewhere


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("limits", [(0.3,), (0.3, 0.4)], ids=["one", "two"])
def test_the_optimum_of_the_linear_program(limits: tuple[float, ...]) -> None:
    """With next to no KL; two costs of which both bind are a mixture of three actions."""
    costs = {"harm": fn(table, of=HARM), "length": fn(table, of=LENGTH)}
    given = dict(list(costs.items())[: len(limits)])
    policy, multipliers = rests(exactly(0.01, costs=given, limits=limits, rate=0.3))
    best = program((HARM, LENGTH)[: len(limits)], limits)
    assert policy @ np.array(REWARD) == pytest.approx(best @ np.array(REWARD), abs=1e-3)
    np.testing.assert_allclose(policy, best, atol=2e-3)
    for table_of, limit in zip((HARM, LENGTH), limits, strict=False):
        assert policy @ np.array(table_of) == pytest.approx(limit, abs=1e-3)
    assert (best > 0.01).sum() == len(limits) + 1
    assert all(multiplier > 0.05 for multiplier in multipliers.values())


@pytest.mark.usefixtures("float64")
def test_fixed_weights_miss_a_limit_and_a_slack_one_weighs_nothing() -> None:
    """A weight that does not follow the cost ends at a vertex, above the limit or below it. Of a limit that costs
    nothing, the multiplier falls like 1 / iterations."""
    harm = {"costs": {"harm": fn(table, of=HARM)}, "limits": (0.3,)}
    for initial, least, most in ((0.05, 0.8, 2), (4.0, -1, 0.2)):
        policy, multipliers = rests(exactly(0.02, rate=0.0, initial=initial, **harm), 4000)
        assert multipliers["harm"] == pytest.approx(initial)
        assert least < policy @ np.array(HARM) < most
    policy, multipliers = rests(exactly(0.02, **{**harm, "limits": (2.0,)}), 4000)
    assert multipliers["harm"] == pytest.approx(1 / (0.1 * 4000 * (2.0 - 1.2)), rel=0.2)
    np.testing.assert_allclose(policy, program((HARM,), (2.0,)), atol=0.02)


def known(seed: int = 0) -> Batch:
    """Rewards and two costs of completions, of some of which something is not known."""
    draw = np.random.default_rng(seed)
    shape, names = (4, 3), ("harm", "length")
    weight = {name: (draw.random(shape) < 0.8).astype(np.float32) for name in ("", *names)}
    numbers = {name: np.where(weight[name] != 0, draw.normal(size=shape), np.nan) for name in weight}
    numbers = {name: number.astype(np.float32) for name, number in numbers.items()}
    filed = {f"{kind}:{name}": of[name] for name in names for kind, of in (("reward", numbers), ("weight", weight))}
    one = np.ones((*shape, 1), np.float32)
    return Batch(valid=one > 0, mask=one, reward=numbers[""], completions={"weight": weight[""], **filed})


def test_the_mixed_reward_is_a_mean_weighted_by_the_multipliers() -> None:
    """Of the reward, weighing 1, and minus the costs; and known where all of them are."""
    batch = known()
    log = {"harm": np.log(np.float32(0.5)), "length": np.log(np.float32(2))}
    made, metrics = run(stages.lagrangian_reward, Context(state={"multipliers": log}), batch, KEY, names=tuple(log))
    given = batch.completions
    parts = np.stack([batch.reward, -given["reward:harm"], -given["reward:length"]])
    both = ~np.isnan(parts).any(0)
    np.testing.assert_array_equal(made.completions["weight"], both)
    np.testing.assert_allclose(made.reward[both], np.average(parts, axis=0, weights=(1, 0.5, 2))[both], rtol=1e-5)
    assert np.all(made.reward[~both] == 0)
    assert 0 < both.sum() < np.isfinite(batch.reward).sum()
    np.testing.assert_allclose(metrics["cost_harm"].value(), np.nanmean(given["reward:harm"]), rtol=1e-5)
    np.testing.assert_allclose(metrics["reward"].value(), np.nanmean(batch.reward), rtol=1e-5)
    np.testing.assert_allclose(metrics["multiplier_length"].value(), 2, rtol=1e-6)


def test_multipliers_move_with_the_excess_up_to_the_largest() -> None:
    """By (mean cost - limit) lambda: the derivative of lambda (cost - limit) by log lambda."""
    batch, names = known(1), ("harm", "length")
    state = stages.log_multipliers(KEY, names=names, initial=0.5)
    move = {"names": names, "limits": (-3.0, 0.4), "rate": 0.2}
    means = {name: np.nanmean(batch.completions[f"reward:{name}"]) for name in names}
    moved = stages.dual_ascent(state, Context(step=3), batch, KEY, **move)
    for name, limit in zip(names, move["limits"], strict=True):
        slope = jax.grad(lambda log, name=name, limit=limit: jnp.exp(log) * (means[name] - limit))(state[name])
        np.testing.assert_allclose(moved[name], state[name] + 0.2 * slope, rtol=1e-5)
    held = stages.dual_ascent(state, Context(step=3), batch, KEY, **move, largest=0.6)
    np.testing.assert_allclose(np.exp(held["harm"]), 0.6, rtol=1e-6)
    assert stages.dual_ascent(state, Context(step=3), batch, KEY, **move, delay=4) == state
    nothing = batch.replace(completions={name: 0 * leaf for name, leaf in batch.completions.items()})
    assert stages.dual_ascent(state, Context(step=3), nothing, KEY, **move) == state


def test_limits_and_costs_are_as_many() -> None:
    with pytest.raises(ConfigError, match="2 limits for 1 costs; give one for each"):
        exactly(0.1, costs={"harm": fn(table, of=HARM)}, limits=(0.3, 0.2))
    with pytest.raises(ConfigError, match="0 limits for 0 costs"):
        exactly(0.1, costs={})
    with pytest.raises(ConfigError, match="1 limits for 2 costs"):
        stages.dual_ascent({}, Context(), known(), KEY, names=("harm", "length"), limits=(0.0,))
