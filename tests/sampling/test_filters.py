"""Truncations against their definitions by brute force, and the draw against the distribution."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from alignjax.sampling import Filters, draw, min_p, temper, top_k, top_p

LOGITS = jnp.asarray(np.random.default_rng(0).normal(0, 2, (40, 13)), jnp.float32)


def kept(logits: jax.Array) -> list[set[int]]:
    probability = np.asarray(jax.nn.softmax(logits))
    return [set(np.flatnonzero(row).tolist()) for row in probability]


def by_probability() -> list[list[tuple[float, int]]]:
    probability = np.asarray(jax.nn.softmax(LOGITS.astype(float)))
    return [sorted(((float(p), token) for token, p in enumerate(row)), reverse=True) for row in probability]


@pytest.mark.parametrize("k", [1, 4, 13, 50])
def test_top_k_keeps_the_k_likeliest(k: int) -> None:
    assert kept(top_k(LOGITS, k)) == [{token for _, token in row[:k]} for row in by_probability()]


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.8, 0.99])
def test_top_p_keeps_the_smallest_set_that_reaches_p(p: float) -> None:
    def smallest(row: list[tuple[float, int]]) -> set[int]:
        return next(
            {token for _, token in row[:size]} for size in range(1, 14) if sum(q for q, _ in row[:size]) >= p - 1e-9
        )

    assert kept(top_p(LOGITS, p)) == [smallest(row) for row in by_probability()]


@pytest.mark.parametrize("p", [0.05, 0.5, 1.0])
def test_min_p_keeps_what_is_likely_enough(p: float) -> None:
    assert kept(min_p(LOGITS, p)) == [{token for q, token in row if q >= p * row[0][0]} for row in by_probability()]


def test_filters_that_keep_everything() -> None:
    everything = Filters(1.0, top_k=13, top_p=1.0, min_p=0.0)(LOGITS)
    np.testing.assert_array_equal(everything, LOGITS)
    np.testing.assert_array_equal(Filters()(LOGITS), LOGITS)
    np.testing.assert_array_equal(Filters(top_k=-1)(LOGITS), LOGITS)


def test_each_filter_works_on_what_the_one_before_left() -> None:
    """Temperature first: hot enough, nothing is ruled out by min-p that was before. Then top-k, whose survivors are
    renormalised before top-p."""
    hot = Filters(temperature=1e3, min_p=0.5)(LOGITS)
    assert all(len(row) == 13 for row in kept(hot))
    logits = jnp.log(jnp.array([[0.4, 0.3, 0.2, 0.1]]))
    assert kept(Filters(top_p=0.5)(logits)) == [{0, 1}]
    assert kept(Filters(top_k=2, top_p=0.5)(logits)) == [{0}]  # 0.4 / 0.7 reaches one half


def test_temperature() -> None:
    probability = jax.nn.softmax(LOGITS)
    squared = probability**2 / jnp.sum(probability**2, -1, keepdims=True)
    np.testing.assert_allclose(jax.nn.softmax(temper(LOGITS, 0.5)), squared, rtol=1e-4)
    greedy = jax.nn.softmax(temper(LOGITS, 0.0))
    np.testing.assert_array_equal(greedy.argmax(-1), LOGITS.argmax(-1))
    np.testing.assert_array_equal(greedy.max(-1), 1)


@pytest.mark.parametrize("vocab", [2, 7, 16, 61])
def test_draws_follow_the_distribution(vocab: int) -> None:
    logits = jnp.asarray(np.random.default_rng(vocab).normal(0, 1.5, vocab), jnp.float32)
    count = 20_000
    uniform = jax.random.uniform(jax.random.key(vocab), (count,))
    token, logp = jax.jit(draw)(jnp.broadcast_to(logits, (count, vocab)), uniform)
    expected = np.asarray(jax.nn.softmax(logits), np.float64)
    seen = np.bincount(np.asarray(token), minlength=vocab)
    assert len(seen) == vocab
    assert stats.chisquare(seen, expected / expected.sum() * count).pvalue > 1e-3
    np.testing.assert_allclose(logp, jax.nn.log_softmax(logits)[token], atol=2e-6)


def test_draws_invert_the_distribution_function() -> None:
    """A uniform number u gives the token whose interval of the running sum holds u."""
    logits = LOGITS[0]
    sums = np.cumsum(np.asarray(jax.nn.softmax(logits), np.float64))
    uniform = np.linspace(0.001, 0.999, 997)
    clear = np.abs(uniform[:, None] - sums).min(-1) > 1e-5
    token, _ = jax.jit(draw)(jnp.broadcast_to(logits, (997, 13)), jnp.asarray(uniform, jnp.float32))
    np.testing.assert_array_equal(np.asarray(token)[clear], np.searchsorted(sums, uniform)[clear])


def test_tokens_of_probability_zero_are_never_drawn() -> None:
    """At the ends of [0, 1) too, wherever the possible tokens stand in their block."""
    uniform = jnp.array([0.0, 1e-30, 0.5, 1 - 2**-24])
    drawn = jax.jit(draw)
    for vocab in (13, 16):
        possible = [[0], [vocab - 1], [5], [3, 4], [0, vocab - 1], [7, 8, 9]]
        for tokens in possible:
            logits = jnp.full((4, vocab), -1e30).at[:, jnp.array(tokens)].set(1.0)
            token, logp = drawn(logits, uniform)
            assert set(np.asarray(token).tolist()) <= set(tokens)
            np.testing.assert_allclose(logp, -np.log(len(tokens)), atol=1e-6)


def test_a_long_thin_tail_is_drawn_only_from_where_it_is() -> None:
    """Rounding of running sums over a large vocabulary leaves no draw outside the support."""
    vocab = 4099
    logits = jnp.where(jnp.arange(vocab) % 3 == 1, jnp.linspace(-9, 0, vocab), -1e30)
    uniform = jnp.concatenate([jnp.linspace(0, 1 - 2**-24, 3000), jnp.full(8, 1 - 2**-24)])
    token, logp = jax.jit(draw)(jnp.broadcast_to(logits, (len(uniform), vocab)), uniform)
    assert set((np.asarray(token) % 3).tolist()) == {1}
    assert float(logp.min()) > -30
