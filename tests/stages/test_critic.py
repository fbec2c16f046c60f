"""Rewards of tokens, advantages of a critic and the state around them: identities, and expectations by enumeration."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from alignjax import losses, stages
from alignjax.config import ConfigError, fn
from alignjax.types import Array, Batch, Context
from tests.support.tiny import evaluate, measure, ragged, run

KEY = jax.random.key(0)


def filled(seed: int = 0, rows: int = 4) -> Batch:
    """Ragged samples with holes in the mask, and NaN wherever nothing counts."""
    draw = np.random.default_rng(seed)
    batch = ragged(seed, rows=rows, n=3)
    counts, shape = batch.mask != 0, batch.mask.shape
    noise = lambda: np.where(counts, draw.normal(size=shape), np.nan).astype(np.float32)  # noqa: E731
    return batch.replace(
        logps={"policy": noise() - 2, "reference": noise() - 2},
        reward=draw.normal(size=shape[:2]).astype(np.float32),
        completions={"token_reward": noise(), "values": noise()},
    )


def sequences(batch: Batch, *names: str) -> list[list[np.ndarray]]:
    """Of every completion the entries at the tokens that count, one after the other."""
    entries = [batch.completions[name] if name in batch.completions else getattr(batch, name) for name in names]
    return [[np.asarray(e)[at][batch.mask[at] != 0] for e in entries] for at in np.ndindex(*batch.mask.shape[:2])]


# ------------------------------------------------------------------------------------------------------------------ GAE


def test_lambda_1_is_monte_carlo_and_lambda_0_the_one_step_error() -> None:
    batch = filled()
    for lam in (1.0, 0.0):
        made, _ = run(stages.gae, Context(), batch, KEY, discount=0.9, lam=lam)
        for reward, values, advantage, returns in sequences(made, "token_reward", "values", "advantage", "returns"):
            length = len(reward)
            later = [sum(0.9 ** (k - t) * reward[k] for k in range(t, length)) for t in range(length)]
            bootstrapped = reward + 0.9 * np.append(values[1:], 0)[:length]
            target = np.array(later) if lam == 1 else bootstrapped
            np.testing.assert_allclose(returns, target, rtol=2e-5, atol=1e-6)
            np.testing.assert_allclose(advantage, target - values, rtol=2e-5, atol=1e-6)


def test_tokens_that_the_policy_did_not_write_are_stepped_over() -> None:
    """A completion with forced tokens has the advantages of the one without them, wherever they stand."""
    batch = filled(3)
    made, _ = run(stages.gae, Context(), batch, KEY, discount=0.9, lam=0.7)
    assert np.all(made.advantage[batch.mask == 0] == 0)
    assert np.all(made.returns[batch.mask == 0] == 0)
    order = np.argsort(batch.mask == 0, axis=-1, kind="stable")  # all that counts to the front
    together = lambda leaf: np.take_along_axis(leaf, order, axis=-1)  # noqa: E731
    compact = batch.replace(
        mask=together(batch.mask), completions={name: together(leaf) for name, leaf in batch.completions.items()}
    )
    alone, _ = run(stages.gae, Context(), compact, KEY, discount=0.9, lam=0.7)
    np.testing.assert_allclose(together(made.advantage), alone.advantage, rtol=1e-6)
    np.testing.assert_allclose(together(made.returns), alone.returns, rtol=1e-6)


def test_whitening_is_over_all_tokens_that_count_and_leaves_returns() -> None:
    batch = filled(1).replace(mask=filled(1).mask * 0.5)  # a weight says how a loss counts, not what a token is
    plain, _ = run(stages.gae, Context(), batch, KEY)
    white, metrics = run(stages.gae, Context(), batch, KEY, whiten=True)
    counts = batch.mask != 0
    np.testing.assert_allclose(white.advantage[counts].mean(), 0, atol=1e-6)
    np.testing.assert_allclose(white.advantage[counts].std(), 1, rtol=1e-4)
    np.testing.assert_allclose(metrics["spread"].value(), plain.advantage[counts].std(), rtol=1e-5)
    assert np.corrcoef(white.advantage[counts], plain.advantage[counts])[0, 1] > 1 - 1e-5
    np.testing.assert_array_equal(white.returns, plain.returns)
    bounded, _ = run(stages.gae, Context(), batch, KEY, whiten=True, clip=0.5)
    np.testing.assert_allclose(bounded.advantage, np.clip(white.advantage, -0.5, 0.5), rtol=1e-6)


def test_values_that_are_the_returns_explain_them() -> None:
    batch = filled(2)
    monte_carlo, _ = run(stages.gae, Context(), batch, KEY, lam=1.0)
    known = batch.replace(completions={**batch.completions, "values": monte_carlo.returns})
    made, metrics = run(stages.gae, Context(), known, KEY, lam=0.3)
    np.testing.assert_allclose(metrics["explained"].value(), 1, atol=1e-5)
    np.testing.assert_allclose(made.advantage, 0, atol=1e-5)


def test_the_policy_waits_for_its_critic() -> None:
    batch = filled().replace(advantage=np.ones((4, 3, 7), np.float32))
    for step, weight in ((0, 0), (2, 0), (3, 1), (9, 1)):
        made = run(stages.warm_up, Context(step=step), batch, KEY, iterations=3)
        np.testing.assert_array_equal(made.advantage, weight)


def test_of_a_completion_of_which_nothing_is_known_nothing_is_learned() -> None:
    batch = filled()
    known = np.ones((4, 3), np.float32)
    known[1, 2] = known[3] = 0
    unknown = batch.replace(
        completions={**batch.completions, "weight": known}, reward=np.where(known != 0, batch.reward, np.nan)
    )
    rewarded, _ = run(stages.token_rewards, Context(), unknown, KEY)
    made, _ = run(stages.gae, Context(), rewarded, KEY)
    for leaf in (rewarded.completions["token_reward"], made.advantage, made.returns):
        assert np.all(leaf[known == 0] == 0)
    whole, _ = run(stages.token_rewards, Context(), batch, KEY)
    np.testing.assert_array_equal(
        rewarded.completions["token_reward"][known != 0], whole.completions["token_reward"][known != 0]
    )


# ------------------------------------------------------------------- expectations, on completions that can be listed

EVERY = [(0,), *((a, b) for a in (1, 2) for b in range(3))]  # token 0 ends a completion, of at most two tokens
PREFIX = np.array([[0, 0], *([0, row[0]] for row in EVERY[1:])])  # in which row of the table a token is drawn
TOKENS = np.array([(*row, 0)[:2] for row in EVERY])
VALID = np.array([[True, len(row) == 2] for row in EVERY])


def logps_of(table: Array) -> Array:
    """Log-probs [7,2] of the tokens of all completions under logits [3,3]."""
    return jnp.where(VALID, jax.nn.log_softmax(table)[PREFIX, TOKENS], 0)


@pytest.fixture
def tables(float64: None) -> tuple[Any, Any, np.ndarray]:
    """Logits of a policy and of a reference, and a score of every completion."""
    draw = np.random.default_rng(5)
    return draw.normal(size=(3, 3)), draw.normal(size=(3, 3)), draw.normal(size=7)


def listed(policy: Any, reference: Any, score: np.ndarray, values: np.ndarray | None = None) -> Batch:
    """All completions as one prompt's, with the values of their prefixes."""
    by_prefix = np.zeros(3) if values is None else values
    shape = lambda leaf: np.asarray(leaf)[None]  # noqa: E731
    return Batch(
        tokens=shape(TOKENS), valid=shape(VALID), mask=shape(VALID.astype(float)), reward=shape(score),
        logps={"policy": shape(logps_of(policy)), "reference": shape(logps_of(reference))},
        completions={"values": shape(by_prefix[PREFIX])},
    )  # fmt: skip


