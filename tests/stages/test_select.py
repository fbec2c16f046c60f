"""Stages that turn judged pairs into rewards, choose completions and prompts, and explore."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest

from alignjax import stages
from alignjax.config import ConfigError
from alignjax.types import Batch, Context
from tests.support.tiny import as_jax, context_of, model, parameters, ragged, run

KEY = jax.random.key(0)


def batch_with(n: int = 4, **fields: Any) -> Batch:
    return ragged(n=n).replace(**fields)


# ---------------------------------------------------------------------------------------------------- win rates


def test_win_rates_of_all_are_the_mean_over_others() -> None:
    batch = batch_with()
    ours, _ = run(stages.win_rate_against, Context(), batch, KEY)
    for i in range(4):
        others = batch.preference[:, i, np.array([j for j in range(4) if j != i])]
        np.testing.assert_allclose(ours.reward[:, i], others.mean(-1), rtol=1e-6)
    np.testing.assert_array_equal(ours.completions["weight"], 1)
    np.testing.assert_allclose(np.mean(ours.reward, axis=1), 0.5, rtol=1e-6)  # of a constant-sum game


def test_win_rates_against_opponents_leave_the_opponents_out() -> None:
    batch = batch_with()
    ours, _ = run(stages.win_rate_against, Context(), batch, KEY, own=2)
    np.testing.assert_allclose(ours.reward, batch.preference[:, :2, 2:].mean(-1), rtol=1e-6)
    np.testing.assert_array_equal(ours.tokens, batch.tokens[:, :2])
    assert ours.preference.shape == (4, 2, 2)
    for own in (0, 4):
        with pytest.raises(ConfigError, match="no opponents"):
            stages.win_rate_against(Context(), batch, KEY, own=own)
    with pytest.raises(ConfigError, match="needs batch\\.preference"):
        stages.win_rate_against(Context(), batch.replace(preference=None), KEY)


def test_unlabelled_pairs_say_nothing_about_a_win_rate() -> None:
    """Even if what stands there is NaN; a completion that nothing is known of has weight 0."""
    weight = np.ones((4, 4, 4))
    weight[:, 0, 3] = weight[:, 3, 0] = weight[:, 1, 2:] = weight[:, 2:, 1] = 0
    batch = batch_with(pair_weight=weight)
    batch = batch.replace(preference=np.where(weight == 0, np.nan, batch.preference))
    ours, _ = run(stages.win_rate_against, Context(), batch, KEY, own=2)
    np.testing.assert_allclose(ours.reward[:, 0], batch.preference[:, 0, 2], rtol=1e-6)
    np.testing.assert_array_equal(ours.reward[:, 1], 0.5)
    np.testing.assert_array_equal(ours.completions["weight"], [[0.5, 0.0]] * 4)
    assert not np.any(ours.pair_weight[:, 0, 1])


def test_preferences_by_reward_sum_to_one_and_follow_the_order() -> None:
    reward = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    p = run(stages.prefer_by_reward, Context(), batch_with(reward=reward), KEY, scale=2.0).preference
    np.testing.assert_array_equal(p + p.swapaxes(1, 2), 1)
    np.testing.assert_array_equal(p > 0.5, reward[:, :, None] > reward[:, None, :])
    odds = np.log(p[:, 0, 1] / p[:, 1, 0])
    np.testing.assert_allclose(odds, 2 * (reward[:, 0] - reward[:, 1]), rtol=1e-4)


# ------------------------------------------------------------------------------------------------------ choices


def test_the_best_and_the_worst_and_what_is_kept() -> None:
    reward = np.array([[0.1, 0.9, 0.5, 0.2], [0.5, 0.5, 0.5, 0.5], [3, 2, 1, 0], [0, 1, 1, 0]], float)
    batch = batch_with(reward=reward)
    out = run(stages.best_and_worst, Context(), batch, KEY, keep=(-1,))
    index = np.array([[1, 0, 3], [0, 3, 3], [0, 3, 3], [1, 3, 3]])
    np.testing.assert_array_equal(out.tokens, np.take_along_axis(np.asarray(batch.tokens), index[..., None], 1))
    np.testing.assert_array_equal(out.preference[:, 0, 1], batch.preference[np.arange(4), index[:, 0], index[:, 1]])


def test_ranks_are_in_order_and_gaps_are_weights() -> None:
    batch = batch_with(reward=np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32))
    out = run(stages.ranked, Context(), batch, KEY)
    assert np.all(np.diff(out.reward) <= 0)
    weight = run(stages.gap_weights, Context(), out, KEY).pair_weight
    np.testing.assert_allclose(weight[:, 0, 3], weight[:, 0, 1] + weight[:, 1, 2] + weight[:, 2, 3], rtol=1e-5)
    np.testing.assert_array_equal(weight, weight.swapaxes(1, 2))
    halved = run(stages.gap_weights, Context(), out.replace(pair_weight=np.full((4, 4, 4), 0.5)), KEY).pair_weight
    np.testing.assert_allclose(halved, weight / 2, rtol=1e-6)
    with pytest.raises(ConfigError, match=r"needs batch\.reward"):
        stages.ranked(Context(), batch.replace(reward=None), KEY)


@pytest.mark.parametrize("stands", [0.0, -9.0])
def test_of_whom_nothing_is_known_is_neither_best_nor_worst(stands: float) -> None:
    """The extremes of the others, whether its reward would be the highest or the lowest; of one alone, it twice."""
    reward = -1 - np.random.default_rng(3).random((4, 4)).astype(np.float32)
    batch = batch_with(reward=reward)
    expected = run(stages.best_and_worst, Context(), batch.pick(np.array([[0, 2, 3]] * 4)), KEY)
    reward[:, 1] = stands
    unknown = batch_with(reward=reward, completions={"weight": np.array([[0.5, 0, 1, 0.2]] * 4, np.float32)})
    found = run(stages.best_and_worst, Context(), unknown, KEY)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    alone = batch_with(reward=reward, completions={"weight": np.array([[0, 0, 0.5, 0]] * 4, np.float32)})
    found = run(stages.best_and_worst, Context(), alone, KEY)
    np.testing.assert_array_equal(found.tokens, np.asarray(alone.tokens)[:, [2, 2]])


def test_of_whom_nothing_is_known_comes_last_whatever_its_reward_holds() -> None:
    """A prompt without its completion 1 has the best of the others, though 0, which stands there, is above them all."""
    reward = -1 - np.random.default_rng(2).random((4, 4)).astype(np.float32)
    batch = batch_with(reward=reward)
    some = batch.pick(np.array([[0, 2, 3]] * 4))
    reward[:, 1] = 0
    unknown = batch_with(reward=reward, completions={"weight": np.array([[0.5, 0, 1, 0.2]] * 4, np.float32)})
    found, expected = (run(stages.ranked, Context(), each, KEY) for each in (unknown, some))
    np.testing.assert_array_equal(found.tokens[:, :3], expected.tokens)
    assert np.all(found.completions["weight"][:, 3] == 0)


# -------------------------------------------------------------------------------------------------- exploration


def test_labels_go_to_the_prompt_whose_best_answer_is_least_certain() -> None:
    valid = np.ones((4, 3, 1), bool)
    batch = Batch(
        prompt=np.zeros((4, 1), int), tokens=np.zeros((4, 3, 1), int), valid=valid, mask=valid * 1.0,
        example_id=np.arange(4), logps={"reference": np.zeros((4, 3, 1))},
    )  # fmt: skip
    middle = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 5.0], [0.0, 0.0, 0.0]])
    spread = np.array([[0.1, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    batch = batch.with_logps(m0=(middle + spread)[..., None], m1=(middle - spread)[..., None])

    def weight(count: int, key: Any = KEY, **more: Any) -> np.ndarray:
        ask = {"count": count, "members": ("m0", "m1"), "beta": 1.0, **more}
        return np.asarray(run(stages.active_pairs, Context(), batch, key, **ask)[0].pair_weight)

    one = weight(1)
    assert one[1].sum() == 2  # UCB of its second is 3, LCB of its first 1: nobody else is 2 apart
    assert one.sum() == 2
    assert one[1, 1].sum() == 1  # the optimistic answer is in the pair
    two = weight(2)
    assert two[1].sum() == two[0].sum() == 2
    rivals = {tuple(np.argwhere(weight(1, jax.random.key(k))[1, 1]).ravel()) for k in range(20)}
    assert rivals == {(0,), (2,)}  # against any other
    with pytest.raises(ConfigError, match="active_pairs"):
        weight(5)


def uncertain(middle: Any, spread: Any) -> Batch:
    """Completions of one token; rewards of members "m0" and "m1" around `middle` by `spread`, relative to a reference
    that is 0."""
    middle, spread = (np.asarray(part, float) for part in (middle, spread))
    valid = np.ones((*middle.shape, 1), bool)
    batch = Batch(
        prompt=np.zeros((len(middle), 1), int), tokens=np.zeros(valid.shape, int), valid=valid, mask=valid * 1.0,
        example_id=np.arange(len(middle)), logps={"reference": np.zeros(valid.shape)},
    )  # fmt: skip
    return batch.with_logps(m0=(middle + spread)[..., None], m1=(middle - spread)[..., None])


def labelled(batch: Batch, key: Any = KEY, **hyper: Any) -> list[tuple[int, ...]]:
    """(prompt, smaller, larger number) of the pairs that one label is spent on."""
    ask = {"count": 1, "members": ("m0", "m1"), "beta": 1.0, **hyper}
    out, _ = run(stages.active_pairs, Context(), batch, key, **ask)
    assert out.pair_weight is not None
    return [tuple(found) for found in np.argwhere(np.triu(out.pair_weight)).tolist()]


def test_bounds_lie_two_deviations_from_the_mean() -> None:
    """As in the authors' code; at one deviation the other prompt is the less certain one."""
    batch = uncertain([[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.95], [0.2, 0.2]])
    assert labelled(batch)[0][0] == 0
    assert labelled(batch, width=1.0)[0][0] == 1


