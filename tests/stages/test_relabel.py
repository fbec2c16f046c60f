"""Stages that turn judged samples into what families of losses read."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import stages
from alignjax.config import ConfigError
from alignjax.types import Batch, Context, with_metrics
from tests.support.tiny import as_jax, ragged

N = 4
BATCH = as_jax(ragged(n=N, rows=5))
KEY = jax.random.key(0)


def relabelled(stage: Callable[..., Batch], batch: Batch, **hyper: float) -> Batch:
    return with_metrics(stage(Context(), batch, KEY, **hyper))[0]


def of_scores(scores: np.ndarray) -> Batch:
    """Preferences of a Bradley-Terry judge with these scores [B,N]."""
    gap = jnp.asarray(scores[:, :, None] - scores[:, None, :])
    return BATCH.replace(preference=jax.nn.sigmoid(gap))


def test_win_rates_order_completions_as_a_transitive_judge_does() -> None:
    scores = np.random.default_rng(0).normal(size=(5, N))
    reward = relabelled(stages.win_rate_against, of_scores(scores)).reward
    assert reward is not None
    np.testing.assert_array_equal(np.argsort(reward, axis=1), np.argsort(scores, axis=1))
    np.testing.assert_allclose(np.mean(reward, axis=1), 0.5, rtol=1e-6)  # what one wins the other loses


def test_two_completions_are_rated_by_their_one_pair() -> None:
    pair = BATCH.pick(jnp.tile(jnp.array([2, 0]), (5, 1)))
    reward = relabelled(stages.win_rate_against, pair).reward
    assert reward is not None
    assert pair.preference is not None
    np.testing.assert_array_equal(reward[:, 0], pair.preference[:, 0, 1])


def test_win_rates_follow_completions_that_change_places() -> None:
    order = jnp.array([2, 0, 3, 1])
    reward = relabelled(stages.win_rate_against, BATCH).reward
    moved = relabelled(stages.win_rate_against, BATCH.pick(jnp.tile(order, (5, 1)))).reward
    assert reward is not None
    np.testing.assert_allclose(moved, reward[:, order], rtol=1e-6)


def test_pairs_that_nobody_labelled_do_not_count() -> None:
    """A human text that beats all has won everything, and the others, compared with it alone, nothing."""
    labelled = relabelled(stages.prefer_first, BATCH)
    assert labelled.preference is not None
    assert labelled.pair_weight is not None
    unasked = labelled.replace(preference=jnp.where(labelled.pair_weight > 0, labelled.preference, jnp.nan))
    reward = relabelled(stages.win_rate_against, unasked).reward
    np.testing.assert_array_equal(reward, np.tile([1.0, 0, 0, 0], (5, 1)))
    marked_once = unasked.replace(pair_weight=jnp.triu(labelled.pair_weight))  # as sources of pairs mark them
    np.testing.assert_array_equal(relabelled(stages.win_rate_against, marked_once).reward, reward)
    nobody = unasked.replace(pair_weight=jnp.zeros_like(labelled.pair_weight))
    np.testing.assert_array_equal(relabelled(stages.win_rate_against, nobody).reward, 0.5)


def test_thumbs_are_up_above_the_threshold_and_counted() -> None:
    rewards = jnp.tile(jnp.array([0.2, 0.5, 0.6, 0.9]), (5, 1))
    for threshold, up in ((0.5, [0, 0, 1, 1]), (0.1, [1, 1, 1, 1]), (0.9, [0, 0, 0, 0])):
        found, metrics = stages.thumbs(Context(), BATCH.replace(reward=rewards), KEY, threshold=threshold)
        np.testing.assert_array_equal(found.reward, np.tile(up, (5, 1)))
        assert float(metrics["thumbs_up"].value()) == np.mean(up)


def test_verdicts_are_certain_consistent_and_keep_what_was_undecided() -> None:
    assert BATCH.preference is not None
    found = relabelled(stages.verdict, BATCH).preference
    assert found is not None
    np.testing.assert_array_equal(found + found.swapaxes(1, 2), 1)
    np.testing.assert_array_equal(found == 0.5, BATCH.preference == 0.5)
    np.testing.assert_array_equal(found > 0.5, BATCH.preference > 0.5)
    assert set(np.unique(found)) == {0, 0.5, 1}


def test_worst_first_moves_whole_completions() -> None:
    reward = jnp.asarray(np.random.default_rng(1).permuted(np.tile(np.arange(4.0), (5, 1)), axis=1))
    found = relabelled(stages.worst_first, BATCH.replace(reward=reward))
    np.testing.assert_array_equal(found.reward, np.tile(np.arange(4), (5, 1)))
    assert found.tokens is not None
    assert BATCH.tokens is not None
    for row in range(5):
        worst = int(jnp.argmin(reward[row]))
        np.testing.assert_array_equal(found.tokens[row, 0], BATCH.tokens[row, worst])
        np.testing.assert_array_equal(found.logps["reference"][row, 0], BATCH.logps["reference"][row, worst])


@pytest.mark.parametrize(
    ("stage", "missing"),
    [
        (stages.win_rate_against, "preference"),
        (stages.verdict, "preference"),
        (stages.thumbs, "reward"),
        (stages.worst_first, "reward"),
    ],
)
def test_a_missing_field_is_named(stage: Callable[..., Batch], missing: str) -> None:
    with pytest.raises(ConfigError, match=f"needs batch.{missing}"):
        relabelled(stage, BATCH.replace(preference=None, reward=None))
