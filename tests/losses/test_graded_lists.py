"""Properties that every loss on graded lists has: places mean nothing, equal rewards are not compared, extremes are
finite, who takes no part changes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from alignjax import losses
from alignjax.config import ConfigError, fn
from alignjax.types import Array
from tests.support.graded_lists import (
    FIRST,
    LOSSES,
    SCORES,
    assert_same,
    draws,
    evaluated,
    every,
    list_batch,
    on_lists,
)
from tests.support.tiny import all_finite, measure, ragged, standin

pytestmark = pytest.mark.usefixtures("float64")


@every
@pytest.mark.parametrize("ties", [False, True])
def test_the_place_in_the_list_means_nothing(name: str, ties: bool) -> None:
    scores, reward = draws(6, 5), np.abs(draws(6, 5, seed=1)) * 3
    if ties:
        reward, scores = np.round(reward), np.round(scores)
    value, slope = on_lists(LOSSES[name], scores, reward)
    assert float(np.abs(slope).max()) > 1e-3
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(5)
        other, other_slope = on_lists(LOSSES[name], scores[:, order], reward[:, order])
        np.testing.assert_allclose(other, value, rtol=1e-9)
        if not (ties and name.startswith(("rrhf", "clha", "knowpat", "stable"))):  # kinks: a subgradient by position
            np.testing.assert_allclose(other_slope, slope[:, order], rtol=1e-9, atol=1e-12)


@every
def test_a_constant_added_to_all_rewards(name: str) -> None:
    """Changes nothing, except that gains 2^r are doubled by 1, and that softmax targets are weights."""
    scores, reward = draws(6, 5), np.abs(draws(6, 5, seed=1))
    value, slope = on_lists(LOSSES[name], scores, reward)
    other, other_slope = on_lists(LOSSES[name], scores, reward + 1)
    if name == "lipo_softmax":
        uniform, uniform_slope = on_lists(LOSSES[name], scores, np.ones_like(reward))
        assert_same((other, other_slope), (value + uniform, slope + uniform_slope))
    else:
        factor = 2 if name == "lipo" else 1
        assert_same((other, other_slope), (factor * value, factor * slope))


@every
def test_equal_rewards_are_not_compared(name: str) -> None:
    """On a list of ties nothing is left but the likelihood of the best, which all of them share."""
    scores = draws(4, 3)
    _, slope = on_lists(LOSSES[name], scores, np.full((4, 3), 2.0))
    if name == "lipo_softmax":
        np.testing.assert_allclose(slope.sum(-1), 0, atol=1e-12)  # equal targets, which are a comparison
    else:
        assert float(np.ptp(slope)) < 1e-12
        anchored = {"pro", "pro_unit", "rrhf", "clha", "knowpat", "stable_alignment", "stable_alignment_hardest", "act"}
        assert (float(np.abs(slope).max()) > 1e-3) == (name in anchored)


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
    batch = ragged(rows=5, n=3).replace(reward=np.abs(draws(5, 3, seed=1)).astype(np.float32))
    mask = np.where(batch.mask.sum(-1, keepdims=True) > 0, batch.mask, batch.valid).astype(np.float32)
    mask[0, 1], mask[3] = 0, 0
    batch = batch.replace(mask=mask)
    logps = -np.abs(draws(*batch.tokens.shape)).astype(np.float32)
    value, slope = evaluated(LOSSES[name], np.where(mask == 0, np.float32(np.nan), logps), batch)
    assert all_finite((value, slope))
    assert not np.any(np.where(mask == 0, slope, 0))
    others = np.array([0, 1, 2, 4])
    rest, _ = evaluated(LOSSES[name], logps[others], jax.tree.map(lambda leaf: leaf[others], batch))
    np.testing.assert_allclose(value, rest, rtol=1e-6)


@every
def test_who_takes_no_part_might_as_well_not_be_in_the_list(name: str) -> None:
    """Lists of four without one, which has no tokens or was not judged, are lists of three, in value, gradient and
    metrics; its reward may be NaN."""
    scores, reward = draws(5, 4), 3 * np.abs(draws(5, 4, seed=1))
    rows, gone = np.arange(5), np.array([2, 0, 3, 1, 1])
    others = np.array([[number for number in range(4) if number != out] for out in gone])
    is_gone = np.arange(4) == gone[:, None]
    logps, batch = list_batch(scores, np.where(is_gone, np.nan, reward))
    mask = np.where(is_gone[..., None] & (rows < 2)[:, None, None], 0, batch.mask)
    weight = np.where(is_gone & (rows >= 2)[:, None], 0, 1 / 3)
    batch = batch.replace(mask=mask, completions={"weight": weight})
    value, slope = evaluated(LOSSES[name], logps, batch)
    smaller = list_batch(*(np.take_along_axis(leaf, others, axis=1) for leaf in (scores, reward)))
    expected, expected_slope = evaluated(LOSSES[name], *smaller)
    assert_same((value, np.take_along_axis(slope, others[..., None], axis=1)), (expected, expected_slope))
    assert not np.any(slope[rows, gone])
    metrics, expected = (measure(LOSSES[name], b, policy=x) for x, b in ((logps, batch), smaller))
    for key in expected:
        np.testing.assert_allclose(metrics[key][0], expected[key][0], rtol=1e-9, err_msg=key)


def test_metrics_agree_with_rank_correlation() -> None:
    scores, reward = draws(7, 5), draws(7, 5, seed=1)
    logps, batch = list_batch(scores, reward)
    metrics = measure(losses.plackett_luce, batch, policy=logps)
    tau = [stats.kendalltau(s, r).statistic for s, r in zip(scores, reward, strict=True)]
    value = {name: metric[0] for name, metric in metrics.items()}
    np.testing.assert_allclose(value["kendall"], np.mean(tau), rtol=1e-9)
    np.testing.assert_allclose(value["accuracy"], (1 + np.mean(tau)) / 2, rtol=1e-9)
    top = np.argmax(reward, axis=1)
    np.testing.assert_allclose(value["best_hit"], np.mean(np.argmax(scores, axis=1) == top))
    np.testing.assert_allclose(value["chosen_logps"], np.mean(np.asarray(scores)[np.arange(7), top]))
    ties = measure(losses.plackett_luce, batch.replace(reward=np.zeros((7, 5))), policy=logps)
    assert [ties[name][1] for name in ("kendall", "accuracy", "best_hit")] == [0, 0, 0]


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
