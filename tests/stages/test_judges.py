"""Judges: p + p' = 1 to the last bit, antisymmetric under exchange; and their noise, counted."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from alignjax import stages
from alignjax.config import Fn, fn
from alignjax.pair_layout import all_pairs
from alignjax.stages.judge import probability
from alignjax.types import Array, Batch, Context, Key, with_metrics
from tests.support.tiny import as_jax, as_numpy, context, context_of, difference, model, parameters, ragged

NETWORK = model(outputs=("preference", "reward"), layers=1)
PARAMS = parameters(NETWORK)
BATCH = as_jax(ragged(n=3)).replace(preference=None)


@jax.jit  # the judge is an argument: one program for each kind and shape
def _asked(judge: Fn, params: Any, batch: Batch, key: Key) -> Array:
    here = Context() if params is None else context_of(NETWORK, judge=params)
    return with_metrics(judge(here, batch, key))[0]


def ask(judge: Fn, batch: Batch, seed: int = 0) -> np.ndarray:
    return np.asarray(_asked(judge, PARAMS, batch, jax.random.key(seed)))


def known(context: Context, batch: Batch, key: Key) -> Array:
    """A judge that reads its answer off the batch."""
    return batch.completions["truth"][..., 0]


def exactly_complementary(p: np.ndarray) -> bool:
    return bool(np.all(p + np.swapaxes(p, 1, 2) == 1))


JUDGES = [fn(stages.preference_model, role="judge", separator=3), fn(stages.reward_difference, role="judge")]
judges = pytest.mark.parametrize("judge", JUDGES, ids=lambda judge: judge.name)


@judges
def test_probabilities_of_a_pair_add_up_to_1_exactly(judge: Fn) -> None:
    p = ask(judge, BATCH)
    assert p.shape == (4, 3, 3)
    assert exactly_complementary(p)
    np.testing.assert_array_equal(np.diagonal(p, axis1=1, axis2=2), 0.5)
    assert np.abs(p - 0.5).max() > 0.05


def test_exchanged_completions_give_the_transposed_matrix_exactly() -> None:
    pair = BATCH.pick(jnp.tile(jnp.array([0, 2]), (4, 1)))
    p = ask(JUDGES[0], pair)
    moved = ask(JUDGES[0], pair.pick(jnp.tile(jnp.array([1, 0]), (4, 1))))
    np.testing.assert_array_equal(moved, np.swapaxes(p, 1, 2))


@judges
def test_the_order_of_a_group_permutes_the_matrix(judge: Fn) -> None:
    """To a rounding only: a row of a matrix product may depend in the last bit on where in the matrix it stands."""
    order = np.array([2, 0, 1])
    moved = ask(judge, BATCH.pick(jnp.tile(order, (4, 1))))
    np.testing.assert_allclose(moved, ask(judge, BATCH)[:, order][:, :, order], atol=1e-6)


def test_every_logit_has_a_complement() -> None:
    """Float32's own logistic function misses it by a rounding now and then."""
    logit = jnp.asarray(np.random.default_rng(0).normal(0, 5, 20_000), jnp.float32)
    logit = jnp.concatenate([logit, jnp.array([0.0, 1e-30, 88.0, 1e4, jnp.inf])])
    assert bool(jnp.all(probability(logit) + probability(-logit) == 1))
    np.testing.assert_allclose(probability(logit), jax.nn.sigmoid(logit), rtol=1e-5, atol=1e-7)
    assert not bool(jnp.all(jax.nn.sigmoid(logit) + jax.nn.sigmoid(-logit) == 1))


@judges
def test_padding_does_not_change_a_judgement(judge: Fn) -> None:
    grow = lambda leaf: jnp.pad(leaf, [(0, 0), (0, 0), (0, 3)])  # noqa: E731
    padded = BATCH.replace(tokens=grow(BATCH.tokens) + 1 - grow(jnp.ones_like(BATCH.tokens)), valid=grow(BATCH.valid))
    np.testing.assert_allclose(ask(judge, padded), ask(judge, BATCH), atol=1e-6)


