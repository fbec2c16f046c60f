"""Completions of which nothing is known: losses of rewards leave them out, and count the others by their weight."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses, stages
from alignjax.config import Fn, fn
from alignjax.types import Array, Batch, Context
from tests.support.tiny import as_numpy, ragged, run

pytestmark = pytest.mark.usefixtures("float64")
KEY = jax.random.key(0)

# On any number of completions of a prompt; `sum` of single completions, each by its weight.
SINGLE: dict[str, Fn] = {
    "kto": fn(losses.kto, beta=0.4, lam_desirable=1.3),
    "apo_zero_unpaired": fn(losses.apo_zero_unpaired, beta=0.4),
    "pointwise_dpo": fn(losses.pointwise_dpo, beta=0.4, shift=0.3),
    "bco": fn(losses.bco, shift=None),
    "ulma": fn(losses.ulma, beta=0.4, lam=0.7),
    "ulma_pooled": fn(losses.ulma, beta=0.4, pooled=True),
    "prompt_classifier": fn(losses.prompt_classifier),
    "filtered_mle": fn(losses.filtered_mle, threshold=0.4),
    "reward_weighted_regression": fn(losses.reward_weighted_regression, beta=0.3),
    "hir": fn(losses.hir, entropy=0.2),
    "reinforce": fn(losses.reinforce, tau=0.3, reference="reference"),
}
# What compares the completions of a prompt, or of the batch.
TOGETHER: dict[str, Fn] = {
    "filtered_mle_fraction": fn(losses.filtered_mle, fraction=0.4),
    "d2o": fn(losses.d2o, alpha=0.2, beta=0.3),
    "reinforce_left_out": fn(losses.reinforce, tau=0.3, leave_one_out=True),
    "reinforce_standardized": fn(losses.reinforce, tau=0.3, standardized=True),
    "sppo": fn(losses.sppo, eta=2.0, reference="reference"),
    "sppo_all": fn(losses.sppo, eta=2.0, completions="all", reference="reference"),
    "rrhf": fn(losses.rrhf),  # other losses of lists: test_ranking.py
}


def given(rows: int, n: int) -> tuple[Array, Batch]:
    """Log-probs [B,N,T] of the policy, and a batch of which every completion has a token that counts."""
    batch = jax.tree.map(lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, ragged(rows=rows, n=n))
    mask = batch.mask.copy()
    mask[..., 0] = batch.valid[..., 0] = True
    draw = np.random.default_rng(3)
    batch = batch.replace(mask=mask, reward=draw.random((rows, n)))
    return -0.2 - draw.random(batch.tokens.shape), batch.replace(
        prompts={"other": batch.prompt, "other_valid": batch.prompt_valid}
    )


def evaluated(loss: Fn, logps: Any, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Value and gradient by the policy's log-probs; under another prompt they are halved."""
    return as_numpy(_evaluated(loss, as_numpy(logps), as_numpy(batch)))


@jax.jit
def _evaluated(loss: Fn, logps: Array, batch: Batch) -> tuple[Array, Array]:
    def value(logps: Array) -> Array:
        def score(names: Any, of: Batch, read: Any = None) -> dict[str, Array]:
            if isinstance(names, tuple):  # kto: completions under the prompt of the next row
                return {"policy": jnp.roll(logps, 1, axis=0) / 2, "reference": jnp.full(logps.shape, -2.0)}
            if read is None:
                return {names: logps if of is batch else logps / 2}
            rest = jnp.log1p(-jnp.exp(logps)) - jnp.log(3)
            picked = jax.nn.one_hot(of.tokens % 4, 4) == 1
            return read({names: jnp.where(picked, logps[..., None], rest[..., None])}, of.tokens % 4)

        return loss(SimpleNamespace(score=score, state={}), batch)[0].value()

    return jax.value_and_grad(value)(logps)


@pytest.mark.parametrize("name", [*SINGLE, *TOGETHER])
def test_a_completion_of_weight_0_is_as_one_without_tokens(name: str) -> None:
    """Whatever its tokens and its reward are."""
    loss = (SINGLE | TOGETHER)[name]
    logps, batch = given(4, 3)
    known = np.ones((4, 3))
    known[[0, 1, 3], [1, 2, 1]] = 0
    reward = np.where(known != 0, batch.reward, np.nan)
    unjudged = batch.replace(reward=reward, completions={**batch.completions, "weight": known})
    empty = batch.replace(reward=reward, mask=batch.mask * known[..., None])
    (value, slope), (expected, expected_slope) = (evaluated(loss, logps, b) for b in (unjudged, empty))
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-12, atol=1e-15)
    assert not np.any(slope[known == 0])
    assert np.abs(slope).max() > 1e-3
    whole, _ = evaluated(loss, logps, batch.replace(reward=np.where(known != 0, batch.reward, 1.0)))
    assert abs(float(whole - value)) > 1e-6


