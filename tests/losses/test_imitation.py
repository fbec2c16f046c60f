"""Losses on graded completions: limits, invariances, extremes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses
from alignjax.config import ConfigError
from alignjax.types import Array, Batch
from tests.support.single_completions import completions, value
from tests.support.tiny import all_finite, as_jax, ragged


@pytest.fixture
def graded() -> tuple[Array, Batch]:
    batch = as_jax(ragged(rows=4, n=3))
    batch = batch.replace(
        mask=batch.valid * 1.0, reward=jnp.asarray(np.random.default_rng(1).permutation(12) * 0.5 - 3)
    )
    batch = batch.replace(reward=batch.reward.reshape(4, 3))
    return jnp.asarray(np.random.default_rng(2).normal(-2, 1, batch.tokens.shape)) * batch.mask, batch


def alone(logps: Array, batch: Batch, keep: Any) -> Array:
    """`sft` on some completions."""
    return value(losses.sft, logps, batch.replace(mask=batch.mask * jnp.asarray(keep)[..., None]))


def test_filtered_mle_is_sft_on_the_best(graded: Any, float64: None) -> None:
    logps, batch = graded
    check = {"rtol": 1e-6}
    np.testing.assert_allclose(value(losses.filtered_mle, logps, batch, fraction=1.0), value(losses.sft, logps, batch))
    np.testing.assert_allclose(
        value(losses.filtered_mle, logps, batch, threshold=-1e9), value(losses.sft, logps, batch)
    )
    for number in (1, 3, 6, 7):
        best = batch.reward >= jnp.sort(batch.reward.reshape(-1))[-number]
        for fraction in (number / 12, (number - 0.5) / 12):  # rounded up
            found = value(losses.filtered_mle, logps, batch, fraction=fraction)
            np.testing.assert_allclose(found, alone(logps, batch, best), **check)
    half = value(losses.filtered_mle, logps, batch, threshold=0.0)
    np.testing.assert_allclose(half, alone(logps, batch, batch.reward >= 0), **check)
    tied = batch.replace(reward=jnp.zeros((4, 3)))
    np.testing.assert_allclose(value(losses.filtered_mle, logps, tied, fraction=0.1), value(losses.sft, logps, batch))
    for options in ({}, {"threshold": 1.0, "fraction": 0.5}):
        with pytest.raises(ConfigError, match="exactly one"):
            value(losses.filtered_mle, logps, batch, **options)


def test_completions_that_are_not_there_have_no_rank(graded: Any) -> None:
    logps, batch = graded
    best = jnp.argmax(batch.reward.reshape(-1))
    keep = (jnp.arange(12) != best).reshape(4, 3)
    gone = batch.replace(mask=batch.mask * keep[..., None], reward=jnp.where(keep, batch.reward, jnp.nan))
    second = gone.reward == jnp.nanmax(gone.reward)
    for loss, hyper in (
        (losses.filtered_mle, {"fraction": 1 / 11}),
        (losses.reward_weighted_regression, {"beta": 1e-3}),
    ):
        np.testing.assert_allclose(value(loss, logps, gone, **hyper), alone(logps, batch, second), rtol=1e-5)


def test_limits_of_reward_weighted_regression(graded: Any, float64: None) -> None:
    logps, batch = graded
    hot = value(losses.reward_weighted_regression, logps, batch, beta=1e9)
    np.testing.assert_allclose(hot, value(losses.sft, logps, batch), rtol=1e-8)
    cold = value(losses.reward_weighted_regression, logps, batch, beta=1e-4)
    np.testing.assert_allclose(cold, alone(logps, batch, batch.reward == batch.reward.max()), rtol=1e-8)


def test_scale_and_shift_of_rewards(graded: Any, float64: None) -> None:
    """A constant added to all rewards changes no weight; a factor is a factor of beta; a filter sees ranks alone."""
    logps, batch = graded
    other = batch.replace(reward=4 * batch.reward + 1e3)
    one = value(losses.reward_weighted_regression, logps, batch, beta=0.5)
    np.testing.assert_allclose(value(losses.reward_weighted_regression, logps, other, beta=2.0), one, rtol=1e-9)
    one = value(losses.filtered_mle, logps, batch, fraction=0.3)
    np.testing.assert_allclose(value(losses.filtered_mle, logps, other, fraction=0.3), one, rtol=1e-12)


@pytest.mark.parametrize("beta", [1e-8, 1e8])
@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_no_reward_is_too_large(beta: float, scale: float, graded: Any) -> None:
    logps, batch = graded
    far = batch.replace(reward=(batch.reward * scale).astype(jnp.float32))
    found = jax.value_and_grad(lambda x: value(losses.reward_weighted_regression, x, far, beta=beta))(logps)
    assert all_finite(found)
    assert float(found[0]) > 0


# ----------------------------------------------------------------------------------------------------------------
# HIR


def instructed(match: Array, other: Array, batch: Batch) -> Any:
    """A context with a vocabulary of four and the given log-probs of the tokens, the rest shared evenly."""

    def score(name: str, of: Batch, read: Any = None) -> dict[str, Array]:
        token = match if of is batch else other
        rest = jnp.log1p(-jnp.exp(token)) - jnp.log(3)
        logits = jnp.where(jax.nn.one_hot(of.tokens, 4) == 1, token[..., None], rest[..., None])
        return {name: token} if read is None else read({name: logits}, of.tokens)

    return SimpleNamespace(score=score, state={})


def test_hir_is_sft_without_its_other_terms_and_prefers_the_matching_instruction(float64: None) -> None:
    logps, batch = completions([-1.0, -4.0, -2.5], [1, 1, 1])
    batch = batch.replace(prompts={"other": batch.prompt, "other_valid": batch.prompt_valid})

    def hir(match: Array, other: Array, **hyper: float) -> Array:
        return losses.hir(instructed(match, other, batch), batch, **hyper)[0].value()

    none = {"epsilon": 0.0, "contrast": 0.0, "entropy": 0.0}
    np.testing.assert_allclose(hir(logps, logps - 1, **none), value(losses.sft, logps, batch), rtol=1e-9)
    only = {"epsilon": 0.0, "entropy": 0.0}
    likely = value(losses.sft, logps, batch)
    np.testing.assert_allclose(hir(logps, logps, **only) - likely, np.log(2), rtol=1e-9)  # alike: a guess
    far = hir(logps, jnp.full_like(logps, -20.0), **only) - likely
    assert 0 <= far < 1e-4
    assert hir(logps, logps - 0.1, **only) < hir(logps, logps + 0.1, **only)
    even = jnp.full_like(logps, -jnp.log(4))  # a uniform policy: its entropy is ln 4, smoothing changes nothing
    for epsilon in (0.0, 0.5):
        bonus = hir(even, even, epsilon=epsilon, contrast=0.0, entropy=0.1)
        np.testing.assert_allclose(bonus, 0.9 * np.log(4), rtol=1e-9)
    # The contrast of two instructions is DPO on the pair of them, whose label is smoothed as a whole.
    both = jnp.concatenate([logps, logps - 0.7], axis=1)
    _, pair = completions(jnp.sum(both, axis=-1), [1, 1] * 3, n=2)
    half = jnp.full((3, 2, 2), 0.5)
    pair = pair.replace(preference=half.at[:, 0, 1].set(0.8).at[:, 1, 0].set(0.2))
    dpo = value(losses.dpo, both, pair, beta=1.0, reference=None, normalize="length")
    without, smoothed = (hir(logps, logps - 0.7, epsilon=0.2, contrast=c, entropy=0.0) for c in (0.0, 0.6))
    np.testing.assert_allclose(smoothed - without, 0.6 * dpo, rtol=1e-9)
    with pytest.raises(ConfigError, match="other_valid"):
        losses.hir(instructed(logps, logps, batch), batch.replace(prompts={}))
