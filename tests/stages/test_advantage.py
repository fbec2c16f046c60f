"""Advantages of rewards: identities, and their expected gradients by enumeration of every group that may be sampled.

A group is N draws from three actions under one prompt; a batch whose rows are all of them, each counted by its
probability, has the expectation for its mean."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses, stages
from alignjax.config import ConfigError, fn
from alignjax.stages.reward_shaping import drop_ties, drop_unfinished, less_last, overlong_penalty
from alignjax.types import Array, Batch

LOGITS = np.array([0.3, -0.5, 0.9])
GRADED, CORRECT = np.array([0.2, 1.7, 0.6]), np.array([0.0, 1.0, 1.0])
P = np.exp(LOGITS) / np.exp(LOGITS).sum()
PLAIN = {"ratio": fn(losses.no_ratio), "bound": fn(losses.no_bound), "reduction": fn(losses.sequence_sum)}


@pytest.fixture(autouse=True)
def _exactly(float64: None) -> None:
    pass


def groups(n: int) -> np.ndarray:
    return np.array(list(itertools.product(range(3), repeat=n)))


def batch_of(actions: np.ndarray, reward: np.ndarray, **fields: Any) -> Batch:
    """Completions of one token [B,N], with a reward of each action or of each completion."""
    known = jnp.asarray(reward[actions] if reward.ndim == 1 else reward)
    valid = jnp.ones((*actions.shape, 1), bool)
    return Batch(tokens=jnp.asarray(actions)[..., None], valid=valid, mask=valid * 1.0, reward=known, **fields)


def after(stage: Any, batch: Batch) -> tuple[Batch, Any]:
    return stage(None, batch, jax.random.key(0))


def expected_gradient(stage: Any, reward: np.ndarray, n: int, **choices: Any) -> np.ndarray:
    """Minus the gradient of the expected loss by the logits: what is ascended."""
    actions = groups(n)
    batch, _ = after(stage, batch_of(actions, reward))
    share = np.prod(P[actions], axis=1, keepdims=True) * np.ones(n)  # a group counts by how often it is drawn
    batch = batch.replace(completions={"weight": jnp.asarray(share) * batch.completions.get("weight", 1)})

    def loss(logits: Array) -> Array:
        logps = jax.nn.log_softmax(logits)[actions][..., None]
        context = SimpleNamespace(score=lambda role, batch, read=None: {role: logps})
        return losses.surrogate(context, batch, behaviour=None, **{**PLAIN, **choices})[0].total / n

    return -np.asarray(jax.grad(loss)(jnp.asarray(LOGITS)))


def gradient_of(objective: Any) -> np.ndarray:
    """The exact gradient of a function of the probabilities."""
    return np.asarray(jax.grad(lambda logits: objective(jax.nn.softmax(logits)))(jnp.asarray(LOGITS)))


def mean_of(reward: np.ndarray) -> Any:
    return lambda p: jnp.sum(p * reward)


@pytest.mark.parametrize(("baseline", "factor"), [("none", 1.0), ("leave_one_out", 1.0), ("mean", 2 / 3)])
def test_baselines_by_enumeration(baseline: str, factor: float) -> None:
    """Leaving one out is unbiased, the mean of all shrinks by 1 - 1/N: exactly."""
    stage = fn(stages.group_advantage, baseline=baseline, scale="none")
    ours, exact = expected_gradient(stage, GRADED, 3), gradient_of(mean_of(GRADED))
    np.testing.assert_allclose(ours, factor * exact, rtol=1e-12)
    assert np.abs(exact).max() > 0.1


def test_a_standard_deviation_turns_the_gradient() -> None:
    """With it (GRPO) the expected gradient is no multiple of that of the mean reward; MaxRL's is that of log p, cut."""
    scaled, exact = expected_gradient(fn(stages.group_advantage), GRADED, 3), gradient_of(mean_of(GRADED))
    cosine = scaled @ exact / np.linalg.norm(scaled) / np.linalg.norm(exact)
    assert 0.8 < cosine < 0.999
    for baseline, order in (("none", 4), ("mean", 3)):
        ours = expected_gradient(fn(stages.group_advantage, baseline=baseline, scale="mean"), CORRECT, 4)

        def cut(p: Array, order: int = order) -> Array:
            return sum((1 - (1 - p[1] - p[2]) ** k) / k for k in range(1, order + 1))

        np.testing.assert_allclose(ours, gradient_of(cut), rtol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_pass_at_k_by_enumeration(k: int) -> None:
    """Of 0 and 1 it is pass@k, of other rewards (negative ones too) the expected largest of k."""
    stage = fn(stages.pass_at_k, k=k)

    def largest(p: Array, reward: np.ndarray) -> Array:
        draws = groups(k)
        return jnp.sum(jnp.prod(p[draws], axis=1) * reward[draws].max(axis=1))

    for reward in (CORRECT, GRADED - 1):
        ours = expected_gradient(stage, reward, 4)
        np.testing.assert_allclose(ours, gradient_of(lambda p, reward=reward: largest(p, reward)), rtol=1e-11)
        batch, metrics = after(stage, batch_of(groups(4), reward))
        estimates = np.asarray(metrics["pass_at_k"].total)
        assert np.isfinite(estimates)
    one = batch_of(np.array([[0, 1, 2, 0]]), CORRECT, completions={"weight": jnp.array([[1.0, 1.0, 0.0, 1.0]])})
    batch, metrics = after(stage, one)  # one of three is right
    assert float(metrics["pass_at_k"].value()) == pytest.approx(k / 3)
    np.testing.assert_allclose(batch.advantage[0, :, 0], [0, k, 0, 0], atol=1e-12)


def test_pass_at_k_in_which_k_do_not_count() -> None:
    few = batch_of(np.array([[0, 1, 2]]), GRADED, completions={"weight": jnp.array([[1.0, 0.0, 0.0]])})
    batch, metrics = after(fn(stages.pass_at_k, k=2), few)
    assert not np.any(batch.advantage)
    assert float(metrics["pass_at_k"].weight) == 0
    with pytest.raises(ConfigError, match="at least 4 completions a prompt, and there are 3"):
        after(fn(stages.pass_at_k, k=4), few)


PREFERENCE = np.array([[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]])  # intransitive


@pytest.mark.parametrize(("baseline", "factor"), [("mean", 1.0), ("leave_one_out", 3 / 2)])
def test_win_rates_within_the_group_are_self_play(baseline: str, factor: float) -> None:
    """grad of the win rate against a policy that stays: exactly with the mean, N / (N - 1) times it leaving one out."""
    actions = groups(3)
    judged = batch_of(actions, GRADED).replace(
        preference=jnp.asarray(PREFERENCE[actions[:, :, None], actions[:, None, :]])
    )
    rated, _ = stages.win_rate_against(None, judged, jax.random.key(0))
    rates = np.asarray(rated.reward)

    def stage(context: Any, batch: Batch, key: Any) -> Any:
        return stages.group_advantage(
            context, batch.replace(reward=jnp.asarray(rates)), key, baseline=baseline, scale="none"
        )

    exact = gradient_of(lambda p: p @ PREFERENCE @ P)
    np.testing.assert_allclose(expected_gradient(stage, GRADED, 3), factor * exact, rtol=1e-12)


def drawn(rows: int = 5, n: int = 4) -> Batch:
    draw = np.random.default_rng(2)
    weight = draw.choice([0.0, 0.3, 1.0, 2.0], (rows, n))
    weight[0] = [0.3, 1.0, 0.0, 2.0]
    reward = draw.normal(size=(rows, n))
    return batch_of(
        np.zeros((rows, n), int), np.where(weight == 0, np.nan, reward), completions={"weight": jnp.asarray(weight)}
    )


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_group_advantages_sum_to_zero(scale: str) -> None:
    """By their weights, with unknown rewards of weight 0; a shift of a prompt's rewards changes nothing."""
    batch = drawn()
    weight = np.asarray(batch.completions["weight"])
    stage = fn(stages.group_advantage, scale=scale)
    ours = np.asarray(after(stage, batch)[0].advantage)[..., 0]
    np.testing.assert_allclose(np.sum(ours * weight, axis=1), 0, atol=1e-12)
    assert np.abs(ours).max() > 0.5
    assert not np.any(ours[weight == 0])
    if scale != "batch":
        shifted = batch.replace(reward=batch.reward + jnp.arange(5.0)[:, None])
        np.testing.assert_allclose(after(stage, shifted)[0].advantage[..., 0], ours, atol=1e-10)


def test_leaving_one_out_is_the_mean_of_all_in_other_units() -> None:
    """r - mean of the others = W / (W - w) (r - mean of all), W the prompt's weights, where there are others."""
    batch = drawn()
    weight = np.asarray(batch.completions["weight"])
    left_out, mean = (
        np.asarray(after(fn(stages.group_advantage, baseline=baseline, scale="none"), batch)[0].advantage)[..., 0]
        for baseline in ("leave_one_out", "mean")
    )
    total = weight.sum(axis=1, keepdims=True)
    factor = np.where(total > weight, total / np.where(total > weight, total - weight, 1), 0)
    np.testing.assert_allclose(left_out, factor * mean, atol=1e-12)
    assert np.abs(left_out - mean).max() > 0.1


def test_a_completion_of_no_weight_is_as_if_it_were_not_there() -> None:
    batch = drawn()
    kept = batch.replace(
        completions={"weight": jnp.asarray([[1.0, 1, 0, 1]] * 5)}, reward=batch.reward.at[:, 2].set(jnp.nan)
    )
    kept = kept.replace(reward=jnp.where(jnp.isnan(kept.reward) & (jnp.arange(4) != 2)[None], 0.4, kept.reward))
    fewer = kept.pick(jnp.asarray([[0, 1, 3]] * 5))
    for stage in (
        fn(stages.group_advantage, baseline="leave_one_out", scale="batch"),
        fn(stages.group_advantage, scale="group"),
        fn(stages.pass_at_k, k=2),
    ):
        with_it, without = (np.asarray(after(stage, each)[0].advantage) for each in (kept, fewer))
        np.testing.assert_allclose(with_it[:, [0, 1, 3]], without, atol=1e-12)
        assert not np.any(with_it[:, 2])


def test_groups_of_one_number_are_dropped() -> None:
    actions = np.array([[1, 1, 1], [0, 1, 2], [2, 2, 0]])
    batch, metrics = after(fn(drop_ties), batch_of(actions, CORRECT))
    np.testing.assert_array_equal(batch.completions["weight"], [[0] * 3, [1] * 3, [1] * 3])
    assert float(metrics["dropped"].value()) == pytest.approx(1 / 3)
    _, metrics = after(fn(stages.group_advantage), batch)
    assert float(metrics["tied"].value()) == 0, "of those that are left"
    assert float(metrics["tied"].weight) == 2


def test_completions_without_an_end_are_dropped() -> None:
    tokens = jnp.array([[[3, 2, 0], [3, 4, 5], [2, 0, 0]]])
    valid = jnp.array([[[1, 1, 0], [1, 1, 1], [1, 0, 0]]], bool)
    batch = Batch(tokens=tokens, valid=valid, completions={"weight": jnp.array([[0.5, 1.0, 1.0]])})
    batch, metrics = after(fn(drop_unfinished, stop=(2,)), batch)
    np.testing.assert_array_equal(batch.completions["weight"], [[0.5, 0, 1]])
    assert float(metrics["dropped"].value()) == pytest.approx(1 / 3)


def test_the_penalty_of_long_answers() -> None:
    valid = jnp.asarray(np.arange(10) < np.array([5, 6, 8, 10])[None, :, None])
    batch = Batch(tokens=jnp.zeros((1, 4, 10), int), valid=valid, reward=jnp.ones((1, 4)))
    batch, _ = after(fn(overlong_penalty, longest=10, buffer=4, penalty=2.0), batch)
    np.testing.assert_allclose(batch.reward, [[1, 1, 0, -1]])
    with pytest.raises(ConfigError, match="longer than longest"):
        after(fn(overlong_penalty, longest=3, buffer=4), batch)


def test_the_greedy_answer_is_a_baseline() -> None:
    """It leaves the expected gradient as it is, since nothing that is sampled moves it."""
    actions = np.concatenate([groups(2), np.full((9, 1), 2)], axis=1)
    batch, metrics = after(fn(less_last), batch_of(actions, GRADED))
    np.testing.assert_allclose(batch.reward, GRADED[actions[:, :2]] - GRADED[2])
    assert batch.tokens.shape == (9, 2, 1)
    assert float(metrics["baseline"].value()) == pytest.approx(GRADED[2])

    def stage(context: Any, sampled: Batch, key: Any) -> Any:
        return stages.group_advantage(context, sampled.replace(reward=batch.reward), key, baseline="none", scale="none")

    np.testing.assert_allclose(expected_gradient(stage, GRADED, 2), gradient_of(mean_of(GRADED)), rtol=1e-12)


def test_rewards_are_normalized_apart() -> None:
    """A reward in other units changes nothing; summed before, it would take over."""
    draw = np.random.default_rng(4)
    first, second = draw.normal(size=(2, 3, 4))

    def apart(scale: float, weights: Any = None) -> np.ndarray:
        batch = batch_of(np.zeros((3, 4), int), first)
        batch = stages.keep_reward(None, batch, None, name="a")
        batch = stages.keep_reward(None, batch.replace(reward=jnp.asarray(scale * second)), None, name="b")
        stage = fn(stages.decoupled_advantage, names=("a", "b"), weights=weights, spread=1e-12)
        return np.asarray(after(stage, batch)[0].advantage)[..., 0]

    np.testing.assert_allclose(apart(1.0), apart(1000.0), rtol=1e-8)
    np.testing.assert_allclose([apart(1.0).mean(), apart(1.0).std(ddof=1)], [0, 1], atol=1e-9)
    assert np.abs(apart(1.0) - apart(1.0, (2.0, 1.0))).max() > 0.1
    with pytest.raises(ConfigError, match="1 weights for 2 rewards"):
        apart(1.0, (2.0,))
    filed = stages.keep_reward(None, batch_of(np.zeros((3, 4), int), first), None, name="a")
    filed = filed.replace(completions={**filed.completions, "weight": jnp.ones((3, 4)).at[:, 1].set(0)})
    batch, metrics = after(fn(stages.decoupled_advantage, names=("a",)), filed)  # as `drop_unfinished` leaves it
    assert not np.any(batch.advantage[:, 1])
    assert not np.any(batch.completions["weight"][:, 1])
    assert float(metrics["reward_a"].value()) == pytest.approx(first[:, [0, 2, 3]].mean())


def test_whitened_returns_have_the_kl_that_is_still_to_come() -> None:
    """Mean 0 and deviation 1 over the tokens that count, and a token's number falls with the KL of those after it."""
    draw = np.random.default_rng(5)
    mask = jnp.asarray((draw.random((3, 2, 4)) < 0.8) * 1.0)
    batch = Batch(
        tokens=jnp.zeros((3, 2, 4), int), valid=jnp.ones((3, 2, 4), bool), mask=mask,
        reward=jnp.asarray(draw.normal(size=(3, 2))),
        logps={
            "sampler": jnp.where(mask != 0, -draw.random((3, 2, 4)), jnp.nan), "reference": jnp.full((3, 2, 4), -1.0),
        },
    )  # fmt: skip
    ours = np.asarray(after(fn(stages.batch_advantage, beta=0.5, spread=1e-12), batch)[0].advantage)
    counted = ours[np.asarray(mask) != 0]
    np.testing.assert_allclose([counted.mean(), counted.std(ddof=1)], [0, 1], atol=1e-9)
    by_token = np.where(mask != 0, 1.0 + np.asarray(batch.logps["sampler"]), 0) * 0.5
    raw = np.asarray(batch.reward)[..., None] - np.cumsum(by_token[..., ::-1], axis=-1)[..., ::-1]
    assert np.corrcoef(raw[np.asarray(mask) != 0], counted)[0, 1] == pytest.approx(1, abs=1e-9)
    flat = np.asarray(after(fn(stages.batch_advantage, beta=0.0, baseline="mean"), batch)[0].advantage)
    assert np.ptp(flat[0, 0][np.asarray(mask)[0, 0] != 0]) == 0, "without a KL, one number a completion"


def test_a_small_bandit_is_learned_to_its_optimum() -> None:
    """By expected gradients with a KL in the loss: the optimum is q exp(r / tau) / Z, which k2 and a weighted k3 find,
    and k3 as GRPO has it does not."""
    actions, tau, reference = groups(3), 0.7, np.log(np.array([0.5, 0.2, 0.3]))
    batch, _ = after(fn(stages.group_advantage, baseline="leave_one_out", scale="none"), batch_of(actions, GRADED))
    batch = batch.with_logps(reference=jnp.asarray(reference[actions])[..., None])
    optimum = np.exp(reference + GRADED / tau) / np.exp(reference + GRADED / tau).sum()

    def learned(kl: Any) -> np.ndarray:
        loss = fn(losses.surrogate, behaviour=None, kl=kl, **{**PLAIN, "ratio": fn(losses.token_ratio)})

        def expected(logits: Array, share: Array) -> Array:
            logps = jax.nn.log_softmax(logits)[actions][..., None]
            weighed = batch.replace(completions={"weight": jnp.broadcast_to(share[:, None], actions.shape)})
            return loss(SimpleNamespace(score=lambda role, batch, read=None: {role: logps}), weighed)[0].value()

        def step(logits: Array, _: Any) -> tuple[Array, None]:
            share = jnp.prod(jax.nn.softmax(logits)[actions], axis=1)
            return logits - jax.grad(expected)(logits, jax.lax.stop_gradient(share)), None

        return np.asarray(jax.nn.softmax(jax.lax.scan(step, jnp.asarray(LOGITS), None, length=400)[0]))

    for kl in (fn(losses.k2, beta=tau), fn(losses.k3, beta=tau, weighted=True)):
        np.testing.assert_allclose(learned(kl), optimum, atol=1e-6)
    assert np.abs(learned(fn(losses.k3, beta=tau)) - optimum).max() > 0.01
