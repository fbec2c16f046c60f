"""Stages that turn judged samples into what families of losses read."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import games, stages
from alignjax.config import ConfigError, Fn, fn
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


def test_two_are_rated_by_the_same_others_and_not_by_their_own_pair() -> None:
    """Whatever was said of the pair itself; of three completions the third alone rates two; p and 1 - p sum to 1."""
    assert BATCH.preference is not None
    label = relabelled(stages.prefer_by_rivals, BATCH).preference
    assert label is not None
    np.testing.assert_array_equal(label + label.swapaxes(1, 2), 1)
    turned = BATCH.preference.at[:, 0, 2].set(0.9).at[:, 2, 0].set(0.1)
    other = relabelled(stages.prefer_by_rivals, BATCH.replace(preference=turned)).preference
    assert other is not None
    np.testing.assert_array_equal(other[:, 0, 2], label[:, 0, 2])
    assert np.abs(other[:, 0, 1] - label[:, 0, 1]).max() > 1e-3
    three = BATCH.pick(jnp.tile(jnp.array([3, 0, 1]), (5, 1)))
    of_three = relabelled(stages.prefer_by_rivals, three, scale=2.0)
    assert of_three.preference is not None
    assert three.preference is not None
    odds = np.log(of_three.preference[:, 0, 1] / of_three.preference[:, 1, 0])
    np.testing.assert_allclose(odds, 2 * (three.preference[:, 0, 2] - three.preference[:, 1, 2]), atol=1e-6)
    with pytest.raises(ConfigError, match="no third"):
        relabelled(stages.prefer_by_rivals, BATCH.pick(jnp.tile(jnp.array([0, 1]), (5, 1))))


def test_rivals_whom_nobody_compared_with_both_do_not_rate() -> None:
    """Asked: 0 and 1 against 2, 0 against 3. So 2 alone rates 0 and 1, nobody 1 and 3, and 0 rates 2 and 3."""
    assert BATCH.preference is not None
    weight = jnp.zeros((5, N, N)).at[:, 0, 2].set(0.5).at[:, 2, 1].set(0.8).at[:, 0, 3].set(1.0)
    known = (weight + weight.swapaxes(1, 2)) > 0
    partly = BATCH.replace(preference=jnp.where(known, BATCH.preference, jnp.nan), pair_weight=weight)
    found = relabelled(stages.prefer_by_rivals, partly)
    whole = BATCH.preference
    assert found.preference is not None
    assert found.pair_weight is not None
    np.testing.assert_allclose(found.pair_weight[0, 0], [0, 0.2, 0, 0], atol=1e-7)
    np.testing.assert_allclose(found.pair_weight[0, 3], [0, 0, 0.25, 0], atol=1e-7)
    odds = np.log(found.preference[:, 0, 1] / found.preference[:, 1, 0])
    np.testing.assert_allclose(odds, whole[:, 0, 2] - whole[:, 1, 2], atol=1e-6)
    np.testing.assert_array_equal(found.preference[:, 1, 3], 0.5)


def test_labels_by_rivals_have_the_expectation_of_dnos() -> None:
    """On an uneven rock-paper-scissors, all draws of the two others of four enumerated: the label of a pair is that of
    win rates against the whole policy but for the bend of S. Rated by all others, two of the three would turn round."""
    policy = np.array([0.4, 0.35, 0.25])
    game = games.rock_paper_scissors(policy, 0.1, strength=(0.5, 0.45, 0.4))
    rate = game.preference @ policy
    others = np.array(list(itertools.product(range(3), repeat=2)))
    share = policy[others].prod(1)

    def label(stage: Fn, i: int, j: int) -> float:
        drawn = np.concatenate([np.tile([i, j], (len(others), 1)), others], axis=1)
        preference = jnp.asarray(game.preference[drawn[:, :, None], drawn[:, None, :]], jnp.float32)
        batch, _ = with_metrics(stage(Context(), Batch(preference=preference), KEY))
        return float(share @ np.asarray(batch.preference)[:, 0, 1])

    naive = fn(stages.chain, stages=(fn(stages.win_rate_against), fn(stages.prefer_by_reward)))
    turned = 0
    for i, j in itertools.combinations(range(3), 2):
        wanted = 1 / (1 + np.exp(rate[j] - rate[i]))
        ours = label(fn(stages.prefer_by_rivals), i, j)
        assert ours == pytest.approx(wanted, abs=0.003)
        assert (ours > 0.5) == (wanted > 0.5)
        turned += (label(naive, i, j) > 0.5) != (wanted > 0.5)
    assert turned == 2


def test_thumbs_are_up_above_the_threshold_and_counted() -> None:
    rewards = jnp.tile(jnp.array([0.2, 0.5, 0.6, 0.9]), (5, 1))
    for threshold, up in ((0.5, [0, 0.5, 1, 1]), (0.1, [1, 1, 1, 1]), (0.9, [0, 0, 0, 0.5])):
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