def objective(policy: Any, reference: Any, score: np.ndarray, eta: float) -> Array:
    """E[score] - eta KL(policy to reference), in closed form."""
    lp, lr = (jnp.sum(logps_of(table), axis=-1) for table in (policy, reference))
    return jnp.sum(jnp.exp(lp) * (score - eta * (lp - lr)))


def expected_gradient(policy: Any, advantage: np.ndarray) -> Array:
    """The mean of sum_t A_t grad log pi(y_t) over completions of the policy."""
    probability = jnp.exp(jnp.sum(logps_of(policy), axis=-1))
    return jax.grad(lambda table: jnp.sum(probability[:, None] * advantage * logps_of(table)))(policy)


@pytest.mark.parametrize("lam", [1.0, 0.4])
def test_the_kl_in_the_reward_is_the_kl_in_the_objective(lam: float, tables: Any) -> None:
    """In expectation, whatever the critic says at lambda 1, and at any lambda where it is right."""
    policy, reference, score = tables
    made, _ = run(stages.token_rewards, Context(), listed(policy, reference, score), KEY, eta=0.3)
    rewards = made.completions["token_reward"][0]
    pi = np.exp(np.asarray(logps_of(policy)))
    after = [np.sum(pi[rows, 1] * rewards[rows, 1]) for rows in (slice(1, 4), slice(4, 7))]
    at_start = np.sum(np.prod(np.where(VALID, pi, 1), -1) * rewards.sum(-1))
    values = np.array([at_start, *after]) if lam < 1 else np.array([3.0, -2.0, 1.0])
    made = made.replace(completions={**made.completions, "values": values[PREFIX][None]})
    learned, _ = run(stages.gae, Context(), made, KEY, lam=lam)
    exact = jax.grad(objective)(jnp.asarray(policy), reference, score, 0.3)
    np.testing.assert_allclose(expected_gradient(policy, learned.advantage[0]), exact, atol=1e-12)
    assert np.abs(exact).max() > 0.05


