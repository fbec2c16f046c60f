"""Identities of the losses on graded lists: what they reduce to, what they are the logarithm of, what they ignore."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special, stats

from alignjax import losses
from alignjax.config import fn
from alignjax.losses.decorators.listwise import beats, mean_rank
from alignjax.types import Array
from tests.support.graded_lists import (
    FIRST,
    LOSSES,
    SCORES,
    assert_same,
    draws,
    evaluated,
    on_lists,
    pairs_of,
)
from tests.support.tiny import as_jax, ragged, standin

pytestmark = pytest.mark.usefixtures("float64")


# ----------------------------------------------------------------------------------------------- two completions

LENGTH_NORMALISED = fn(losses.dpo, beta=1.0, reference=None, normalize="length")
TWO: dict[str, tuple[Any, Any, float]] = {  # loss of lists, loss of pairs, and the factor between them
    "plackett_luce": (fn(losses.plackett_luce, beta=0.4), fn(losses.dpo, beta=0.4), 1.0),
    "lipo": (fn(losses.lipo, beta=0.4), fn(losses.dpo, beta=0.4), 1 / math.log(2) - 1 / math.log(3)),
    "lipo_pairwise": (fn(losses.lipo, beta=0.4, objective=fn(losses.pairwise_logistic)), fn(losses.dpo, beta=0.4), 1.0),
    "pro": (fn(losses.pro, weight=0.0), LENGTH_NORMALISED, 1.0),
    "act": (fn(losses.act, weight=0.0), LENGTH_NORMALISED, 1.0),
    "clha": (fn(losses.clha, gamma=0.8, gap=0.5, weight=0.0), fn(losses.slic, beta=1 / 0.8, reference=None), 0.8),
}  # fmt: skip


@pytest.mark.parametrize("name", TWO)
def test_two_completions_are_a_pair(name: str) -> None:
    loss, pair, factor = TWO[name]
    value, slope = on_lists(loss, SCORES, FIRST)
    logps, batch = pairs_of(SCORES)
    expected, expected_slope = evaluated(pair, logps, batch)
    assert_same((value, slope), (factor * expected, factor * expected_slope[..., 0]))
    assert float(jnp.abs(slope).max()) > 1e-2


def test_pro_of_two_completions_takes_the_reward_gap_as_temperature() -> None:
    value, slope = on_lists(fn(losses.pro, weight=0.0), SCORES, 2.5 * FIRST)
    logps, batch = pairs_of(SCORES)
    expected, expected_slope = evaluated(fn(losses.dpo, beta=2.5, reference=None), logps, batch)
    assert_same((value, slope), (expected, expected_slope[..., 0]))


@pytest.mark.parametrize("name", ["pro", "act", "rrhf", "stable_alignment"])
def test_length_normalised_scores_on_ragged_pairs(name: str, float64: None) -> None:
    """Lists of two ragged completions against pairs that are normalised in the same way."""
    batch = jax.tree.map(lambda x: x.astype(float) if x.dtype == np.float32 else x, as_jax(ragged(rows=6)))
    logps = -jnp.abs(draws(*batch.tokens.shape))
    mask = jnp.maximum(batch.mask, batch.valid * (batch.mask.sum(-1, keepdims=True) == 0))
    batch = batch.replace(mask=mask, reward=jnp.asarray(FIRST), logps={"reference": jnp.zeros(logps.shape)})
    means = (logps * mask).sum(-1) / mask.sum(-1)
    loss = LOSSES[name] if name == "stable_alignment" else LOSSES[name].replace(weight=0.0)
    got, _ = loss(standin(policy=logps), batch)
    expected, _ = on_lists(loss, means, FIRST)
    np.testing.assert_allclose(got.value(), expected, rtol=1e-9)
    sums = on_lists(loss, (logps * mask).sum(-1), FIRST)[0]
    assert abs(float(sums - expected)) > 1e-3
    np.testing.assert_allclose(loss.replace(normalize="none")(standin(policy=logps), batch)[0].value(), sums, rtol=1e-9)


@pytest.mark.parametrize("name", ["pro", "rrhf", "act"])
def test_the_likelihood_of_the_best_is_its_sum_over_tokens(name: str) -> None:
    batch = as_jax(ragged(rows=6))
    logps = -jnp.abs(draws(*batch.tokens.shape))
    batch = batch.replace(reward=jnp.asarray(FIRST[:, ::-1]))
    value = [LOSSES[name].replace(weight=w)(standin(policy=logps), batch)[0] for w in (0.0, 2.0)]
    chosen = batch.replace(mask=batch.mask.at[:, 0].set(0))
    nll, _ = losses.sft(standin(policy=logps), chosen)
    np.testing.assert_allclose(value[1].total - value[0].total, 2 * nll.total, rtol=1e-6)


# --------------------------------------------------------------------------------------------- orders and draws


def order_probabilities(score: Array) -> dict[tuple[int, ...], float]:
    """exp(-loss) of every order of N completions, best first."""
    orders = list(itertools.permutations(range(score.shape[0])))
    reward = jnp.zeros((len(orders), score.shape[0]))
    for row, order in enumerate(orders):
        reward = reward.at[row, jnp.array(order)].set(jnp.arange(len(order), 0, -1.0))
    value = losses.plackett_luce.per_list(jnp.broadcast_to(score / 0.7, reward.shape), reward, beta=0.7)
    return dict(zip(orders, np.exp(-np.asarray(value)).tolist(), strict=True))


def test_orders_are_drawn_without_replacement() -> None:
    """exp(-loss) sums to 1 over all orders, and is how often noisy scores come in that order: adding Gumbel noise and
    sorting draws without replacement. 24 frequencies of 40000 draws, each within 4.5 standard errors (which fails by
    chance for less than 2 of 10000 seeds)."""
    score = draws(4, seed=3)
    probability = order_probabilities(score)
    np.testing.assert_allclose(sum(probability.values()), 1, rtol=1e-12)
    count = 40_000
    noisy = np.asarray(score) + np.random.default_rng(0).gumbel(size=(count, 4))
    seen, counts = np.unique(np.argsort(-noisy, axis=1), axis=0, return_counts=True)
    frequency = {tuple(order): n / count for order, n in zip(seen.tolist(), counts, strict=True)}
    for order, p in probability.items():
        assert abs(frequency.get(order, 0.0) - p) < 4.5 * math.sqrt(p * (1 - p) / count)


def test_a_best_among_ties_is_the_probability_that_it_comes_first() -> None:
    score = draws(4, seed=3)
    probability = order_probabilities(score)
    value, _ = on_lists(fn(losses.plackett_luce, beta=1.0), score[None], [[0.0, 0.0, 2.0, 0.0]])
    first = sum(p for order, p in probability.items() if order[0] == 2)
    np.testing.assert_allclose(np.exp(-value), first, rtol=1e-9)


def test_the_family_of_lipo() -> None:
    scores, reward = draws(5, 4), draws(5, 4, seed=1)
    lists = fn(losses.lipo, beta=0.7, objective=fn(losses.list_mle))
    assert_same(on_lists(lists, scores, reward), on_lists(fn(losses.plackett_luce, beta=0.7), scores, reward))
    unit = fn(losses.pro, temperatures=False, weight=0.0)
    assert_same(on_lists(unit, 0.7 * scores, reward)[:1], on_lists(lists, scores, reward)[:1])
    number = jnp.array([2, 0, 3, 1, 1])
    soft = fn(losses.lipo, beta=0.7, objective=fn(losses.softmax_listwise))
    value, slope = on_lists(soft, scores, jax.nn.one_hot(number, 4))
    expected = jax.value_and_grad(
        lambda x: optax.softmax_cross_entropy_with_integer_labels(0.7 * x, number).mean()
    )(scores)  # fmt: skip
    assert_same((value, slope), expected)
    every_pair = sum(
        losses.dpo.per_pair(jnp.abs(scores[:, i] - scores[:, j]) * jnp.sign((scores[:, i] - scores[:, j]) * (
            reward[:, i] - reward[:, j])), 1.0, beta=0.7)
        for i, j in itertools.combinations(range(4), 2)
    )  # fmt: skip
    pairwise = fn(losses.lipo, beta=0.7, objective=fn(losses.pairwise_logistic))
    np.testing.assert_allclose(on_lists(pairwise, scores, reward)[0], jnp.mean(every_pair), rtol=1e-9)


def test_lambda_weights_are_what_an_exchange_costs() -> None:
    """Against the discounted cumulative gain of the list with two places exchanged, computed anew for every pair."""
    score, reward = np.asarray(draws(5)), np.asarray(draws(5, seed=1))

    def gain(order: list[int]) -> float:
        return sum((2 ** reward[item] - 1) / math.log(1 + place) for place, item in enumerate(order, 1))

    order, expected = np.argsort(-score).tolist(), 0.0
    for i, j in itertools.permutations(range(5), 2):
        if reward[i] > reward[j]:
            exchanged = [{i: j, j: i}.get(item, item) for item in order]
            pair = losses.dpo.per_pair(score[i] - score[j], 1.0, beta=1.0)
            expected += abs(gain(order) - gain(exchanged)) * float(pair)
    np.testing.assert_allclose(losses.lambda_loss(jnp.asarray(score), jnp.asarray(reward)), expected, rtol=1e-9)


def test_ranks() -> None:
    """Against scipy, with ties in one key and in both."""
    values = np.array([2.0, 1.0, 2.0, 0.0, 2.0])
    np.testing.assert_array_equal(mean_rank(jnp.asarray(values)), stats.rankdata(-values))
    second = np.array([0.0, 5.0, 1.0, 9.0, 1.0])
    np.testing.assert_array_equal(
        mean_rank(jnp.asarray(values), jnp.asarray(second)), stats.rankdata(-(values + 1e-3 * second))
    )
    assert not np.any(beats(jnp.ones(3)))


def test_lipo_learns_from_a_policy_that_is_its_reference() -> None:
    reward = jnp.array([[0.2, 1.0, 0.5, 0.2]])
    _, slope = on_lists(fn(losses.lipo), jnp.zeros((1, 4)), reward)
    assert np.all(np.sign(slope[0, jnp.array([1, 0])]) == [-1, 1])  # the best rises, the worst fall
    np.testing.assert_allclose(slope[0, 0], slope[0, 3], rtol=1e-12)  # equally


# ---------------------------------------------------------------------------------------------- single losses


def test_rrhf_is_content_with_the_right_order() -> None:
    reward = draws(5, 4, seed=1)
    ranks = fn(losses.rrhf, weight=0.0)
    value, slope = on_lists(ranks, 0.3 * reward - 2, reward)
    assert float(value) == 0
    assert not np.any(slope)
    value, slope = on_lists(ranks, -reward, reward)
    gaps = jnp.abs(reward[:, :, None] - reward[:, None, :]).sum((1, 2)) / 2  # every pair is wrong by its gap
    np.testing.assert_allclose(value, gaps.mean(), rtol=1e-9)


def test_clha_margins_grow_with_the_places_between() -> None:
    ranks = fn(losses.clha, gamma=0.7, gap=0.5, weight=0.0)
    equal = jnp.zeros((1, 3))
    np.testing.assert_allclose(on_lists(ranks, equal, [[3.0, 1.0, 2.0]])[0], 0.7 * (1 + 1 + 2) / 3, rtol=1e-12)
    np.testing.assert_allclose(on_lists(ranks, equal, [[3.0, 1.0, 1.0]])[0], 0.7 * (1.5 + 1.5) / 2, rtol=1e-12)
    np.testing.assert_allclose(on_lists(ranks, equal, [[3.0, 1.0, 1.4]])[0], 0.7 * (1 + 2) / 2, rtol=1e-12)
    assert float(on_lists(ranks, equal, [[1.2, 1.0, 1.4]])[0]) == 0
    told = ranks.replace(weight=0.5)
    scores = draws(1, 3)
    for shift, counted in ((0.0, 1.0), (-5.0, 0.0)):
        rewards = jnp.array([[3.0, 1.0, 2.0]]) + shift
        more = on_lists(told, scores, rewards)[0] - on_lists(ranks, scores, rewards)[0]
        np.testing.assert_allclose(more, -counted * 0.5 * 4 * scores[0, 0], rtol=1e-9, atol=1e-12)


def test_knowpat_on_three() -> None:
    """The best has mu = 1 and two below it, the middle one mu = 1/4 and one below it; mu has no gradient."""
    scores, reward = jnp.array([[-0.5, -3.5, -4.5]]), jnp.array([[2.0, 1.0, 0.0]])
    value, slope = on_lists(fn(losses.knowpat, weight=2.0), scores, reward)
    up, down = -special.log_expit(scores[0]), -special.log_expit(-scores[0])  # to be likely, to be unlikely
    align = up[0] + (down[1] + down[2]) / 2 + (up[1] + down[2]) / 4
    np.testing.assert_allclose(value, 0.5 + 2 * align, rtol=1e-9)
    rise, fall = special.expit(-scores[0]), special.expit(scores[0])
    expected = [-1 - 2 * rise[0], 2 * (fall[1] / 2 - rise[1] / 4), 2 * (fall[2] / 2 + fall[2] / 4)]
    np.testing.assert_allclose(slope[0], expected, rtol=1e-9)


def test_pro_on_more_than_two() -> None:
    """The best competes at its largest gap: with the last out of reach (and nothing left for the second to beat), that
    is one pair of scores times gaps. Its likelihood grows by the square of how many it beat."""
    gaps, reward = np.array([2.5, 0.7]), jnp.array([[3.0, 2.3, 0.5]])  # to the last, and to the second
    scores = jnp.array([[-0.9, -2.2, -1e4]])
    value, _ = on_lists(fn(losses.pro, weight=0.0), scores, reward)
    expected = losses.dpo.per_pair(jnp.sum(scores[0, :2] * gaps * jnp.array([1, -1])), 1.0, beta=1.0)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    for n, times in ((2, 1), (3, 4), (5, 16)):
        score, grade = draws(3, n), draws(3, n, seed=1)
        with_it, without = (on_lists(fn(losses.pro, weight=w), score, grade)[0] for w in (0.3, 0.0))
        top = jnp.take_along_axis(score, jnp.argmax(grade, axis=1)[:, None], axis=1)
        np.testing.assert_allclose(with_it - without, -0.3 * times * top.mean(), rtol=1e-9)


def test_knowpat_trusts_what_the_policy_finds_likely() -> None:
    """Of two the likelier has mu = 1 and the other 0, and mu has no gradient."""
    for high, counted in ((-0.5, 1.0), (-3.0, 0.0)):
        value, slope = on_lists(fn(losses.knowpat, weight=2.0), [[high, -2.0]], FIRST[:1])
        align = -special.log_expit(high) - special.log_expit(2.0)
        np.testing.assert_allclose(value, -high + counted * 2 * align, rtol=1e-9)
        expected = [-1 - counted * 2 * special.expit(-high), counted * 2 * special.expit(-2.0)]
        np.testing.assert_allclose(slope[0], expected, rtol=1e-9)
    flat, _ = on_lists(fn(losses.knowpat, weight=2.0), [[-1.5, -1.5]], FIRST[:1])
    np.testing.assert_allclose(flat, 1.5, rtol=1e-12)


def test_stable_alignment_stops_at_its_margin() -> None:
    reward = jnp.array([[7.0, 1.0, 4.0]])
    anchor, _ = on_lists(fn(losses.stable_alignment, weight=0.0), [[-1.0, -3.0, -3.0]], reward)
    far, _ = on_lists(fn(losses.stable_alignment), [[-1.0, -3.0, -3.0]], reward)
    assert float(far) == float(anchor) == 1.0
    scores = jnp.array([[-1.0, -1.5, -1.2]])  # behind by 0.5 and 0.2, asked for 6/7 and 3/7
    mean, _ = on_lists(fn(losses.stable_alignment), scores, reward)
    most, _ = on_lists(fn(losses.stable_alignment, hardest=True), scores, reward)
    np.testing.assert_allclose(mean, 1 + 0.5 * ((6 / 7 - 0.5) + (3 / 7 - 0.2)) / 2, rtol=1e-9)
    np.testing.assert_allclose(most, 1 + 0.5 * (6 / 7 - 0.5), rtol=1e-9)


def test_act_passes_continuously_through_ties() -> None:
    scores = draws(1, 3)
    tie, near = (on_lists(fn(losses.act, weight=0.0), scores, [[1.0, 0.5, 0.5 + e]])[0] for e in (0.0, 1e-6))
    assert 0 < abs(float(tie - near)) < 1e-4
    whole, half = (on_lists(fn(losses.act, weight=0.0), scores[:, :2], [[rate, 0.0]])[0] for rate in (1.0, 0.5))
    np.testing.assert_allclose(whole, 2 * half, rtol=1e-12)
