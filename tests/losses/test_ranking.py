"""Identities of the losses on graded lists: what they reduce to, what they are the logarithm of, what they ignore."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special, stats

from alignjax import losses
from alignjax.config import ConfigError, fn
from alignjax.losses.decorators.listwise import beats, mean_rank
from alignjax.types import Array, Batch
from tests.support.tiny import all_finite, as_jax, ragged, standin

pytestmark = pytest.mark.usefixtures("float64")

# Each with what keeps its terms alive on lists of a few nats; weight=0 leaves the comparisons alone.
LOSSES: dict[str, Any] = {
    "plackett_luce": fn(losses.plackett_luce, beta=0.7),
    "lipo": fn(losses.lipo, beta=0.7),
    "lipo_pairwise": fn(losses.lipo, objective=fn(losses.pairwise_logistic)),
    "lipo_softmax": fn(losses.lipo, objective=fn(losses.softmax_listwise)),
    "pro_unit": fn(losses.pro, temperatures=False),
    "clha": fn(losses.clha, gamma=0.5, gap=0.1),
    "stable_alignment_hardest": fn(losses.stable_alignment, hardest=True),
    **{name: fn(getattr(losses, name)) for name in ("pro", "rrhf", "knowpat", "stable_alignment", "act")},
}
every = pytest.mark.parametrize("name", LOSSES)


def draws(*shape: int, seed: int = 0) -> Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def list_batch(scores: Any, reward: Any) -> tuple[Array, Batch]:
    """Policy log-probs [B,N,1] that are `scores`, and a batch of one-token completions with a reference of 0."""
    scores = jnp.asarray(scores, float)
    on = jnp.ones((*scores.shape, 1), bool)
    batch = Batch(
        tokens=jnp.zeros(on.shape, jnp.int32), valid=on, mask=on.astype(float), reward=jnp.asarray(reward, float),
        logps={"reference": jnp.zeros(on.shape)},
    )  # fmt: skip
    return scores[..., None], batch


def evaluated(loss: Any, scores: Any, batch: Batch) -> tuple[Array, Array]:
    """Value and gradient by log-probs."""
    return jax.value_and_grad(lambda x: loss(standin(policy=x), batch)[0].value())(scores)


def on_lists(loss: Any, scores: Any, reward: Any) -> tuple[Array, Array]:
    logps, batch = list_batch(scores, reward)
    value, slope = evaluated(loss, logps, batch)
    return value, slope[..., 0]


def pairs_of(scores: Any) -> tuple[Array, Batch]:
    """The same as pairs in which the first is preferred."""
    logps, batch = list_batch(scores, jnp.zeros(jnp.shape(scores)))
    return logps, batch.replace(preference=jnp.broadcast_to(jnp.array([[0.5, 1], [0, 0.5]]), (len(logps), 2, 2)))


def assert_same(one: Any, other: Any) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


# ----------------------------------------------------------------------------------------------- two completions

SCORES, FIRST = 2 * np.random.default_rng(0).normal(size=(6, 2)), np.tile([1.0, 0.0], (6, 1))
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


# --------------------------------------------------------------------------------------------------- of all losses


@every
@pytest.mark.parametrize("ties", [False, True])
def test_the_place_in_the_list_means_nothing(name: str, ties: bool) -> None:
    scores, reward = draws(6, 5), jnp.abs(draws(6, 5, seed=1)) * 3
    if ties:
        reward, scores = jnp.round(reward), jnp.round(scores)
    value, slope = on_lists(LOSSES[name], scores, reward)
    assert float(jnp.abs(slope).max()) > 1e-3
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(5)
        other, other_slope = on_lists(LOSSES[name], scores[:, order], reward[:, order])
        np.testing.assert_allclose(other, value, rtol=1e-9)
        if not (ties and name.startswith(("rrhf", "clha", "knowpat", "stable"))):  # kinks: a subgradient by position
            np.testing.assert_allclose(other_slope, slope[:, order], rtol=1e-9, atol=1e-12)


@every
def test_a_constant_added_to_all_rewards(name: str) -> None:
    """Changes nothing, except that gains 2^r are doubled by 1, and that softmax targets are weights."""
    scores, reward = draws(6, 5), jnp.abs(draws(6, 5, seed=1))
    value, slope = on_lists(LOSSES[name], scores, reward)
    other, other_slope = on_lists(LOSSES[name], scores, reward + 1)
    if name == "lipo_softmax":
        uniform, uniform_slope = on_lists(LOSSES[name], scores, jnp.ones_like(reward))
        assert_same((other, other_slope), (value + uniform, slope + uniform_slope))
    else:
        factor = 2 if name == "lipo" else 1
        assert_same((other, other_slope), (factor * value, factor * slope))


@every
def test_equal_rewards_are_not_compared(name: str) -> None:
    """On a list of ties nothing is left but the likelihood of the best, which all of them share."""
    scores = draws(4, 3)
    _, slope = on_lists(LOSSES[name], scores, jnp.full((4, 3), 2.0))
    if name == "lipo_softmax":
        np.testing.assert_allclose(slope.sum(-1), 0, atol=1e-12)  # equal targets, which are a comparison
    else:
        assert float(jnp.ptp(slope)) < 1e-12
        anchored = {"pro", "pro_unit", "rrhf", "clha", "knowpat", "stable_alignment", "stable_alignment_hardest", "act"}
        assert (float(jnp.abs(slope).max()) > 1e-3) == (name in anchored)


@pytest.mark.slow
@every
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_extremes_are_finite(name: str, dtype: str) -> None:
    values = [-1e4, -1.0, 0.0, 1e4]
    scores = jnp.array([*itertools.permutations(values), [-1e4] * 4, [0.0] * 4])
    for size in (1.0, 1e4):
        reward = jnp.broadcast_to(size * jnp.array([1.0, 0.0, 0.5, 0.5]), scores.shape)
        logps, batch = list_batch(scores, reward)
        cast = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == float else x, (logps, batch))
        value, slope = evaluated(LOSSES[name], *cast)
        assert all_finite((value, slope))
        assert value.dtype == jnp.float32


@every
def test_empty_completions_and_lists(name: str) -> None:
    """A list of which nothing counts is left out; an empty completion has no gradient, whatever its padding holds."""
    batch = as_jax(ragged(rows=5, n=3)).replace(reward=jnp.abs(draws(5, 3, seed=1)).astype(jnp.float32))
    mask = jnp.where(batch.mask.sum(-1, keepdims=True) > 0, batch.mask, batch.valid).at[0, 1].set(0).at[3].set(0)
    batch = batch.replace(mask=mask.astype(jnp.float32))
    logps = -jnp.abs(draws(*batch.tokens.shape)).astype(jnp.float32)
    value, slope = evaluated(LOSSES[name], jnp.where(mask == 0, jnp.nan, logps), batch)
    assert all_finite((value, slope))
    assert not np.any(np.where(mask == 0, slope, 0))
    others = jnp.array([0, 1, 2, 4])
    rest, _ = evaluated(LOSSES[name], logps[others], batch.take(others))
    np.testing.assert_allclose(value, rest, rtol=1e-6)


@every
def test_who_takes_no_part_might_as_well_not_be_in_the_list(name: str) -> None:
    """Lists of four without one, which has no tokens or was not judged, are lists of three, in value, gradient and
    metrics; its reward may be NaN."""
    scores, reward = draws(5, 4), 3 * jnp.abs(draws(5, 4, seed=1))
    rows, gone = jnp.arange(5), jnp.array([2, 0, 3, 1, 1])
    others = jnp.array([[number for number in range(4) if number != out] for out in gone])
    logps, batch = list_batch(scores, reward.at[rows, gone].set(jnp.nan))
    mask = batch.mask.at[rows[:2], gone[:2]].set(0)
    batch = batch.replace(mask=mask, completions={"weight": jnp.full((5, 4), 1 / 3).at[rows[2:], gone[2:]].set(0)})
    value, slope = evaluated(LOSSES[name], logps, batch)
    smaller = list_batch(*(jnp.take_along_axis(leaf, others, axis=1) for leaf in (scores, reward)))
    expected, expected_slope = evaluated(LOSSES[name], *smaller)
    assert_same((value, jnp.take_along_axis(slope, others[..., None], axis=1)), (expected, expected_slope))
    assert not np.any(slope[rows, gone])
    metrics, expected = (LOSSES[name](standin(policy=x), b)[1] for x, b in ((logps, batch), smaller))
    for key in expected:
        np.testing.assert_allclose(metrics[key].value(), expected[key].value(), rtol=1e-9, err_msg=key)


def test_metrics_agree_with_rank_correlation() -> None:
    scores, reward = draws(7, 5), draws(7, 5, seed=1)
    logps, batch = list_batch(scores, reward)
    _, metrics = losses.plackett_luce(standin(policy=logps), batch)
    tau = [stats.kendalltau(s, r).statistic for s, r in zip(scores, reward, strict=True)]
    value = jax.tree.map(float, {name: metric.value() for name, metric in metrics.items()})
    np.testing.assert_allclose(value["kendall"], np.mean(tau), rtol=1e-9)
    np.testing.assert_allclose(value["accuracy"], (1 + np.mean(tau)) / 2, rtol=1e-9)
    top = np.argmax(reward, axis=1)
    np.testing.assert_allclose(value["best_hit"], np.mean(np.argmax(scores, axis=1) == top))
    np.testing.assert_allclose(value["chosen_logps"], np.mean(np.asarray(scores)[np.arange(7), top]))
    ties = losses.plackett_luce(standin(policy=logps), batch.replace(reward=jnp.zeros((7, 5))))[1]
    assert [float(ties[name].weight) for name in ("kendall", "accuracy", "best_hit")] == [0, 0, 0]


def test_what_is_missing_is_said() -> None:
    logps, batch = list_batch(SCORES, FIRST)
    with pytest.raises(ConfigError, match=r"needs batch\.reward"):
        losses.rrhf(standin(policy=logps), batch.replace(reward=None))

    def odd(margin: Array) -> Array:
        return margin

    with pytest.raises(ConfigError, match="odd asks for margin; a list has ratio"):
        losses.listwise(odd)


def test_a_list_loss_of_ones_own() -> None:
    """The decorator on new maths: what is asked for arrives, and defaults may be changed."""

    @losses.listwise(reference=None)
    def spread(logps: Array, length: Array, reward: Array, *, power: float = 2.0) -> Array:
        return jnp.sum(reward * length * jnp.abs(logps) ** power, axis=-1)

    logps, batch = list_batch(SCORES, FIRST)
    made: Callable[..., Any] = fn(spread)
    np.testing.assert_allclose(made(standin(policy=logps), batch)[0].value(), np.mean(SCORES[:, 0] ** 2))
    assert set(fn(spread).kwargs) == {"power", "role", "reference", "normalize"}