def test_a_preference_model_may_be_intransitive_and_a_reward_may_not() -> None:
    logit = lambda p: np.log(np.asarray(p)) - np.log1p(-np.asarray(p))  # noqa: E731

    def cycle(judge: Fn) -> float:
        l = logit(ask(judge, BATCH))  # noqa: E741
        return float(np.abs(l[:, 0, 1] + l[:, 1, 2] + l[:, 2, 0]).max())

    assert cycle(JUDGES[1]) < 1e-5
    assert cycle(JUDGES[0]) > 1e-2


def many(p: float, rows: int = 3000) -> Batch:
    matrix = np.full((3, 3), 0.5, np.float32)
    matrix[np.triu_indices(3, 1)], matrix[np.tril_indices(3, -1)] = np.float32(p), 1 - np.float32(p)
    truth = np.broadcast_to(matrix[..., None], (rows, 3, 3, 1))
    return Batch(
        prompt=np.zeros((rows, 1), np.int32), tokens=np.zeros((rows, 3, 1), np.int32), completions={"truth": truth},
        example_id=np.arange(rows, dtype=np.int32),
    )  # fmt: skip


def plain_ask(judge: Fn, batch: Batch, seed: int = 0) -> np.ndarray:
    return np.asarray(_asked(judge, None, batch, jax.random.key(seed)))


def test_bernoulli_draws_labels_at_their_probability() -> None:
    batch = many(0.3)
    p = plain_ask(fn(stages.bernoulli, judge=fn(known)), batch)
    assert exactly_complementary(p)
    labels = np.asarray(p)[:, [0, 0, 1], [1, 2, 2]]
    assert set(np.unique(labels)) == {0.0, 1.0}
    assert stats.binomtest(int(labels.sum()), labels.size, 0.3).pvalue > 1e-3
    assert abs(np.corrcoef(labels.T)[0, 1]) < 0.08  # pairs of a prompt are drawn apart
    certain = plain_ask(fn(stages.bernoulli, judge=fn(known)), many(1.0, 50))
    np.testing.assert_array_equal(np.asarray(certain)[:, 0, 1], 1.0)


def test_flipped_labels_are_wrong_at_their_rate() -> None:
    batch = many(0.9)
    p = plain_ask(fn(stages.flipped, judge=fn(known), epsilon=0.2), batch)
    labels = np.asarray(p)[:, 0, 1]
    assert stats.binomtest(int((labels < 0.5).sum()), labels.size, 0.2).pvalue > 1e-3
    np.testing.assert_allclose(np.unique(labels), [0.1, 0.9], rtol=1e-5)
    never = plain_ask(fn(stages.flipped, judge=fn(known), epsilon=0.0), batch)
    np.testing.assert_allclose(never, batch.completions["truth"][..., 0], rtol=1e-6)


NOISY = [fn(stages.bernoulli, judge=fn(known)), fn(stages.flipped, judge=fn(known), epsilon=0.3)]


@pytest.mark.parametrize("judge", NOISY, ids=lambda judge: judge.name)
def test_noise_depends_on_neither_the_batch_nor_its_order(judge: Fn) -> None:
    batch = many(0.4, 64)
    order = np.random.default_rng(1).permutation(64)[:20]
    np.testing.assert_array_equal(plain_ask(judge, batch.take(order)), plain_ask(judge, batch)[order])
    assert np.any(plain_ask(judge, batch) != plain_ask(judge, batch, seed=1))


@jax.jit
def _spent(stage: Fn, step: Any, batch: Batch, key: Key) -> Batch:
    return stage(context({}, {}, step=step), batch, key)


def spend(batch: Batch, step: int, **budget: Any) -> Batch:
    return as_numpy(_spent(fn(stages.query_budget, **budget), np.int32(step), batch, jax.random.key(step)))


