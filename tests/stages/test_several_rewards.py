"""One reward of several reward models: by enumeration, and by recovery of a truth that members see with noise."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import stages
from alignjax.config import ConfigError
from alignjax.evaluate.intervals import interval
from alignjax.types import Batch, Context
from tests.support.tiny import run

KEY = jax.random.key(0)


def judged(**scores: Any) -> tuple[Context, Batch]:
    """A context of reward models that say `scores` [B,N] after the first token, and completions of one token."""
    heads = {
        f"{role}:reward": jnp.stack([jnp.asarray(each), jnp.full_like(each, 9.0)], -1) for role, each in scores.items()
    }
    shape = np.shape(next(iter(heads.values())))
    valid = jnp.broadcast_to(jnp.array([True, False]), shape)
    return Context(score=lambda outputs, batch, read=None: {outputs: heads[outputs]}), Batch(valid=valid)


def test_an_ensemble_is_its_mean_less_what_its_members_disagree_by() -> None:
    draw = np.random.default_rng(0)
    one, other = draw.normal(size=(2, 3, 4)).astype(np.float32)
    context, batch = judged(a=one, b=other)
    batch = batch.replace(completions={"weight": jnp.zeros((3, 4))})  # of an earlier reward, which is none now
    filled, metrics = stages.ensemble_reward(context, batch, KEY, roles=("a", "b"), pessimism=1.0)
    np.testing.assert_allclose(filled.reward, np.minimum(one, other), rtol=1e-5)  # a std of two is half their gap
    assert "weight" not in filled.completions
    np.testing.assert_allclose(metrics["disagreement"].value(), np.abs(one - other).mean() / 2, rtol=1e-5)
    alike, _ = stages.ensemble_reward(context, batch, KEY, roles=("a", "a", "a"), pessimism=3.0)
    np.testing.assert_allclose(alike.reward, one, rtol=1e-5)
    with pytest.raises(ConfigError, match="names no reward model"):
        stages.ensemble_reward(context, batch, KEY, roles=())


def test_pessimism_picks_what_is_better_in_truth() -> None:
    """Three members see a planted truth, with little noise on half of the completions and with much on the others, as
    out of what they learned from. The best of 8 by the mean is often one that noise lifted; by the bound it is not."""
    draw = np.random.default_rng(1)
    truth = draw.normal(size=(400, 8))
    noise = np.where(np.arange(8) % 2, 0.1, 3.0) * draw.normal(size=(3, 400, 8))
    context, batch = judged(
        **{name: (truth + each).astype(np.float32) for name, each in zip("abc", noise, strict=True)}
    )

    def picked(pessimism: float) -> np.ndarray:
        filled, _ = stages.ensemble_reward(context, batch, KEY, roles=("a", "b", "c"), pessimism=pessimism)
        return np.take_along_axis(truth, np.argmax(filled.reward, 1)[:, None], 1)[:, 0]

    gain = interval(picked(1.0) - picked(0.0))
    assert gain["low"] > 0.1


def test_the_log_sigmoid_of_rewards_is_the_probability_that_all_is_good() -> None:
    """Enumerated over the outcomes of independent respects, each good with probability S(r - q)."""
    draw = np.random.default_rng(2)
    scores = {name: draw.normal(size=(2, 5)).astype(np.float32) for name in ("a", "b", "c")}
    context, batch = judged(**scores)
    filled, metrics = stages.log_sigmoid_reward(context, batch, KEY, roles=("a", "b", "c"), quantile=0.6)
    good = [1 / (1 + np.exp(np.quantile(each, 0.6, axis=1)[:, None] - each)) for each in scores.values()]
    outcomes = {
        sides: np.prod([p if side else 1 - p for side, p in zip(sides, good, strict=True)], axis=0)
        for sides in itertools.product((False, True), repeat=3)
    }
    np.testing.assert_allclose(sum(outcomes.values()), 1, rtol=1e-5)
    np.testing.assert_allclose(np.exp(filled.reward), outcomes[True, True, True], rtol=1e-4)
    np.testing.assert_allclose(metrics["good"].value(), outcomes[True, True, True].mean(), rtol=1e-4)


def test_a_log_sigmoid_reward_knows_no_zero_and_tends_to_the_reward_below() -> None:
    scores = np.random.default_rng(3).normal(size=(2, 5)).astype(np.float32)
    context, batch = judged(reward=scores)
    plain, _ = stages.log_sigmoid_reward(context, batch, KEY)
    moved, _ = stages.log_sigmoid_reward(judged(reward=scores + np.array([[5.0], [-3.0]], np.float32))[0], batch, KEY)
    np.testing.assert_allclose(plain.reward, moved.reward, atol=1e-5)
    assert np.array_equal(np.argsort(plain.reward, 1), np.argsort(scores, 1))
    far = batch.replace(prompts={"good_reward": jnp.array([30.0, -30.0])})
    reward = stages.log_sigmoid_reward(context, far, KEY)[0].reward
    np.testing.assert_allclose(reward[0], scores[0] - 30, rtol=1e-5)
    np.testing.assert_allclose(reward[1], 0, atol=1e-6)


def graded() -> Batch:
    """Scores from -2 to 2 of completions, each with every pair of two aspects, of which one is not known."""
    score, fluent, true = np.meshgrid(np.linspace(-2, 2, 41), (-3.0, 0.5, 4.0), (-1.0, 2.0, np.nan), indexing="ij")
    rows = lambda leaf: leaf.reshape(41, 9).T.astype(np.float32)  # noqa: E731
    filed = {"reward:fluent": rows(fluent), "reward:true": rows(true)}
    weights = {f"weight:{name[7:]}": np.isfinite(leaf).astype(np.float32) for name, leaf in filed.items()}
    valid = np.ones((9, 41, 1), bool)
    return Batch(valid=valid, mask=valid * np.float32(1), reward=rows(score), completions={**filed, **weights})


def test_aspects_count_where_the_whole_is_good_and_passing_is_never_a_loss() -> None:
    """On a grid: below the threshold the order is the holistic one, above it the log-odds of what an aspect adds are
    the aspect, and the reward rises with the score all the way. Aspects that are not squashed break that."""
    batch, names = graded(), ("fluent", "true")
    both = batch.completions["weight:true"] != 0

    def of(**hyper: Any) -> tuple[np.ndarray, Any]:
        made, metrics = run(
            stages.hierarchical_reward, Context(), batch, KEY, aspects=names,
            **{"mean": 0.2, "deviation": 0.5, "weight": 3.0, "threshold": 0.62, **hyper},
        )  # fmt: skip
        np.testing.assert_array_equal(made.completions["weight"], both)
        assert np.all(made.reward[~both] == 0)
        return made.reward, metrics

    plain = 3 * (batch.reward - 0.2) / 0.5
    reward, metrics = of()
    passed = batch.reward > 0.2 + 0.5 * 0.62
    np.testing.assert_allclose(reward[both & ~passed], plain[both & ~passed], rtol=1e-5)
    one, _ = run(
        stages.hierarchical_reward, Context(), batch, KEY, aspects=("fluent",), mean=0.2, deviation=0.5, weight=3.0
    )
    added = np.where(both & passed, reward - one.reward, 0.5)
    np.testing.assert_allclose(
        np.log(added / (1 - added))[both & passed], batch.completions["reward:true"][both & passed], atol=2e-4
    )
    rows = both.all(-1)
    assert np.all(np.diff(reward[rows], axis=-1) > 0)
    assert np.any(np.diff(of(squash=False)[0][rows], axis=-1) < 0)
    np.testing.assert_allclose(of(threshold=1e3)[0][both], plain[both], rtol=1e-5)
    assert metrics["passed"].value() == pytest.approx(passed.mean(), rel=1e-5)
    assert metrics["aspect_true"].value() == pytest.approx(0.5, rel=1e-5)