def test_k3_has_the_value_of_the_kl_and_another_gradient(tables: Any) -> None:
    """Of one token: that of KL(policy to reference) less that of KL(reference to policy)."""
    policy, reference, score = tables
    batch = listed(policy, reference, 0 * score)
    k1, k3 = (
        run(stages.token_rewards, Context(), batch, KEY, eta=1.0, penalty=penalty)[0].completions["token_reward"][0]
        for penalty in ("k1", "k3")
    )
    pi = np.exp(np.asarray(logps_of(policy)))
    rows = slice(1, 4)  # the second token after a first one
    np.testing.assert_allclose(np.sum(pi[rows, 1] * k3[rows, 1]), np.sum(pi[rows, 1] * k1[rows, 1]), rtol=1e-12)
    assert np.all(k3 <= 0)

    def kl(one: Array, other: Array) -> Array:
        lp, lq = (jax.nn.log_softmax(table[1]) for table in (one, other))
        return jnp.sum(jnp.exp(lp) * (lp - lq))

    def gradient(rewards: np.ndarray) -> Any:
        return jax.grad(lambda table: jnp.sum(pi[rows, 1] * rewards[rows, 1] * logps_of(table)[rows, 1]))(policy)

    policy, reference = jnp.asarray(policy), jnp.asarray(reference)
    one, other = jax.grad(kl)(policy, reference), jax.grad(lambda p: kl(reference, p))(policy)
    np.testing.assert_allclose(gradient(k1), -one, atol=1e-12)
    np.testing.assert_allclose(gradient(k3), other - one, atol=1e-12)