def test_query_budget_keeps_that_many_labels() -> None:
    batch = ragged(rows=4, n=3)
    spent = spend(batch, 0, per_iteration=5)
    weight = np.asarray(spent.pair_weight)
    assert np.array_equal(weight, weight.swapaxes(1, 2))
    upper = np.array([weight[:, i, j] for i, j in all_pairs(3)])
    assert upper.sum() == 5
    assert set(np.unique(weight)) == {0.0, 1.0}
    assert not np.any(np.diagonal(weight, axis1=1, axis2=2))
    np.testing.assert_array_equal(spent.preference, batch.preference)
    assert float(spend(batch, 0, per_iteration=500).pair_weight.sum()) == 2 * 12
    one = np.zeros((4, 3, 3), np.float32)
    one[0, 0, 1] = 1
    labelled = batch.replace(pair_weight=one)
    assert float(spend(labelled, 0, per_iteration=500).pair_weight.sum()) == 1  # what was never labelled stays so


def test_query_budget_ends_at_its_total_and_chooses_evenly() -> None:
    batch = ragged(rows=4, n=3)
    counts = [float(spend(batch, step, per_iteration=5, total=12).pair_weight.sum()) / 2 for step in range(5)]
    assert counts == [5, 5, 2, 0, 0]
    chosen = sum(np.asarray(spend(batch, step, per_iteration=3).pair_weight) for step in range(40))
    upper = np.array([chosen[:, i, j] for i, j in all_pairs(3)]).reshape(-1)
    assert stats.chisquare(upper).pvalue > 1e-3


def test_prefer_fills_the_matrix_and_says_how_sure_it_was() -> None:
    batch = many(0.8, 5)
    filled, metrics = stages.prefer(context({}, {}), batch, jax.random.key(0), judge=fn(known))
    np.testing.assert_array_equal(filled.preference, batch.completions["truth"][..., 0])
    assert float(metrics["judge_confidence"].value()) == pytest.approx(0.8)


def test_prefer_first_labels_the_human_text_against_what_differs() -> None:
    batch = as_jax(ragged(rows=4, n=3))
    same = jnp.where(batch.valid[1, 0], batch.tokens[1, 0], 19)
    copied = batch.replace(tokens=batch.tokens.at[1, 2].set(same), valid=batch.valid.at[1, 2].set(batch.valid[1, 0]))
    labelled = stages.prefer_first(Context(), copied, jax.random.key(0))
    assert exactly_complementary(labelled.preference)
    np.testing.assert_array_equal(labelled.preference[:, 0, 1:], 1.0)
    expected = np.zeros((4, 3, 3))
    expected[:, 0, 1:] = expected[:, 1:, 0] = 1
    expected[1, 0, 2] = expected[1, 2, 0] = 0  # word for word the same, whatever stands in the padding
    np.testing.assert_array_equal(labelled.pair_weight, expected)


def test_rewards_and_values_are_their_heads_numbers() -> None:
    values = model(outputs=("value", "reward"), layers=1)
    params = parameters(values)
    key = jax.random.key(0)

    @jax.jit
    def run(params: Any) -> tuple[Any, ...]:
        now = context_of(values, reward=params, critic=params)
        filled = [stages.reward(now, BATCH, key)[0], stages.values(now, BATCH, key)]
        filled.append(stages.logprobs(now, BATCH, key, role="critic"))
        return *filled, now.score(("reward:reward", "critic:value", "critic"), BATCH)

    rewarded, valued, scored, numbers = run(params)
    tokens = numbers["reward:reward"]
    last = np.asarray(BATCH.valid).sum(-1) - 1
    expected = np.take_along_axis(np.asarray(tokens), last[..., None], -1)[..., 0]
    np.testing.assert_allclose(rewarded.reward, expected, rtol=1e-5, atol=1e-6)
    assert difference(numbers["critic:value"], valued.completions["values"]) < 1e-6
    assert difference(numbers["critic"], scored.logps["critic"]) < 1e-6
    assert set(scored.logps) == {"reference", "critic"}