def test_borda_scores_are_bounded_and_their_rivals_are_the_references() -> None:
    """The last two are the reference's. Prompt 0: a sample that may be better or worse than they are. Prompt 1: one
    whose reward is much less certain, but that beats them for sure. Prompt 2: less certain too, but a rival's."""
    middle = [[0.0, -1.0, 0.0, 0.0], [10.0, 0.0, 0.0, 0.0], [9.0, 0.0, 0.0, 0.0]]
    spread = [[1.0, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 3.0]]
    batch = uncertain(middle, spread)
    assert labelled(batch)[0][0] == 1
    pairs = {labelled(batch, jax.random.key(k), rivals=2)[0] for k in range(20)}
    assert pairs == {(0, 0, 2), (0, 0, 3)}
    # One deviation of one nat, the sample's or the rival's, and an expected reward of 0: S(1) less S(-1).
    for spread in ([[1.0, 0.0]], [[0.0, 1.0]]):
        one = uncertain([[0.0, 0.0]], spread)
        ask = {"count": 1, "members": ("m0", "m1"), "beta": 1.0, "width": 1.0, "rivals": 1}
        _, seen = run(stages.active_pairs, Context(), one, KEY, **ask)
        assert float(seen["uncertainty"].value()) == pytest.approx(np.tanh(0.5), rel=1e-5)
    for rivals in (0, 4):
        with pytest.raises(ConfigError, match=f"rivals={rivals}"):
            stages.active_pairs(Context(), batch, KEY, count=1, members=("m0", "m1"), beta=1.0, rivals=rivals)