def test_the_score_is_on_the_last_token_that_the_policy_wrote() -> None:
    batch = filled(4)
    same = batch.replace(logps={"policy": batch.logps["policy"], "reference": batch.logps["policy"]})
    made, metrics = run(stages.token_rewards, Context(), same, KEY)
    for (rewards,), score in zip(sequences(made, "token_reward"), batch.reward.ravel(), strict=True):
        np.testing.assert_array_equal(rewards[:-1], 0)
        assert len(rewards) == 0 or rewards[-1] == score
    assert np.all(made.completions["token_reward"][batch.mask == 0] == 0)
    assert metrics["kl"].value() == 0
    state = {"beta": {"coefficient": np.float32(0.25)}}
    read, _ = run(stages.token_rewards, Context(state=state), batch, KEY, eta=2.0, coefficient="beta")
    same, metrics = run(stages.token_rewards, Context(), batch, KEY, eta=0.5)
    np.testing.assert_array_equal(read.completions["token_reward"], same.completions["token_reward"])
    bounded, _ = run(stages.token_rewards, Context(), batch, KEY, eta=0.5, limit=0.4)
    rewards = same.completions["token_reward"]
    np.testing.assert_array_equal(bounded.completions["token_reward"], np.clip(rewards, -0.4, 0.4))
    total = np.array([each[0].sum() for each in sequences(same, "token_reward") if len(each[0])])
    np.testing.assert_allclose(metrics["total"].value(), total.mean(), rtol=1e-5)


# ---------------------------------------------------------------------------------------------------------------- state


def scored(seed: int, rows: int) -> Batch:
    """Scores far from 0, some of which are of completions that nobody knows anything about."""
    draw = np.random.default_rng(seed)
    batch = filled(seed, rows)
    known = (draw.random((rows, 3)) < 0.8).astype(np.float32) * (batch.mask != 0).any(-1)
    score = np.where(known != 0, 100 + draw.normal(size=(rows, 3)), np.nan).astype(np.float32)
    return batch.replace(reward=score, completions={"weight": known})


def test_running_moments_are_those_of_all_scores_so_far() -> None:
    moments = jax.tree.map(np.asarray, stages.no_moments(KEY))
    seen: list[float] = []
    for seed, rows in enumerate((2, 7, 4)):
        batch = scored(seed, rows)
        known = batch.completions["weight"] != 0
        seen += batch.reward[known].tolist()
        deviation, mean = np.std(seen, ddof=1), np.mean(seen)
        made, metrics = run(stages.normalize_reward, Context(state={"moments": moments}), batch, KEY, clip=1.5)
        target = (batch.reward[known] - mean) / deviation
        np.testing.assert_allclose(made.reward[known], np.clip(target, -1.5, 1.5), atol=2e-4)
        np.testing.assert_allclose(metrics["clipped"].value(), np.mean(np.abs(target) > 1.5), rtol=1e-6)
        scaled, _ = run(stages.normalize_reward, Context(state={"moments": moments}), batch, KEY, how="scale")
        np.testing.assert_allclose(scaled.reward[known], batch.reward[known] / deviation, rtol=1e-4)
        moments = jax.tree.map(np.asarray, jax.jit(stages.running_moments)(moments, Context(), made, KEY))
        assert moments["count"] == len(seen)
        np.testing.assert_allclose(moments["mean"], mean, rtol=1e-6)
        np.testing.assert_allclose(moments["squares"], deviation**2 * (len(seen) - 1), rtol=1e-4)


def test_scores_without_spread_are_not_blown_up() -> None:
    moments = stages.no_moments(KEY)
    batch = filled().replace(reward=np.full((4, 3), 2.5, np.float32))
    made, _ = run(stages.normalize_reward, Context(state={"moments": moments}), batch, KEY, how="scale")
    np.testing.assert_array_equal(made.reward, 2.5)
    made, _ = run(stages.normalize_reward, Context(), batch, KEY, how="none", clip=0.5)
    np.testing.assert_array_equal(made.reward, 0.5)
    with pytest.raises(ConfigError, match=r"how='nrom'.*none, scale, norm.*'norm'"):
        stages.normalize_reward(Context(), batch, KEY, how="nrom")