@pytest.mark.parametrize("name", SINGLE)
def test_half_a_weight_counts_half(name: str) -> None:
    """Two completions of weights 1 and 1/2 are the first twice and the second once."""
    logps, batch = given(2, 1)
    batch = batch.replace(reward=np.array([[0.9], [0.45]]))
    weighed = batch.replace(completions={"weight": np.array([[1.0], [0.5]])})
    rows = np.array([0, 0, 1])
    value, slope = evaluated(SINGLE[name], logps, weighed)
    expected, repeated = evaluated(SINGLE[name], logps[rows], batch.take(rows))
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(slope, np.stack([repeated[0] + repeated[1], repeated[2]]), rtol=1e-12, atol=1e-15)


def test_one_label_of_six_says_something_of_two_completions() -> None:
    """From the label of a pair to thumbs: the other two of four completions are neither good nor bad, and no loss of
    thumbs moves them."""
    logps, batch = given(3, 4)
    asked, sure = np.zeros((3, 4, 4)), np.full((3, 4, 4), np.nan)
    asked[:, 0, 1] = asked[:, 1, 0] = sure[:, 0, 1] = 1
    sure[:, 1, 0] = 0
    labeled = batch.replace(preference=sure, pair_weight=asked, completions={})
    for threshold, up in ((0.5, [1, 0]), (1.0, [0.5, 0])):
        rated, _ = run(stages.win_rate_against, Context(), labeled, KEY)
        judged, metrics = run(stages.thumbs, Context(), rated, KEY, threshold=threshold)
        np.testing.assert_array_equal(judged.reward, np.tile([*up, 0.5, 0.5], (3, 1)))
        np.testing.assert_allclose(metrics["thumbs_up"].value(), np.mean(up))
    rated, _ = run(stages.win_rate_against, Context(), labeled, KEY)
    judged, _ = run(stages.thumbs, Context(), rated, KEY)
    for name in ("kto", "pointwise_dpo", "ulma", "bco"):
        _, slope = evaluated(SINGLE[name], logps, judged)
        assert not np.any(slope[:, 2:])
        assert np.all(slope.sum(-1)[:, :2] * [-1, 1] > 0)
    last = run(stages.worst_first, Context(), rated, KEY)
    np.testing.assert_array_equal(last.reward, np.tile([0, 1, 0.5, 0.5], (3, 1)))


def test_a_win_rate_that_nobody_knows_moves_no_pair() -> None:
    """The regression onto win rates leaves pairs out of which a side was not judged, NaN or not."""
    logps, batch = given(4, 3)
    known = np.ones((4, 3))
    known[:, 2] = 0
    reward = np.where(known != 0, batch.reward, np.nan)
    unjudged = batch.replace(reward=reward, completions={"weight": known})
    found = evaluated(fn(losses.egpo, tau=0.3, pairs=((0, 1), (1, 2), (0, 2))), logps, unjudged)
    expected = evaluated(fn(losses.egpo, tau=0.3, pairs=((0, 1),)), logps, batch)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-12, atol=1e-15)


def test_texts_are_not_imitated_under_a_reward_that_nobody_knows() -> None:
    _, batch = given(2, 3)
    known = np.array([[1.0, 0.0, 0.5], [1.0, 1.0, 0.0]])
    reward = np.where(known != 0, batch.reward, np.nan)
    unjudged = batch.replace(reward=reward, completions={"weight": known})
    goals = {"edges": (0.5,), "goals": ((4,), (5,))}
    rows = run(stages.condition_on_reward, Context(), unjudged, KEY, **goals)
    np.testing.assert_array_equal(rows.mask[:, 0].any(-1), known.reshape(-1) != 0)
    pairs = run(stages.goal_pairs, Context(), unjudged, KEY, **goals)
    counts = np.asarray(pairs.pair_weight).reshape(2, 3, 3, 3)
    for row, column in ((0, 1), (1, 2)):
        assert not counts[row, column].any()  # no goal of its own
        assert not counts[row, :, column].any()  # and no side