def test_bootstrap_weights_have_mean_one_and_differ_between_members() -> None:
    batch = Batch(prompt=np.zeros((4000, 1), int), example_id=np.arange(4000))
    weight = np.asarray(run(stages.bootstrap, Context(), batch, KEY, members=2).prompts["bootstrap"])
    assert weight.shape == (4000, 2)
    assert weight.min() >= 0
    # An exponential distribution: mean 1 and variance 1, within four standard errors (of the variance: sqrt(8 / n)).
    np.testing.assert_allclose(weight.mean(0), 1, atol=4 / np.sqrt(4000))
    np.testing.assert_allclose(weight.var(0), 1, atol=4 * np.sqrt(8 / 4000))
    assert abs(np.corrcoef(weight.T)[0, 1]) < 4 / np.sqrt(4000)


# --------------------------------------------------------------------------------------------------- annotators


def test_an_annotator_has_no_favourite_place() -> None:
    network = model(layers=1)
    there = context_of(network, annotator=parameters(network))
    batch = as_jax(ragged(n=3))

    @functools.partial(jax.jit, static_argnames=("verdicts", "question"))
    def _asked(batch: Batch, verdicts: tuple[int, int], question: tuple[int, ...]) -> Any:
        return stages.annotator(there, batch, KEY, verdicts=verdicts, separator=3, question=question)

    def asked(batch: Batch, verdicts: tuple[int, int] = (4, 5), question: tuple[int, ...] = (6, 7)) -> np.ndarray:
        return np.asarray(_asked(batch, verdicts, question))

    p = asked(batch)
    np.testing.assert_array_equal(p + p.swapaxes(1, 2), 1)
    order = np.broadcast_to(np.array([2, 0, 1]), (4, 3))
    np.testing.assert_allclose(asked(batch.pick(order)), p[:, [2, 0, 1]][:, :, [2, 0, 1]], atol=1e-5)
    other = asked(batch, verdicts=(5, 4))
    np.testing.assert_allclose(other, 1 - p, atol=1e-6)
    assert np.abs(p - 0.5).max() > 1e-3
    assert np.abs(asked(batch, question=()) - p).max() > 1e-4
    with pytest.raises(ConfigError, match="same token"):
        stages.annotator(there, batch, KEY, verdicts=(4, 4))