def test_an_adaptive_coefficient_rests_where_the_kl_is_the_target() -> None:
    """Of a softmax policy, which answers a coefficient with pi ~ pi_ref exp(r / coefficient): its KL is known."""
    draw = np.random.default_rng(0)
    reference, reward = np.log(draw.dirichlet(np.ones(5))), draw.normal(size=5)

    def answered(coefficient: float) -> np.ndarray:
        logits = reference + reward / coefficient
        return logits - np.logaddexp.reduce(logits)

    def kl(coefficient: float) -> float:
        logps = answered(coefficient)
        return float(np.sum(np.exp(logps) * (logps - reference)))

    target = 0.4
    rests = brentq(lambda coefficient: kl(coefficient) - target, 0.05, 20)

    @jax.jit
    def moved(state: Any, log_ratio: Any) -> Any:
        one = jnp.ones((1, 1, 1))
        batch = Batch(mask=one, logps={"policy": log_ratio * one, "reference": 0 * one})
        return stages.adaptive_kl(state, Context(), batch, KEY, target=target, rate=0.5)

    for start in (0.1, 5.0):
        state = stages.kl_coefficient(KEY, initial=start)
        first = moved(state, kl(start))
        steps = float(first["coefficient"] / state["coefficient"])
        np.testing.assert_allclose(steps, 1 + math.copysign(0.5 * 0.2, kl(start) - target), rtol=1e-6)
        for _ in range(150):
            state = moved(state, kl(float(state["coefficient"])))
        np.testing.assert_allclose(state["coefficient"], rests, rtol=1e-4)


def test_the_kl_that_is_followed_is_a_completions() -> None:
    """Summed over its tokens, and a mean over completions of which a token counts."""
    batch = filled(6)
    _, metrics = run(stages.token_rewards, Context(), batch, KEY)
    kl = float(metrics["kl"].value())
    gaps = batch.logps["policy"] - batch.logps["reference"]
    totals = [gaps[at][batch.mask[at] != 0].sum() for at in np.ndindex(4, 3) if batch.mask[at].any()]
    np.testing.assert_allclose(kl, np.mean(totals), rtol=1e-5)
    state = stages.kl_coefficient(KEY, initial=0.2)
    moved = stages.adaptive_kl(state, Context(), batch, KEY, target=abs(kl) / 1.1, rate=1.0, clip=0.9)
    error = kl / (abs(kl) / 1.1) - 1
    np.testing.assert_allclose(moved["coefficient"], 0.2 * (1 + np.clip(error, -0.9, 0.9)), rtol=1e-5)


# -------------------------------------------------------------------------------------------------------- value loss


def test_a_value_learns_until_it_is_held() -> None:
    """Its gradient is (V - R) / tokens where it has not moved, and 0 where it has moved by more than the clip towards
    the return; away from it the clip does not help."""
    returns = np.array([[[2.0, 2.0, 2.0, 2.0, 0.0]]], np.float32)
    old = np.array([[[0.0, 0.0, 0.0, 0.0, np.nan]]], np.float32)
    values = np.array([[[0.0, 0.1, 0.9, -0.9, 5.0]]], np.float32)
    mask = np.array([[[1, 1, 1, 1, 0]]], np.float32)
    batch = Batch(mask=mask, valid=mask != 0, returns=returns, completions={"values": old})
    loss = fn(losses.value_loss, output="policy", clip=0.3)
    total, gradient = evaluate(loss, batch, policy=values)
    np.testing.assert_allclose(gradient, [[[-0.5, -1.9 / 4, 0, -2.9 / 4, 0]]], rtol=1e-6)
    open_loss, open_gradient = evaluate(loss.replace(clip=math.inf), batch, policy=values)
    np.testing.assert_allclose(open_gradient, (values - returns) / 4 * mask, rtol=1e-6)
    assert total > open_loss
    metrics = measure(loss, batch, policy=values)
    np.testing.assert_allclose(metrics["clipped"][0], 1 / 4)
    np.testing.assert_allclose(open_loss, metrics["squared_error"][0] / 2, rtol=1e-6)
