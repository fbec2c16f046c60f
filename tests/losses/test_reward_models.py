"""Losses of reward models: ties, rankings, margins, several attributes, SteerLM's policy, and cycles."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses
from alignjax.config import ConfigError, fn
from alignjax.pair_layout import pair_logits
from alignjax.types import Batch
from tests.support.tiny import evaluate, measure, standin

PAIRS = ((0, 1), (2, 1), (0, 3))


def batch_of(scores: Any, **fields: Any) -> tuple[Batch, Any]:
    """Completions of two tokens, the second one padding, and a head that says `scores` [B,N] after the first."""
    scores = np.asarray(scores, np.float32)
    valid = np.ones((*scores.shape, 2), bool)
    valid[..., 1] = False
    numbers = np.stack([scores, np.full_like(scores, 9)], axis=-1)
    return Batch(tokens=np.zeros(valid.shape, np.int32), valid=valid, mask=valid.astype(np.float32), **fields), numbers


def scores(rows: int, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, n)).astype(np.float32)


def labeled(label: Any) -> np.ndarray:
    """Preferences [B,2,2] of pairs whose first completion wins with these probabilities."""
    label = np.asarray(label, np.float32)
    half = np.full_like(label, 0.5)
    return np.stack([np.stack([half, label], -1), np.stack([1 - label, half], -1)], -2)


def value(loss: Any, batch: Batch, numbers: Any) -> float:
    return float(evaluate(loss, batch, policy=numbers, reward_reward=numbers)[0])


def test_davidson_gives_all_of_the_probability_to_win_tie_and_loss() -> None:
    for nu in (0.3, 2.5):
        loss = fn(losses.davidson, nu=nu)
        for reward in scores(3, 2):
            win, tie, lost = (
                np.exp(-value(loss, *batch_of(reward[None], preference=labeled([p])))) for p in (1, 0.5, 0)
            )
            assert win + tie + lost == pytest.approx(1, rel=1e-5)
            assert tie**2 == pytest.approx(nu**2 * win * lost, rel=1e-4)  # a tie is nu times as likely as their mean
            assert np.log(win / lost) == pytest.approx(reward[0] - reward[1], rel=1e-4, abs=1e-5)


def test_davidson_with_hardly_any_ties_is_bradley_terry() -> None:
    batch, numbers = batch_of(scores(4, 2), preference=labeled([1, 0, 1, 0]))
    assert value(fn(losses.davidson, nu=1e-8), batch, numbers) == pytest.approx(
        value(losses.bradley_terry, batch, numbers), rel=1e-5
    )


def test_a_cost_ranks_like_a_reward_upside_down_and_its_sign_is_the_log_odds_of_harm() -> None:
    """What a label of safety changes is the cost itself, once for each pair that a completion is in."""
    cost, known = scores(4, 4), np.array([[1, 0, np.nan, 0.3]] * 4, np.float32)
    preference = np.clip((np.sign(scores(4, 4, 1)[:, :, None] - scores(4, 4, 1)[:, None, :]) + 1) / 2, 0.2, 0.8)
    batch, numbers = batch_of(cost, preference=preference.astype(np.float32), completions={"safe": known})
    loss = fn(losses.cost_model, pairs=PAIRS, weight=0.7)
    turned = value(fn(losses.bradley_terry, pairs=PAIRS), batch, -numbers)

    def of(safe: Any, **hyper: Any) -> float:
        changed = batch.replace(completions={"safe": np.broadcast_to(np.array(safe, np.float32), cost.shape)})
        return float(evaluate(loss.replace(**hyper), changed, cost_reward=numbers, policy=numbers)[0])

    assert of(known, weight=0.0) == pytest.approx(turned, rel=1e-6)
    assert of([np.nan] * 4) == pytest.approx(turned, rel=1e-6)
    for one, pairs in enumerate((2, 2, 1, 1)):  # how many of the three a completion is in
        safe, harmful, maybe = (of(np.where(np.arange(4) == one, p, np.nan)) for p in (1, 0, 0.3))
        assert safe - harmful == pytest.approx(0.7 * pairs / 3 * cost[:, one].mean(), abs=1e-6)
        assert maybe == pytest.approx(0.3 * safe + 0.7 * harmful, rel=1e-6)
    rows = batch.replace(prompts={"a": known[:, 0], "b": known[:, 1], "c": known[:, 2], "d": known[:, 3]})
    columns = loss.replace(safe=("a", "b", "c", "d"))
    assert float(evaluate(columns, rows, cost_reward=numbers, policy=numbers)[0]) == of(known)
    seen = measure(loss, batch, cost_reward=numbers)["sign_accuracy"][0]
    sides, labels = cost[:, [0, 1, 1, 0, 3]], known[:, [0, 1, 1, 0, 3]]
    assert seen == pytest.approx(np.mean((sides < 0) == (labels > 0.5)))
    with pytest.raises(ConfigError, match="names 2 columns for 4 completions"):
        evaluate(loss.replace(safe=("a", "b")), rows, cost_reward=numbers, policy=numbers)


def test_the_probabilities_of_all_rankings_sum_to_one() -> None:
    reward = scores(1, 4)
    orders = np.array(list(itertools.permutations(range(4))), np.float32)
    batch, numbers = batch_of(np.repeat(reward, len(orders), 0), reward=orders)
    each = jax.vmap(lambda row, grade: losses.plackett_luce_reward(
        standin(reward_reward=row[None]), batch.take(jnp.arange(1)).replace(reward=grade[None])
    )[0].value())(jnp.asarray(numbers), jnp.asarray(orders))  # fmt: skip
    assert float(jnp.sum(jnp.exp(-each))) == pytest.approx(1, rel=1e-5)


def test_a_ranking_of_two_is_a_pair_and_a_completion_without_a_grade_takes_no_part() -> None:
    reward, grade = scores(5, 3), np.array([[2, 1, 9], [0, 3, 9], [1, 1, 9], [4, 0, 9], [0, 1, 9]], np.float32)
    weight = np.array([[1, 1, 0]] * 5, np.float32)
    batch, numbers = batch_of(reward, reward=grade, completions={"weight": weight})
    pair, two = batch_of(reward[:, :2], preference=labeled((np.sign(grade[:, 0] - grade[:, 1]) + 1) / 2))
    weights = np.ones((5, 2, 2), np.float32)
    weights[2] = 0  # a tie is no comparison, and its list costs nothing
    ranked = losses.plackett_luce_reward(standin(reward_reward=jnp.asarray(numbers)), batch)[0]
    paired = losses.bradley_terry(standin(reward_reward=jnp.asarray(two)), pair.replace(pair_weight=weights))[0]
    np.testing.assert_allclose(ranked.total, paired.total, rtol=1e-5)
    assert float(ranked.weight) == 5


def test_margins_belong_to_pairs_and_not_to_sides() -> None:
    """Exchanging completions and label changes nothing; a margin moves the gap where the loss has its value."""
    reward, margin = scores(3, 2), np.array([0.7, -0.2, np.nan], np.float32)
    loss = fn(losses.bradley_terry, center_rewards_coefficient=0.2)
    one, numbers = batch_of(reward, preference=labeled([1, 0.3, 0]), prompts={"margin": margin})
    other = one.replace(preference=labeled([0, 0.7, 1]))
    assert value(loss, one, numbers) == pytest.approx(value(loss, other, numbers[:, ::-1]), rel=1e-6)
    hard = one.replace(preference=labeled([1, 1, 1]))
    moved = numbers - np.nan_to_num(margin)[:, None, None] * np.array([1, 0], np.float32)[:, None]
    assert value(losses.bradley_terry, hard, numbers) == pytest.approx(
        value(losses.bradley_terry, hard.replace(prompts={}), moved), rel=1e-6
    )


def test_a_scaled_margin_is_a_weight_and_grades_make_margins() -> None:
    grade = np.array([[0, 2, 5, 1], [3, 3, 1, 2.5]], np.float32)
    preference = (np.sign(grade[:, :, None] - grade[:, None]) + 1) / 2
    weight = np.random.default_rng(2).uniform(0.5, 2, (2, 4, 4)).astype(np.float32)
    batch, numbers = batch_of(scores(2, 4), reward=grade, preference=preference, pair_weight=weight)
    context = standin(reward_reward=jnp.asarray(numbers))
    scaled = losses.bradley_terry(context, batch, pairs=PAIRS, margin="reward", scaled=True)[0]
    gap = np.abs(grade[:, :, None] - grade[:, None])
    heavier = losses.bradley_terry(context, batch.replace(pair_weight=weight * gap), pairs=PAIRS)[0]
    np.testing.assert_allclose(scaled.total, heavier.total, rtol=1e-5)
    with pytest.raises(ConfigError, match=r'bradley_terry needs batch.prompts\["margin"\]'):
        losses.bradley_terry(context, batch, scaled=True)


def test_several_attributes_are_one_regression_each_and_missing_labels_do_not_count() -> None:
    draw = np.random.default_rng(0)
    batch, _ = batch_of(scores(3, 2))
    target = draw.normal(size=(2, 3, 2)).astype(np.float32)
    target[1, 0, 1] = np.nan
    head = draw.normal(size=(3, 2, 2, 2)).astype(np.float32)
    batch = batch.replace(completions={"correct": target[0], "brief": target[1]})
    loss = fn(losses.attribute_regression, attributes=("correct", "brief"))
    mean = measure(loss, batch, reward_classes=head)[""]
    alone = [
        losses.score_regression(standin(reward_reward=jnp.asarray(head[..., k])), batch, field=name)[0]
        for k, name in enumerate(("correct", "brief"))
    ]
    error = (head[..., 0, 1] - target[1])[~np.isnan(target[1])]  # after the first token, the last that is valid
    np.testing.assert_allclose(mean[0] * mean[1], alone[0].total + np.sum(error**2), rtol=1e-5)
    assert mean[1] == 11
    with pytest.raises(ConfigError, match="reward:classes gives 2 numbers for 1 attributes"):
        losses.attribute_regression(standin(reward_classes=head), batch, attributes=("correct",))


def test_steerlm_stands_still_at_the_conditional_and_falls_towards_it() -> None:
    """All six completions of a prompt are the samples: P(y|a) is then known, whatever they were drawn from."""
    draw = np.random.default_rng(3)
    judged, prior, proposal, start = draw.normal(size=(4, 1, 6)).astype(np.float32)
    logs = lambda x: jax.nn.log_softmax(jnp.asarray(x), axis=-1)  # noqa: E731
    wanted = logs(judged + prior)
    batch, _ = batch_of(judged, reward=judged)
    batch = batch.with_logps(
        prior=jnp.stack([logs(prior), logs(prior)], -1), sampler=jnp.stack([logs(proposal)] * 2, -1)
    )

    @jax.jit
    def step(logits: Any) -> Any:
        def loss(logits: Any) -> Any:
            return losses.steerlm(standin(policy=jnp.stack([logs(logits)] * 2, -1)), batch)[0].value()

        return jax.grad(loss)(logits)

    assert float(jnp.abs(step(wanted)).max()) < 1e-6
    logits, distance = jnp.asarray(start), []
    for _ in range(80):
        distance.append(float(jnp.sum(jnp.exp(wanted) * (wanted - logs(logits)))))
        logits = logits - 2 * step(logits)
    assert all(later < sooner for sooner, later in itertools.pairwise(distance[:20]))
    assert distance[-1] < 1e-3 < distance[0]


def test_a_cycle_is_beyond_any_reward_and_within_a_pairwise_model() -> None:
    """A population of three, each transitive, prefers 0 to 1 to 2 to 0 with probability 2/3 (Condorcet). No order of
    rewards agrees with more than two of the three majorities, and the loss of rewards is least where they are equal;
    the vectors of a pairwise model reach the population's entropy."""
    rankings = [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
    wins = np.mean([[[order.index(i) < order.index(j) for j in range(3)] for i in range(3)] for order in rankings], 0)
    pairs = ((0, 1), (1, 2), (0, 2))
    preference = (wins + np.eye(3) / 2)[None].astype(np.float32)
    majority = [preference[0, i, j] > 0.5 for i, j in pairs]
    assert majority == [True, True, False]
    right = [
        sum((r[i] > r[j]) == m for (i, j), m in zip(pairs, majority, strict=True))
        for r in itertools.permutations(range(3))
    ]
    assert max(right) == 2

    batch, equal = batch_of([[0.4, 0.4, 0.4]], preference=preference)
    scalar = fn(losses.bradley_terry, pairs=pairs, role="policy")
    least, slope = jax.value_and_grad(lambda x: scalar(standin(policy_reward=x), batch)[0].value())(jnp.asarray(equal))
    assert float(least) == pytest.approx(np.log(2), rel=1e-6)
    assert float(jnp.abs(slope).max()) < 1e-7  # it is convex in rewards, so this is the least

    pairwise = fn(losses.preference_cross_entropy, pairs=pairs, role="policy", reading="apart")
    angle, size = 2 * np.pi * np.arange(3) / 3, np.log(2) / np.sin(2 * np.pi / 3)
    score = np.zeros((1, 3, 1))
    # u_i . v_j - u_j . v_i is the sine of the angle from i to j, which goes round once
    vectors = np.stack([np.cos(angle), np.sin(angle)], -1)[None] * np.sqrt(size)
    embedding = np.repeat(np.concatenate([score, vectors], -1)[:, :, None], 2, axis=2).astype(np.float32)
    reached = pairwise(standin(policy_embedding=jnp.asarray(embedding)), batch)
    assert float(reached[0].value()) == pytest.approx(np.log(3) - 2 / 3 * np.log(2), rel=1e-5)
    assert float(reached[1]["accuracy"].value()) == 1


def test_an_averaged_reading_is_that_of_the_mean_over_what_is_valid() -> None:
    """Of completions of 1 to 4 tokens, of which nothing behind the end counts; and it is antisymmetric."""
    rng = np.random.default_rng(3)
    lengths = np.array([[1, 4, 2], [3, 1, 4]])
    valid = np.arange(4) < lengths[..., None]
    said = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    mean = np.stack([[said[b, n, :k].mean(0) for n, k in enumerate(row)] for b, row in enumerate(lengths)])
    said[~valid] = np.nan
    batch = Batch(tokens=np.zeros(valid.shape, np.int32), valid=valid)
    pairs = ((0, 1), (1, 0), (2, 0))
    one = pair_logits(standin(p_mean_embedding=jnp.asarray(said)), batch, role="p", pairs=pairs, reading="averaged")
    constant = jnp.repeat(mean[:, :, None], 4, axis=2)
    other = pair_logits(standin(p_embedding=constant), batch, role="p", pairs=pairs, reading="apart")
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one[:, 0], -one[:, 1], rtol=1e-5)
    assert float(np.abs(one).min()) > 0.01