def test_overlap_counts_shared_tokens() -> None:
    tokens = np.array([[[4, 5, 5, 6], [5, 4, 6, 5], [7, 7, 7, 7], [5, 9, 9, 9]]])
    valid = np.ones((1, 4, 4), bool)
    valid[0, 3, 2:] = False
    out = run(stages.overlap, Context(), Batch(tokens=tokens, valid=valid), KEY, vocab=10)
    np.testing.assert_allclose(out.completions["quality"], [[1, 1, 0, 2 / 6]], rtol=1e-6)


def test_a_rewritten_prompt_is_a_prompt() -> None:
    network = model(layers=1)
    there = context_of(network, rewriter=parameters(network))
    batch = as_jax(ragged(n=1))
    out, _ = stages.rewrite(there, batch, KEY, count=2, stop=(2,))
    np.testing.assert_array_equal(out.prompt[2:], batch.prompt[2:])
    assert np.all(np.diff(out.prompt_valid.astype(int), axis=1) >= 0)  # padded on the left
    changed = np.asarray(out.example_id != batch.example_id)
    np.testing.assert_array_equal(changed[2:], False)
    for row in np.flatnonzero(changed):
        assert not np.array_equal(out.prompt[row], batch.prompt[row])
    assert changed.any()


def test_completions_of_a_view_are_those_that_were_named() -> None:
    batch = batch_with(reward=np.arange(16.0).reshape(4, 4))
    view = run(stages.into_view, Context(), batch, KEY, view="own", completions=(1, 3)).views["own"]
    np.testing.assert_array_equal(view.tokens, batch.tokens[:, [1, 3]])
    np.testing.assert_array_equal(view.reward, batch.reward[:, [1, 3]])
    np.testing.assert_array_equal(view.prompt, batch.prompt)
    with pytest.raises(ConfigError, match="4 completions"):
        stages.into_view(Context(), batch, KEY, view="own", completions=(4,))
